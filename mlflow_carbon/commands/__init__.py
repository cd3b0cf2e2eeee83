"""The commands of `mlflow-carbon`, one a file: each parses, calls and prints."""
