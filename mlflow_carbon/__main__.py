"""``python -m mlflow_carbon`` and the ``mlflow-carbon`` command."""

import os
import sys

from mlflow_carbon.cli import cli


def main() -> None:
    """Runs the command line and ends the process with its exit code.

    What cannot be written is an error, without a traceback: a full disk, or a stdout that was
    closed before the start.
    """
    if sys.stdout is None:
        sys.exit("Error: stdout is closed, so the result has nowhere to go. Redirect it to a file.")
    try:
        cli(prog_name="mlflow-carbon")
    except OSError as error:
        _drop(sys.stdout.fileno())
        sys.exit(f"Error: {error.strerror or error}. The result could not be read or written.")


def _drop(descriptor: int) -> None:
    """Discards the text left in a stream's buffer, so that the interpreter ends silently."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)


if __name__ == "__main__":
    main()
