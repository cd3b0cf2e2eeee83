"""Cells of a study as jobs: submitit's local executor for real, and what Slurm would be told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
from mlflow import MlflowClient

from ldm_project.config import StudyConfig
from ldm_project.errors import InvalidInputError, LdmProjectError
from ldm_project.runs.study import run_study
from ldm_project.runs.study_cell import Price
from ldm_project.runs.study_jobs import CellJobs, Launcher, do_cell, launcher_of
from ldm_project.runs.study_runs import study_run
from ldm_project.study.study_settings import study_settings
from mlflow_carbon.contract import study_tags
from mlflow_carbon.reporting.study_cells import child_runs, find_study, read_study
from tests.conftest import ROOT

SHORT = {
    "sizes": "16",
    "dims": "2",
    "model_sizes": "tiny",
    "num_processes": "1",
    "windows": "2",
    "warmup_windows": "1",
    "iterations_per_window": "2",
    "steps": "2",
}
PRICE = Price(region=None, month=None, pue=None)


@pytest.fixture(autouse=True)
def jobs_folder(tmp_path, monkeypatch):
    """Where jobs keep their scripts and logs; jobs find this checkout."""
    monkeypatch.setenv("LDM_STUDY_JOBS", str(tmp_path / "jobs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "jobs"


@pytest.fixture(autouse=True)
def warm_workers(warm_python_folder, monkeypatch):
    """Workers start at once; what submitit starts to watch over them is a Python as any."""
    command = property(
        lambda executor: (
            f"{warm_python_folder}/python -u -m submitit.core._submit {executor.folder}"
        )
    )
    monkeypatch.setattr(submitit.LocalExecutor, "_submitit_command_str", command)


@pytest.fixture(autouse=True)
def files_that_are_there_at_once(monkeypatch):
    """submitit waits 15 s for what a worker left that died: a cluster's file system is slow."""
    monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0)


def settings_of(**parameters):
    return study_settings(StudyConfig(**{**SHORT, **parameters}))


def newest():
    client = MlflowClient()
    return read_study(client, find_study(client, None))


def outcomes_of(jobs):
    """Returns the outcomes of all jobs."""
    found = []
    while jobs.num_running:
        found += jobs.ended()
    return found


@pytest.mark.slow
def test_cells_run_as_local_jobs_below_one_parent(store, jobs_folder):
    settings = settings_of(launcher="local", sizes="64", steps="10")  # of several kernel's ticks
    lines = run_study(settings, probe_s=0.1)
    assert lines[0] == "study   2 cells: 2 done"
    study = newest()
    assert (study.state, len(study.cells)) == ("done", 2)
    for cell in study.cells:
        run = MlflowClient().get_run(cell.run_id)
        assert run.info.status == "FINISHED"
        assert cell.statistics.num_windows in (1, 2)  # two that are very short become one
        assert run.info.experiment_id == MlflowClient().get_run(study.run_id).info.experiment_id
    assert len(list(jobs_folder.glob("*/*_result.pkl"))) == 2  # a job each
    # a study that was launched is the same study: nothing of it is left to do here
    assert settings.digest == settings_of(sizes="64", steps="10").digest


def killed_once(told):
    """Measures a cell, in a worker that the system kills the first time."""
    marker = Path(os.environ["LDM_STUDY_JOBS"]) / "killed"
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return do_cell(told)


def killed(_):
    """Does nothing: its worker is killed."""
    os.kill(os.getpid(), signal.SIGKILL)


def sleeping(_):
    """Never ends by itself."""
    while True:
        time.sleep(0.1)


@pytest.mark.slow
def test_cell_is_tried_again_when_its_worker_dies(store):
    settings = settings_of(tasks="train", launcher="local")
    with (
        study_run(settings) as study,
        CellJobs(launcher_of(settings), settings, PRICE, study.run_id, killed_once) as jobs,
    ):
        (cell,) = settings.cells
        jobs.submit(cell)
        (outcome,) = outcomes_of(jobs)
    assert (outcome.cell_name, outcome.state) == (cell.name, study_tags.DONE)
    assert MlflowClient().get_run(outcome.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_cell_whose_worker_always_dies_has_failed_and_says_so(store):
    settings = settings_of(tasks="train", launcher="local", max_retries=1)
    with (
        study_run(settings) as study,
        CellJobs(launcher_of(settings), settings, PRICE, study.run_id, killed) as jobs,
    ):
        jobs.submit(settings.cells[0])
        (outcome,) = outcomes_of(jobs)
    assert outcome.state == study_tags.FAILED
    assert outcome.problem.startswith("its worker died: ")
    assert outcome.problem.endswith(" (2 tries)")


@pytest.mark.slow
def test_stopped_study_cancels_its_jobs(store):
    settings = settings_of(tasks="train", launcher="local")
    with pytest.raises(KeyboardInterrupt), study_run(settings) as study:
        with CellJobs(launcher_of(settings), settings, PRICE, study.run_id, sleeping) as jobs:
            jobs.submit(settings.cells[0])
            process = jobs._running[0].job._process
            raise KeyboardInterrupt
    process.wait(timeout=120)  # it ends, though its work never would
    parent = MlflowClient().get_run(study.run_id)
    assert parent.data.tags[study_tags.TAG_STATE] == study_tags.INTERRUPTED
    assert child_runs(MlflowClient(), parent) == []


@pytest.mark.slow
def test_job_ends_with_the_study_that_began_it(warm_start):
    with subprocess.Popen(["sleep", "100"]) as study:
        code = f"import time; from {do_cell.__module__} import _end_with; _end_with({study.pid})"
        worker = subprocess.Popen([sys.executable, "-c", f"{code}; time.sleep(1000)"])
        study.kill()
        assert worker.wait(timeout=300) == 1


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A machine with Slurm's commands: sbatch keeps the script and runs nothing."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {
        "srun": "exit 0",
        "sbatch": f'cp "$1" {tmp_path}/submitted.sh; echo "Submitted batch job 42"',
        "scancel": f'echo "$@" >> {tmp_path}/cancelled',
        "sacct": "exit 0",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return tmp_path


def test_slurm_is_told_what_each_cell_needs(store, cluster, jobs_folder):
    settings = settings_of(
        launcher="slurm", slurm="partition=gpu,gpus_per_node=1,time=90,account=ct"
    )
    with pytest.raises(KeyboardInterrupt), study_run(settings) as study:
        with CellJobs(launcher_of(settings), settings, PRICE, study.run_id) as jobs:
            jobs.submit(settings.cells[0])
            assert jobs.num_running == 1
            raise KeyboardInterrupt
    script = (cluster / "submitted.sh").read_text()
    for line in (
        "#SBATCH --partition=gpu",
        "#SBATCH --gpus-per-node=1",
        "#SBATCH --time=90",
        "#SBATCH --account=ct",
        "#SBATCH --job-name=ldm-study",
        f"#SBATCH --output={jobs_folder}/%j/%j_0_log.out",
    ):
        assert line in script.splitlines()
    assert "-u -m submitit.core._submit" in script
    assert (cluster / "cancelled").read_text().split() == ["42"]  # Ctrl-C takes the job back


def test_slurm_has_time_and_a_name_if_nothing_is_said():
    launcher = launcher_of(settings_of(launcher="slurm"))
    assert launcher.parameters == {"time": 240, "job_name": "ldm-study"}
    assert launcher.num_at_once > 1
    assert launcher_of(settings_of(launcher="local")).num_at_once == 1


def test_where_there_is_no_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    launcher = Launcher(kind="slurm", num_at_once=1, max_retries=0, folder=tmp_path / "j" / "%j")
    with pytest.raises(LdmProjectError, match="there is no srun here"):
        launcher.executor()


def test_parameter_that_slurm_does_not_have_is_refused(cluster):
    launcher = launcher_of(settings_of(launcher="slurm", slurm="gpu=1"))
    with pytest.raises(InvalidInputError, match="submitit does not know"):
        launcher.executor()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"launcher": "slurm", "slurm": "gpu"}, "slurm has 'gpu'; give name=value"),
        ({"slurm": "partition=gpu"}, "slurm is 'partition=gpu', but launcher is 'auto'"),
        ({"launcher": "local", "max_retries": -1}, "max_retries is -1"),
    ],
)
def test_wrong_settings_of_jobs_are_one_clear_error(parameters, message):
    with pytest.raises(InvalidInputError, match=message):
        settings_of(**parameters)
