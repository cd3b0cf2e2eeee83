"""Code that uses Carbontracker already, unchanged, in runs that are autologged."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.fakes.user_scripts import ZERO_CODE, UserFolder, energy_joules

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent

# A node of four GPUs, each at a constant 300 W, under the script that is to run on it.
FOUR_GPUS = """
import runpy, sys, time
from carbontracker.components.gpu import nvidia
from mlflow_carbon.testing.nvml import FakeGpu, FakeNvml
from mlflow_carbon.testing.power import Constant

class RealClock:
    now_s = property(lambda self: time.monotonic())

nvidia.pynvml = FakeNvml(
    RealClock(), [FakeGpu(Constant(300.0), uuid=f"GPU-{index}") for index in range(4)])
runpy.run_path("script.py")
"""
TRAINING = """
import threading, time
import mlflow
from carbontracker.tracker import CarbonTracker, CarbonTrackerThread
with mlflow.start_run():
    tracker = CarbonTracker(epochs=2, components="gpu", epochs_before_pred=0)
    for _ in range(2):
        tracker.epoch_start()
        time.sleep(1.5)
        tracker.epoch_end()
    meters = [thread for thread in threading.enumerate()
              if isinstance(thread, CarbonTrackerThread) and thread.components
              and thread.components[0].name == "mlflow_carbon"]
    print(f"{len(meters)} meter")
"""


@pytest.fixture
def user(empty_store, tmp_path):
    return UserFolder(tmp_path, empty_store)


def test_epochs_are_windows_with_the_sum_over_devices_and_prints_stay(user):
    (user.path / "script.py").write_text(TRAINING)
    on_gpus = {**ZERO_CODE, "MLFLOW_CARBON_COMPONENTS": "gpu", "PYTHONPATH": str(ROOT)}
    done = user.run_as("node.py", FOUR_GPUS, environment=on_gpus)
    run = user.only_run()
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_windows"]) == ("epoch", "2")
    powers = MlflowClient(tracking_uri=user.uri).get_metric_history(
        run.info.run_id, "carbon/power_w"
    )
    # 4 x 300 W; what Carbontracker prints is an average over the four
    assert [point.value for point in powers] == [pytest.approx(1200, rel=0.01)] * 2
    assert "1 meter" in done.stdout
    assert "Actual consumption:" in done.stdout


def test_exit_of_carbontracker_stays_the_users(user):
    script = """
import mlflow
from carbontracker.tracker import CarbonTracker
with mlflow.start_run():
    CarbonTracker(epochs=1, components="gpu")
print("not reached")
"""
    done = user.run(script, exit_code=70)  # no component is found
    assert "not reached" not in done.stdout
    assert user.only_run().info.status == "RUNNING"  # it ends the process, so MLflow ends no run


def test_command_line_of_carbontracker_runs_a_project_that_is_metered_once(user):
    project = user.path / "project"
    project.mkdir()
    (project / "MLproject").write_text(
        "name: users\nentry_points:\n  main:\n    command: carbontracker python train.py\n"
    )
    (project / "train.py").write_text(
        "import mlflow\nwith mlflow.start_run():\n    sum(i * i for i in range(10**6))\n"
    )
    environment = ZERO_CODE | {"MLFLOW_TRACKING_URI": user.uri}
    done = user.command("mlflow", "run", "project", "--env-manager=local", environment=environment)
    run = user.only_run()
    assert "Actual consumption" in done.stdout + done.stderr
    assert energy_joules(run) > 0
    history = MlflowClient(tracking_uri=user.uri).get_metric_history(
        run.info.run_id, "carbon/energy_kwh"
    )
    assert len(history) == 1
