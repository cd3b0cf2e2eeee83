"""Output that cannot be written is an error on one line: no traceback, and no success."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "mlflow_carbon"]
FULL = Path("/dev/full")


def run(*args, **streams):
    return subprocess.run(
        [*COMMAND, *args], stderr=subprocess.PIPE, text=True, check=False, **streams
    )


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("args", [("equivalents", "1"), ("paper-check", "--format", "json")])
def test_full_disk_is_one_line_and_exit_code_1(args):
    with FULL.open("w") as full:
        done = run(*args, stdout=full)
    assert done.returncode == 1
    assert done.stderr == (
        "Error: No space left on device. The result could not be read or written.\n"
    )


def test_closed_stdout_is_no_success():
    done = run("equivalents", "1", preexec_fn=lambda: os.close(1))
    assert done.returncode == 1
    assert done.stderr.startswith("Error: stdout is closed")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_reader_that_leaves_early_gets_no_traceback():
    first, last = os.pipe()
    os.close(first)
    done = run("paper-check", stdout=last)
    os.close(last)
    assert (done.returncode, done.stderr) == (1, "")
