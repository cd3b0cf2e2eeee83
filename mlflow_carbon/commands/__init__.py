"""The commands of ``mlflow-carbon``, one a file."""
