"""``mlflow-carbon run``: any command, its streams, signals and exit code as they were."""

import os
import signal
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT

RUN = (sys.executable, "-m", "mlflow_carbon", "run", "--region", "SE")
pytestmark = pytest.mark.slow


def environment(store: str) -> dict[str, str]:
    """The child's environment: this store, this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store}


def run(store: str, *command: str, text: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs a command under the meter to its end."""
    return subprocess.run(
        [*RUN, "--", *command],
        input=text,
        capture_output=True,
        text=True,
        env=environment(store),
        check=False,
    )


def newest(store: str):
    """The run that started last."""
    (found,) = MlflowClient(tracking_uri=store).search_runs(["0"], max_results=1)
    return found


def test_streams_and_exit_code_are_the_commands(store):
    done = run(store, "sh", "-c", "cat; echo trouble >&2; exit 7", text="hello\n")
    assert (done.returncode, done.stdout) == (7, "hello\n")
    assert "trouble\n" in done.stderr
    assert newest(store).info.status == "FAILED"
    assert newest(store).info.run_name == "sh"
    assert newest(store).data.tags["carbon.exit_code"] == "7"


def test_work_of_the_commands_processes_is_metered(store):
    work = "sum(i * i for i in range(2 * 10**7))"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{work}'])"
    done = run(store, sys.executable, "-c", child)
    assert done.returncode == 0, done.stderr
    assert newest(store).info.status == "FINISHED"
    assert newest(store).data.metrics["carbon/energy_kwh"] > 0
    assert done.stderr.count("mlflow-carbon: ") == 1


def test_command_that_a_signal_ends_ends_the_meter_by_the_same(store):
    done = run(store, "sh", "-c", "kill -9 $$")
    assert done.returncode == -signal.SIGKILL
    assert newest(store).info.status == "KILLED"


def test_signal_is_passed_on_and_the_command_decides(store, tmp_path):
    script = "trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen(
        [*RUN, "--", "sh", "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(store),
    ) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        started.send_signal(signal.SIGTERM)
        assert started.stdout.read() == "caught\n"
        assert started.wait(60) == 3


def test_command_that_is_not_there_makes_no_run(store):
    done = run(store, "no-such-command")
    assert done.returncode == 127
    assert "no such command: no-such-command" in done.stderr
    assert list(MlflowClient(tracking_uri=store).search_runs(["0"])) == []


METERED = """
import mlflow, mlflow_carbon
with mlflow.start_run(run_name="inner"), mlflow_carbon.track():
    sum(i * i for i in range(10**7))
"""


def test_metered_run_of_the_command_is_a_child_and_prints_nothing(store):
    done = run(store, sys.executable, "-c", METERED)
    assert done.returncode == 0, done.stderr
    runs = MlflowClient(tracking_uri=store).search_runs(["0"])
    by_name = {found.info.run_name: found for found in runs}
    outer = by_name.pop(os.path.basename(sys.executable))  # noqa: PTH119
    assert by_name["inner"].data.tags["mlflow.parentRunId"] == outer.info.run_id
    assert outer.data.tags["carbon.scope"] == "parent"
    assert done.stderr.count("mlflow-carbon: ") == 1
