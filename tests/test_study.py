"""The study as runs: measured cells, a kill and a resume, a budget, cells that fail."""

import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from ldm_project.__main__ import main
from ldm_project.config import StudyConfig
from ldm_project.errors import InvalidInputError, LdmProjectError
from ldm_project.runs.study import run_study
from ldm_project.study.study_settings import study_settings
from mlflow_carbon.contract import study_tags
from mlflow_carbon.reporting.study_cells import child_runs, find_study, read_study

SHORT = {
    "sizes": "16",
    "model_sizes": "tiny",
    "num_processes": "1",
    "windows": "2",
    "warmup_windows": "1",
    "iterations_per_window": "2",
    "steps": "2",
}
OPTIONS = [f"--{name.replace('_', '-')}={value}" for name, value in SHORT.items()]


def study(**parameters):
    """Runs a short study, whose forecasts nobody needs; returns its lines."""
    return run_study(study_settings(StudyConfig(**{**SHORT, **parameters})), probe_s=0.1)


def newest():
    client = MlflowClient()
    return read_study(client, find_study(client, None))


@pytest.mark.slow
def test_cells_are_measured_in_runs_of_their_own_below_the_study(store):
    lines = study(dims="2", sizes="64", steps="10")  # each window is longer than a kernel's tick
    found = newest()
    assert (found.state, found.name, found.num_cells) == ("done", "study ci", 2)
    assert {cell.name for cell in found.cells} == {
        "train 2D 64x64 tiny",
        "synth 2D 64x64 tiny 10 steps",
    }
    for cell in found.cells:
        run = MlflowClient().get_run(cell.run_id)
        assert run.info.run_name == cell.name
        assert run.data.tags[study_tags.TAG_NUM_WARMUP_WINDOWS] == "1"
        assert run.data.tags[study_tags.TAG_WEIGHTS].startswith("untrained")
        # 2 windows: of 2 iterations, or of 1 sample; the warm-up is in none of them
        assert cell.statistics.num_windows == 2
        assert cell.statistics.num_units == (4 if cell.task == "train" else 2)
        assert cell.measured.energy_kwh > sum(w.energy_kwh for w in cell.measured.windows)
    assert lines[0] == "study   2 cells: 2 done"
    artifacts = MlflowClient().list_artifacts(found.run_id, "study")
    assert {artifact.path.removeprefix("study/") for artifact in artifacts} == {
        "report.html",
        "report.md",
        "findings.csv",
        "image-size.svg",
        "region-month.svg",  # and no two networks, step counts or numbers of processes
    }


@pytest.mark.slow
def test_killed_study_goes_on_without_repeating_its_finished_cells(store, tmp_path, warm_start):
    command = [sys.executable, "-m", "ldm_project", "study", *OPTIONS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as killed:
        for line in killed.stderr:
            if ": done" in line:
                break
        killed.send_signal(signal.SIGKILL)
    before = newest()
    done = {cell.name: cell.run_id for cell in before.cells if cell.state == "done"}
    assert before.state == "running"  # nobody was left to say otherwise
    assert 1 <= len(done) < 4
    lines = study()
    after = newest()
    assert (after.run_id, after.state) == (before.run_id, "done")
    assert len(after.cells) == 4
    assert done.items() <= {cell.name: cell.run_id for cell in after.cells}.items()
    assert lines[0] == "study   4 cells: 4 done"
    runs = child_runs(MlflowClient(), MlflowClient().get_run(after.run_id))
    assert not [run for run in runs if run.info.status == "RUNNING"]
    # a study that is done is not resumed
    study(dims="2", tasks="train")
    assert newest().run_id != after.run_id


@pytest.mark.slow
def test_budget_stops_between_cells_and_a_larger_one_goes_on(store):
    lines = study(dims="2", carbon_budget_kg="1e-12")
    stopped = newest()
    assert (stopped.state, stopped.cells) == ("stopped", ())
    assert "of a budget of 1e-12 kg are spent" in lines[-1]
    study(dims="2", carbon_budget_kg="10")
    assert (newest().run_id, newest().state) == (stopped.run_id, "done")


@pytest.mark.slow
def test_failing_cell_does_not_end_the_others(store):
    # bf16 is refused for so small a volume on a CPU, and for no slice
    with pytest.raises(LdmProjectError, match="1 of 2 cells have failed, 'train 3D 16x16x16 tiny'"):
        study(tasks="train", precision="bf16", device="cpu")
    states = {cell.name: cell for cell in newest().cells}
    assert states["train 2D 16x16 tiny"].state == "done"
    assert "precision is 'bf16'" in states["train 3D 16x16x16 tiny"].problem
    assert newest().state == "failed"


@pytest.mark.slow
def test_cell_that_does_not_fit_is_skipped_with_the_memory_that_it_needs(store):
    # a batch of 1,000,000 slices of 64x64: more than any computer of today has
    study(dims="2", tasks="train", sizes="64", batch_size="1000000")
    (cell,) = newest().cells
    assert cell.state == "skipped"
    assert "GB of memory" in cell.problem
    assert newest().state == "done"


@pytest.mark.slow
def test_study_of_another_grid_cannot_be_resumed(store):
    run = MlflowClient().create_run("0")
    with pytest.raises(InvalidInputError, match="which is no study of this grid"):
        study(resume=run.info.run_id)
    with pytest.raises(InvalidInputError, match="has no such run"):
        study(resume="0" * 32)


@pytest.mark.slow
def test_dry_run_prints_the_cells_and_their_forecast_and_writes_nothing(store):
    result = CliRunner().invoke(main, ["study", *OPTIONS, "--dims=2", "--dry-run"])
    assert result.exit_code == 0, result.output
    head, *rows, rest = result.stdout.splitlines()
    assert head.split() == ["cell", "state", "time", "energy", "CO2e", "per", "unit"]
    assert sorted(row.split("  ")[0] for row in rows) == [
        "synth 2D 16x16 tiny 2 steps",
        "train 2D 16x16 tiny",
    ]
    assert all("waiting  ~" in " ".join(row.split("   ")) or "~" in row for row in rows)
    assert rest.startswith("Left: 2 cells, about ")
    assert not re.search(r"\de[-+]\d", result.stdout), result.stdout  # µWh and µg instead
    assert not MlflowClient().search_runs(["0"])


@pytest.mark.slow
def test_processes_share_a_cell_in_its_run(store, warm_start):
    study(dims="2", tasks="train", sizes="64", num_processes="2")  # longer than a kernel's tick
    by_count = {cell.num_processes: cell for cell in newest().cells}
    assert by_count[2].statistics.num_units == 4  # 2 windows of 2 iterations
    assert by_count[2].name == "train 2D 64x64 tiny 2 processes"
