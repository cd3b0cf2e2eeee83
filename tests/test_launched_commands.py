"""Commands shared by real processes, started by us and by torchrun, that end well and do not."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from mlflow.artifacts import download_artifacts
from mlflow.tracking import fluent

from ldm_project.__main__ import main
from tests.fakes.commands import command_of
from tests.fakes.recorded import recorded, windows_of
from tests.fakes.trainings import wait_for_iteration
from tests.fakes.user_scripts import UserFolder, free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PYTHON = (sys.executable, "-m")
TORCHRUN = (*PYTHON, "torch.distributed.run")
SMALL = ("--size", "32", "--vqgan-iterations", "12")
SYNTH = ("ldm_project", "synth", "--size", "32", "--model", "models:/ldm-ct-2d-32-tiny/1")
SYNTH += ("--num-samples", "9", "--batch-size", "2", "--steps", "50")
TRAIN = ("ldm_project", "train", *SMALL, "--iterations", "20", "--batch-size", "5")
PATIENCE_S = 900  # a busy machine takes minutes for what takes seconds
LONG = ("ldm_project", "train", *SMALL, "--iterations", "100", "--checkpoint-every", "10")


class LdmFolder(UserFolder):
    """A folder in which the project's commands run, in processes of their own."""

    def environment(self):
        own = {"LDM_PROJECT_CACHE": str(self.path / "cache"), "PYTHONPATH": str(ROOT)}
        return {**super().environment(), **own}

    def command_here(self, *command):
        """Runs a command in this process: another one would need seconds to start."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.path)
            for name in ("LDM_PROJECT_CACHE", "MLFLOW_CARBON_JOURNAL_DIR"):
                patch.setenv(name, self.environment()[name])
            patch.setattr(fluent, "_active_experiment_id", None)
            mlflow.set_tracking_uri(self.uri)
            try:
                done = CliRunner().invoke(main, command[1:])
                assert done.exit_code == 0, done.output
            finally:
                mlflow.set_tracking_uri(None)

    def new_run(self, *command):
        """Runs a command; returns the one run that it makes."""
        return self.only_run_of(lambda: self.command(*command, environment={}))

    def only_run_of(self, work):
        """Returns the one run that some work makes."""
        before = {run.info.run_id for run in self.runs()}
        work()
        (run,) = [run for run in self.runs() if run.info.run_id not in before]
        assert run.info.status == "FINISHED"
        return run

    def windows(self, run):
        return windows_of(run.info.run_id, self.client)

    def history(self, run, key):
        """Returns the values of a metric by step."""
        points = self.client.get_metric_history(run.info.run_id, key)
        return {point.step: point.value for point in points}

    def images(self, run):
        """Returns all samples of a run, ``(N, ...)`` in HU."""
        path = download_artifacts(
            run_id=run.info.run_id, artifact_path="samples", tracking_uri=self.uri
        )
        files = sorted(Path(path).glob("*.nii.gz"))
        return np.stack([np.asarray(nib.load(file).dataobj) for file in files])

    def started(self, *command, **environment):
        """Starts a command; returns it, and its ranks, once its training has a state."""
        for left in (self.path / "cache" / "trainings").glob("*.pt"):
            left.unlink()
        launcher = subprocess.Popen(
            command,
            cwd=self.path,
            env={**self.environment(), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_iteration(launcher, self.path / "cache" / "trainings", 30)
        # not by their parents: those of warm processes are others
        found = {
            each.info["environ"]["RANK"]: each
            for each in psutil.process_iter(["environ"])
            if (each.info["environ"] or {}).get("LDM_PROJECT_CACHE") == str(self.path / "cache")
            and "RANK" in each.info["environ"]
        }
        return launcher, {int(rank): process for rank, process in found.items()}


@pytest.fixture(scope="module")
def folder(empty_store, tmp_path_factory):
    """Its store has an LDM that one process has trained."""
    folder = LdmFolder(tmp_path_factory.mktemp("user"), empty_store)
    folder.command_here(*TRAIN)
    return folder


@pytest.fixture(scope="module")
def trained_alone(folder):
    return folder.client.get_run(folder.client.get_model_version("ldm-ct-2d-32-tiny", "1").run_id)


@pytest.fixture(scope="module")
def sampled_alone(folder):
    return folder.only_run_of(lambda: folder.command_here(*SYNTH))


def assert_energy_counts_once(folder, run, *, num_windows, num_units):
    """Checks that windows, units and the total are those of one meter."""
    windows = folder.windows(run)
    assert len(windows) == int(run.data.tags["carbon.num_windows"]) == num_windows
    assert int(run.data.tags["carbon.num_units"]) == num_units
    total_kwh, total_s = (recorded(run)[key] for key in ("energy_kwh", "duration_s"))
    sum_kwh = sum(window.energy_kwh for window in windows.values())
    assert sum_kwh <= total_kwh * (1 + 1e-9)
    power = sum_kwh / sum(window.duration_s for window in windows.values())
    assert total_kwh / total_s <= 1.5 * power  # twice, were the total that of two meters


@pytest.mark.parametrize(
    ("command", "num_windows"),
    [
        # 9 samples are batches of 2, 2, 2, 2 and 1: three windows of two batches, two of four
        ((*PYTHON, *SYNTH, "--num-processes", "2"), 3),
        ((*TORCHRUN, "--nproc-per-node", "4", "-m", *SYNTH), 2),
    ],
)
def test_samples_of_several_processes_are_bitwise_those_of_one(
    folder, sampled_alone, command, num_windows, warm_python_folder
):
    run = folder.new_run(f"{warm_python_folder}/python", *command[1:])
    images = folder.images(run)
    assert np.array_equal(images, folder.images(sampled_alone))
    assert len(np.unique(images, axis=0)) == 9
    assert_energy_counts_once(folder, run, num_windows=num_windows, num_units=9)


@pytest.mark.parametrize(
    "command",
    [
        (*TORCHRUN, "--nproc-per-node", "2", "-m", *TRAIN),
        # five images an iteration: shares of two, one, one and one
        (*PYTHON, *TRAIN, "--num-processes", "4"),
        (*TORCHRUN, "--nproc-per-node", "2", "-m", *TRAIN, "--fsdp", "on"),
    ],
)
def test_several_processes_learn_what_one_learns(
    folder, trained_alone, command, warm_python_folder
):
    run = folder.new_run(f"{warm_python_folder}/python", *command[1:])
    losses, losses_alone = (folder.history(each, "loss") for each in (run, trained_alone))
    assert set(losses) == set(range(2, 21, 2))
    assert losses == pytest.approx(losses_alone, rel=1e-3)
    assert folder.history(run, "validation_loss") == pytest.approx(
        folder.history(trained_alone, "validation_loss"), rel=1e-3
    )
    assert_energy_counts_once(folder, run, num_windows=10, num_units=20)


def new_runs_of_two_nodes(folder, python_folder, command):
    """Runs a command on two nodes; returns the runs that it makes, the oldest first."""
    nodes = (
        f"{python_folder}/python",
        *TORCHRUN[1:],
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--master-addr",
        "127.0.0.1",
    )
    port = free_port()
    before = {run.info.run_id for run in folder.runs()}
    launchers = [
        subprocess.Popen(
            (*nodes, "--master-port", port, "--node-rank", index, "-m", *command),
            cwd=folder.path,
            env=folder.environment(),
        )
        for index in ("0", "1")
    ]
    assert [launcher.wait(PATIENCE_S) for launcher in launchers] == [0, 0]
    return [run for run in folder.runs() if run.info.run_id not in before]


def test_two_nodes_add_up_in_one_run(folder, warm_python_folder):
    (run,) = new_runs_of_two_nodes(folder, warm_python_folder, SYNTH)
    metrics, tags = recorded(run), run.data.tags
    assert (tags["carbon.num_nodes"], tags["carbon.num_units"]) == ("2", "9")
    assert "carbon.missing_nodes" not in tags
    for key in ("energy_kwh", "energy_kwh_per_sample"):
        parts = [metrics[f"node/{index}/{key}"] for index in (0, 1)]
        assert metrics[key] == pytest.approx(sum(parts))
    # were a node's windows to count its own samples only, this would be twice as much
    assert metrics["energy_kwh_per_sample"] * 9 <= metrics["energy_kwh"]


def test_vqgan_that_one_of_two_nodes_trains_is_missed_by_none(folder, warm_python_folder):
    runs = new_runs_of_two_nodes(folder, warm_python_folder, (*TRAIN, "--size", "48"))
    tags_by_name = {command_of(run): run.data.tags for run in runs}
    vqgan, ldm = tags_by_name["vqgan"], tags_by_name["train"]
    assert (vqgan["carbon.num_units"], ldm["carbon.num_units"]) == ("12", "20")
    assert "carbon.num_nodes" not in vqgan
    assert ldm["carbon.num_nodes"] == "2"
    assert not any("carbon.missing_nodes" in tags for tags in (vqgan, ldm))


@pytest.mark.parametrize("fsdp", ["off", "on"])
def test_killed_process_is_told_once_and_its_training_goes_on_in_one_process(
    folder, fsdp, warm_python_folder
):
    python = f"{warm_python_folder}/python"
    command = (python, "-m", *LONG, "--num-processes", "2", "--fsdp", fsdp)
    launcher, ranks = folder.started(*command)
    ranks[1].kill()
    _, told = launcher.communicate(timeout=PATIENCE_S)
    run = folder.runs()[-1]
    assert launcher.returncode == 1
    errors = [line for line in told.splitlines() if "Error" in line or "Traceback" in line]
    assert errors == [
        "Error: Process 1 of 2 was ended by SIGKILL, as by a system without memory left; the "
        "others were stopped. The training can go on: "
        f"`mlflow run . -e train -P resume={run.info.run_id}`."
    ]
    assert run.info.status == "FAILED"
    assert (run.data.tags["ldm.num_processes"], run.data.tags["ldm.fsdp"]) == ("2", fsdp)
    assert not psutil.pid_exists(ranks[0].pid)
    resume = ("ldm_project", "train", "--resume", run.info.run_id, "--num-processes", "1")
    folder.command_here(*resume)
    run = folder.client.get_run(run.info.run_id)
    assert run.info.status == "FINISHED"
    assert (run.data.tags["ldm.num_processes"], run.data.tags["ldm.fsdp"]) == ("1", "off")
    assert max(folder.history(run, "loss")) == 100


def test_restarted_processes_lose_no_more_than_what_came_after_the_last_state(
    folder, warm_python_folder
):
    command = (*TORCHRUN, "--nproc-per-node", "2", "--max-restarts", "1", "-m", *LONG)
    before = {run.info.run_id for run in folder.runs()}
    launcher, ranks = folder.started(*command, PYTHON_EXEC=f"{warm_python_folder}/python")
    ranks[0].kill()
    launcher.communicate(timeout=PATIENCE_S)
    assert launcher.returncode == 0
    (run,) = [run for run in folder.runs() if run.info.run_id not in before]
    assert run.info.status == "FINISHED"
    # Windows are as long as the intervals between states, so that none was measured twice; from
    # the start again they would be 30 more at least. The last one may have been cut off.
    assert int(run.data.tags["carbon.num_units"]) in (90, 100)
    assert set(folder.history(run, "loss")) == set(range(10, 101, 10))


def test_launcher_that_is_told_to_stop_leaves_no_process(folder):
    launcher, ranks = folder.started(*PYTHON, *LONG, "--num-processes", "2")
    os.kill(launcher.pid, signal.SIGTERM)
    _, told = launcher.communicate(timeout=PATIENCE_S)
    assert "Error: The 2 processes were stopped by SIGTERM. The training can go on" in told
    assert folder.runs()[-1].info.status == "FAILED"
    assert not any(psutil.pid_exists(rank.pid) for rank in ranks.values())


def test_error_of_a_process_is_told_in_its_words(folder, warm_python_folder):
    command = (
        f"{warm_python_folder}/python",
        "-m",
        *SYNTH,
        "--model",
        "nowhere",
        "--num-processes",
        "2",
    )
    told = folder.command(*command, environment={}, rc=1).stderr
    assert [line for line in told.splitlines() if "Error" in line] == [
        "Error: No ldm checkpoint folder 'nowhere'. Give a folder, models:/name/version, or auto.",
        "Error: Process 0 of 2 failed (exit code 1), as told above; the others were stopped.",
    ]
    assert folder.runs()[-1].info.status == "FAILED"
