"""A meter's readings on their way into an MLflow run."""
