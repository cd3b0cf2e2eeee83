"""The commands as MLflow runs and models."""
