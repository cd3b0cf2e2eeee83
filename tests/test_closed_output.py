"""Errors are one sentence: no traceback and no success; a terminal breaks them between words."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_carbon.commands.output import Refusal

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


@pytest.mark.slow
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


def test_error_in_a_terminal_is_broken_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        Refusal("No metered run in experiment 'empty'. " * 4).show(stream)
        printed = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert len(printed) == 3
    assert max(map(len, printed)) <= 80
    assert " ".join(printed) == "Error: " + " ".join(["No metered run in experiment 'empty'."] * 4)


def test_error_in_a_pipe_is_one_line():
    stream = io.StringIO()
    Refusal("No metered run. " * 20).show(stream)
    assert stream.getvalue().count("\n") == 1
