"""What a killed process left behind reaches the store, exactly once."""

import json
import platform
import signal
import subprocess
import sys

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.recording.recovery import recover_run

KILLED = """
import os, signal, sys
from pathlib import Path
from mlflow_carbon.recording.journal import Batch, Journal, Point
journal = Journal(Path(sys.argv[1]), run_id=sys.argv[2], tracking_uri=sys.argv[3])
for step in (1, 2, 3):
    point = Point("carbon/window/energy_kwh", 0.1 * step, 1_700_000_000_000 + step, step)
    journal.append(Batch((point,), {"carbon.unit": "sample"}))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def left_journal(tmp_path_factory):
    """The journal that a killed process left, of the run RUN in the store STORE."""
    folder = tmp_path_factory.mktemp("journals")
    arguments = [str(folder), "RUN", "STORE"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    (journal,) = folder.iterdir()
    return journal


@pytest.fixture
def killed_run(store, tmp_path, monkeypatch, left_journal):
    """A run whose process was killed with three windows in its journal; gives its id."""
    folder = tmp_path / "journals"
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(folder))
    with mlflow.start_run() as run:
        pass
    folder.mkdir()
    text = left_journal.read_text().replace("STORE", store).replace("RUN", run.info.run_id)
    name = left_journal.name.replace("RUN", run.info.run_id)
    (folder / name).write_text(text)
    return run.info.run_id


def recover():
    result = CliRunner().invoke(cli, ["recover"])
    assert result.exit_code == 0, result.output
    return result.stdout


def windows(run_id):
    history = MlflowClient().get_metric_history(run_id, "carbon/window/energy_kwh")
    return [(point.step, point.timestamp - 1_700_000_000_000) for point in history]


def test_windows_of_a_killed_process_are_sent_with_their_time_stamps(killed_run):
    assert recover() == f"run {killed_run}: 3 sets of figures sent.\n"
    assert windows(killed_run) == [(1, 1), (2, 2), (3, 3)]
    assert MlflowClient().get_run(killed_run).data.tags["carbon.unit"] == "sample"


def test_figures_of_a_killed_process_are_not_put_on_the_active_model(killed_run, monkeypatch):
    model = mlflow.create_external_model(name="of another run")
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", model.model_id)
    recover()
    assert windows(killed_run) == [(1, 1), (2, 2), (3, 3)]
    assert not mlflow.get_logged_model(model.model_id).metrics


def test_second_recovery_has_nothing_to_do(killed_run, tmp_path):
    recover()
    assert recover() == f"Nothing to recover in {tmp_path / 'journals'}.\n"


def test_journal_that_is_sent_twice_changes_nothing(killed_run, tmp_path):
    (journal,) = (tmp_path / "journals").iterdir()
    copy = journal.read_text()
    recover()
    journal.write_text(copy)
    recover()
    assert windows(killed_run) == [(1, 1), (2, 2), (3, 3)]


def test_killed_run_that_shared_its_machine_is_tagged_so(killed_run, tmp_path):
    (journal,) = (tmp_path / "journals").iterdir()
    journal.with_name(f"{journal.name}.shared").touch()  # as another process's run did meanwhile
    recover()
    assert MlflowClient().get_run(killed_run).data.tags["carbon.shared"] == "true"
    assert list((tmp_path / "journals").iterdir()) == []


def test_journal_of_another_store_is_left_where_it_is(killed_run, tmp_path):
    (journal,) = (tmp_path / "journals").iterdir()
    journal.write_text(journal.read_text().replace("sqlite:///", "http://elsewhere/"))
    folder = tmp_path / "journals"
    assert recover().startswith(f"run {killed_run}: left in {folder}: it belongs to 'http://")
    assert journal.exists()
    assert windows(killed_run) == []


def test_run_that_is_taken_up_again_gets_what_its_killed_process_did_not_send(killed_run, tmp_path):
    assert recover_run(MlflowClient(), tmp_path / "journals", killed_run)
    assert windows(killed_run) == [(1, 1), (2, 2), (3, 3)]
    assert not recover_run(MlflowClient(), tmp_path / "journals", killed_run)


@pytest.mark.parametrize(
    ("mine", "other"),
    [('"machine": "', '"machine": "another-'), ("sqlite:///", "http://elsewhere/")],
)
def test_journal_of_another_machine_or_store_is_not_taken_for_a_killed_one(
    killed_run, tmp_path, mine, other
):
    (journal,) = (tmp_path / "journals").iterdir()
    journal.write_text(journal.read_text().replace(mine, other, 1))
    assert not recover_run(MlflowClient(), tmp_path / "journals", killed_run)
    assert journal.exists()
    assert windows(killed_run) == []


def test_journal_does_not_hold_the_name_of_the_machine(killed_run, tmp_path):
    (journal,) = (tmp_path / "journals").iterdir()
    header = json.loads(journal.read_text().splitlines()[0])
    assert platform.node() not in header.values()


def test_other_runs_are_left_alone(killed_run, tmp_path):
    assert not recover_run(MlflowClient(), tmp_path / "journals", "0" * 32)
    assert windows(killed_run) == []
