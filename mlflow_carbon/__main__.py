"""``python -m mlflow_carbon`` and the ``mlflow-carbon`` command."""

from mlflow_carbon.cli import cli


def main() -> None:
    """Runs the command line and ends the process with its exit code."""
    cli(prog_name="mlflow-carbon")


if __name__ == "__main__":
    main()
