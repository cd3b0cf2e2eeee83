"""Runs that several real processes meter at one time: who is tagged as sharing the machine."""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.recording.journal import Journal, journal_dir
from mlflow_carbon.recording.left_journals import writer_of
from mlflow_carbon.recording.neighbours import Neighbours

OTHERS = "b" * 32

# Holds a journal as a metered run does, until its standard input ends.
OTHER = """
import sys
from mlflow_carbon.recording.journal import Journal, journal_dir
journal = Journal(journal_dir(), run_id=sys.argv[1], tracking_uri="sqlite://")
print(journal.path, flush=True)
sys.stdin.read()
"""


@contextmanager
def another_process(run_id=OTHERS):
    """Starts a process that meters a run; yields its journal."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, run_id],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        assert process.stdout is not None
        yield type(journal_dir())(process.stdout.readline().strip())
        process.communicate()


def tags_of(run):
    return MlflowClient().get_run(run.info.run_id).data.tags


def mark_of(journal):
    return journal.with_name(journal.name + ".shared")


@pytest.mark.slow
def test_run_beside_another_processs_run_is_tagged_and_marks_it(fake_meter):
    with another_process() as theirs:
        with mlflow.start_run() as run, mlflow_carbon.track():
            pass
        assert tags_of(run)["carbon.shared"] == "true"
        assert mark_of(theirs).exists()
    assert [path for path in journal_dir().iterdir() if path.name.startswith(run.info.run_id)] == []


def test_run_that_was_there_first_is_tagged_at_its_end(fake_meter):
    with mlflow.start_run() as run, mlflow_carbon.track():
        ours = next(journal_dir().glob(f"{run.info.run_id}*.jsonl"))
        mark_of(ours).touch()  # as whoever came meanwhile and has ended
    assert tags_of(run)["carbon.shared"] == "true"
    assert not mark_of(ours).exists()


@pytest.mark.slow
def test_run_alone_is_not_tagged(fake_meter):
    with another_process():  # has ended
        pass
    with mlflow.start_run() as run, mlflow_carbon.track():
        pass
    assert "carbon.shared" not in tags_of(run)


@pytest.mark.slow
def test_parent_in_another_process_is_no_neighbour(fake_meter):
    with mlflow.start_run() as parent:
        pass
    with another_process(parent.info.run_id) as theirs:
        tags = {"mlflow.parentRunId": parent.info.run_id}
        with mlflow.start_run(tags=tags) as run, mlflow_carbon.track(run_id=run.info.run_id):
            pass
        assert "carbon.shared" not in tags_of(run)
        assert not mark_of(theirs).exists()


@pytest.mark.slow
def test_shares_of_processes_do_not_overlap(fake_meter):
    fake_meter.description = replace(fake_meter.description, attribution="process_share")
    with another_process() as theirs:
        with mlflow.start_run() as run, mlflow_carbon.track():
            pass
        assert "carbon.shared" not in tags_of(run)
        assert mark_of(theirs).exists()  # theirs counts the whole node


@pytest.mark.slow
def test_held_run_is_tagged_once_it_is_released(fake_meter):
    mlflow_carbon.autolog(region="SE")
    with another_process(), mlflow.start_run() as run:
        pass
    assert tags_of(run)["carbon.shared"] == "true"


@pytest.mark.slow
def test_trial_of_a_sweep_is_tagged_where_others_are_there_at_its_end(fake_meter):
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as parent:
        with another_process() as theirs, mlflow.start_run(nested=True) as trial:
            pass
        with mlflow.start_run(nested=True) as later:
            names = [path.name for path in journal_dir().glob("*.jsonl")]
    assert tags_of(trial)["carbon.shared"] == "true"
    assert "carbon.shared" not in tags_of(later)
    assert not theirs.exists() or mark_of(theirs).exists()
    # the parent's journal tells others that the machine is in use; the trial has no figures yet
    assert [name.startswith(parent.info.run_id) for name in names if OTHERS not in name] == [True]


@pytest.mark.parametrize("content", ["", "[]\n", "\0\xff\n", '{"run_id": "x"}\n', "{" * 9999])
def test_odd_files_and_dead_journals_are_no_neighbours(tmp_path, content):
    odd = tmp_path / "odd.journal.jsonl"
    odd.write_text(content, encoding="latin-1")
    (tmp_path / "dangling.journal.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.journal.jsonl").mkdir()
    os.mkfifo(tmp_path / "fifo.journal.jsonl")
    journal = Journal(tmp_path, run_id="a" * 32, tracking_uri="sqlite://")
    assert not Neighbours(journal.path, "a" * 32, None).are_there
    assert writer_of(odd) is None
    assert writer_of(journal.path).run_id == "a" * 32
    journal.close(is_delivered=True)
