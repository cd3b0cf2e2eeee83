"""The networks: how they are built, trained, sampled and judged. Knows no MLflow."""
