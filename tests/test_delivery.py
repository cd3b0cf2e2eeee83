"""Figures reach the store in order and once, whatever the store does; the rest stays on disk."""

import json
import queue
import signal
import subprocess
import sys
import threading

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from mlflow_carbon.recording.delivery import MAX_POINTS, Delivery
from mlflow_carbon.recording.journal import Batch, Journal, Point
from mlflow_carbon.recording.left_journals import left_behind

RUN_ID = "a" * 32


def batch(step: int) -> Batch:
    return Batch((Point("carbon/window/energy_kwh", step / 10, 1_700_000_000_000, step),), {})


class ScriptedStore:
    """Raises the scripted errors first, then takes every batch."""

    def __init__(self, errors=()):
        self.errors = list(errors)
        self.steps: list[int] = []

    def write(self, received: Batch) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.steps += [point.step for point in received.points]


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path, run_id=RUN_ID, tracking_uri="http://user:secret@host:5000")


def test_batches_arrive_in_order_and_the_journal_is_gone(journal, tmp_path):
    store = ScriptedStore()
    delivery = Delivery(store.write, journal)
    for step in range(1, 51):
        delivery.put(batch(step))
    assert delivery.close()
    assert store.steps == list(range(1, 51))
    assert list(tmp_path.iterdir()) == []


def test_store_that_is_down_at_first_gets_everything_when_it_is_back(journal):
    store = ScriptedStore([ConnectionError("down")] * 3)
    delivery = Delivery(store.write, journal, first_retry_s=0.01)
    for step in (1, 2, 3):
        delivery.put(batch(step))
    assert delivery.close()
    assert store.steps == [1, 2, 3]


def test_store_that_blocks_holds_the_caller_up_for_no_call_and_gets_the_rest_together(journal):
    unblocked = threading.Event()
    calls: list[list[int]] = []

    def write(received: Batch) -> None:
        unblocked.wait(30)
        calls.append([point.step for point in received.points])

    delivery = Delivery(write, journal)
    for step in range(1, 101):
        delivery.put(batch(step))  # would wait for ever if it waited for the store
    assert calls == []
    unblocked.set()
    assert delivery.close()
    assert [step for steps in calls for step in steps] == list(range(1, 101))
    assert len(calls) <= 2  # what was there at the first call, and all the rest


def test_store_that_refuses_leaves_the_batches_in_the_journal(journal, tmp_path, caplog):
    store = ScriptedStore([PermissionError("403")] * 1000)
    delivery = Delivery(store.write, journal, first_retry_s=0.01)
    delivery.put(batch(1))
    delivery.put(batch(2))
    assert not delivery.close(timeout_s=0.1)
    assert len([r for r in caplog.records if "cannot be written: 403" in r.message]) == 1
    assert "2 sets of energy figures were not delivered: kept" in caplog.text
    (path,) = tmp_path.iterdir()
    assert len(path.read_text().splitlines()) == 3  # a header and two batches


@pytest.mark.slow
def test_call_that_hangs_is_overtaken_at_the_end(journal):
    released = threading.Event()
    first_call = threading.Event()
    steps: list[int] = []

    def write(received: Batch) -> None:
        if not first_call.is_set():
            first_call.set()
            released.wait(30)
        steps.extend(point.step for point in received.points)

    delivery = Delivery(write, journal)
    delivery.put(batch(1))
    assert first_call.wait(5)
    assert delivery.close(timeout_s=5)
    assert steps == [1]
    released.set()


def test_batch_that_the_store_calls_invalid_is_given_up(journal):
    gone = MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST)
    store = ScriptedStore([gone])
    delivery = Delivery(store.write, journal)
    delivery.put(batch(1))
    assert delivery.close()
    assert store.steps == []


def test_no_journal_still_delivers():
    store = ScriptedStore()
    delivery = Delivery(store.write, None)
    delivery.put(batch(1))
    assert delivery.close()
    assert store.steps == [1]


def test_no_thread_is_left(journal):
    before = threading.active_count()
    delivery = Delivery(ScriptedStore().write, journal)
    delivery.put(batch(1))
    delivery.close()
    assert threading.active_count() == before


def test_journal_holds_no_credentials(journal, tmp_path):
    (path,) = tmp_path.iterdir()
    assert "secret" not in path.read_text()
    assert json.loads(path.read_text())["tracking_uri"] == "http://host:5000"


KILLED = f"""
import os, signal, sys
from pathlib import Path
from mlflow_carbon.recording.journal import Batch, Journal, Point
journal = Journal(Path(sys.argv[1]), run_id="{RUN_ID}", tracking_uri="sqlite:///mlflow.db")
for step in (1, 2, 3):
    point = Point("carbon/energy_kwh", 0.1 * step, 1, step)
    journal.append(Batch((point,), {{"carbon.unit": "x"}}))
journal.mark_delivered(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_process_leaves_what_was_not_delivered(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = left_behind(tmp_path)
    assert left.run_id == RUN_ID
    assert [batch.points[0].step for batch in left.batches] == [2, 3]
    assert left.batches[0].points[0] == Point("carbon/energy_kwh", 0.2, 1, 2)
    assert left.batches[0].tags == {"carbon.unit": "x"}


def test_journal_of_a_living_process_is_left_alone(journal, tmp_path):
    assert list(left_behind(tmp_path)) == []


def test_line_that_was_cut_off_is_left_out(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().rsplit("\n", 2)[0] + '\n{"points": [["carb')
    (left,) = left_behind(tmp_path)
    assert [batch.points[0].step for batch in left.batches] == [1, 2, 3]


def test_first_batch_waits_for_company_and_closing_ends_the_wait(journal):
    calls = []
    delivery = Delivery(lambda sent: calls.append(len(sent.points)), journal, linger_s=60.0)
    for step in (1, 2):
        delivery.put(batch(step))
    assert delivery.close()
    assert calls == [2]


def test_batches_that_fill_a_call_wait_no_longer(journal):
    calls: queue.Queue[int] = queue.Queue()
    delivery = Delivery(lambda received: calls.put(len(received.points)), journal, interval_s=60.0)
    delivery.put(batch(0))
    assert calls.get(timeout=10) == 1
    points = tuple(Point("carbon/window/energy_kwh", 1.0, 1, step) for step in range(MAX_POINTS))
    delivery.put(Batch(points[1:]))
    assert calls.empty()
    delivery.put(Batch(points[:1]))
    assert calls.get(timeout=10) == MAX_POINTS
    assert delivery.close()


def test_batches_that_fill_no_call_wait_for_others(journal):
    calls: queue.Queue[int] = queue.Queue()
    delivery = Delivery(lambda received: calls.put(len(received.points)), journal, interval_s=60.0)
    delivery.put(batch(0))
    assert calls.get(timeout=10) == 1
    for step in (1, 2, 3):
        delivery.put(batch(step))
    assert delivery.close()
    assert calls.get_nowait() == 3


# A trial of a sweep


def opened_later(journal, opened):
    def open_journal():
        opened.append(journal)
        return journal

    return open_journal


@pytest.mark.parametrize("is_quick", [True, False])
def test_delivery_that_is_closed_first_sends_all_in_one_call_by_a_thread_if_need_be(
    journal, is_quick
):
    calls = []
    delivery = Delivery(
        lambda sent: calls.append((len(sent.points), threading.current_thread())),
        journal,
        linger_s=60.0,
        is_quick=is_quick,
    )
    for step in (1, 2):
        delivery.put(batch(step))
    assert delivery.close()
    ((num_points, thread),) = calls
    assert num_points == 2
    assert (thread is threading.current_thread()) == is_quick


def test_first_batch_is_sent_once_it_has_waited(journal):
    calls: queue.Queue[int] = queue.Queue()
    delivery = Delivery(
        lambda sent: calls.put(len(sent.points)), journal, linger_s=0.05, is_quick=True
    )
    delivery.put(batch(1))
    assert calls.get(timeout=10) == 1
    assert delivery.close()


def test_store_that_fails_at_first_gets_all_from_a_thread(journal, tmp_path):
    store = ScriptedStore([ConnectionError("locked")])
    delivery = Delivery(
        store.write, None, open_journal=opened_later(journal, []), linger_s=60.0, is_quick=True
    )
    delivery.put(Batch(tags={"carbon.schema": "2"}))
    delivery.put(batch(1))
    assert delivery.close()
    assert store.steps == [1]
    assert list(tmp_path.iterdir()) == []


def test_store_that_refuses_a_trial_leaves_all_of_it_in_the_journal(journal):
    def refuse(sent):
        raise ConnectionError("down")

    opened = []
    delivery = Delivery(
        refuse, None, open_journal=opened_later(journal, opened), linger_s=60.0, is_quick=True
    )
    tags = Batch(tags={"carbon.schema": "2"})
    delivery.put(tags)
    assert not delivery.close(timeout_s=0.2)
    assert opened == [journal]
    assert json.loads(journal.path.read_text().splitlines()[1])["tags"] == tags.tags


def test_journal_is_opened_once_there_are_figures_and_holds_what_came_before(journal, tmp_path):
    opened = []
    delivery = Delivery(
        lambda _: None, None, open_journal=opened_later(journal, opened), linger_s=60.0
    )
    delivery.put(Batch(tags={"carbon.schema": "2"}))
    assert opened == []
    delivery.put(batch(1))
    delivery.put(batch(2))
    assert opened == [journal]
    records = [json.loads(line) for line in journal.path.read_text().splitlines()[1:]]
    assert [record["tags"] or record["points"][0][3] for record in records] == [
        {"carbon.schema": "2"},
        1,
        2,
    ]
    assert delivery.close()


def test_ctrl_c_while_the_caller_sends_leaves_the_rest_to_a_thread(journal):
    sent_by = []

    def write(sent):
        sent_by.append(threading.current_thread())
        if len(sent_by) == 1:
            raise KeyboardInterrupt

    delivery = Delivery(write, journal, linger_s=60.0, is_quick=True)
    delivery.put(batch(1))
    with pytest.raises(KeyboardInterrupt):
        delivery.close()
    assert delivery.close()
    assert len(sent_by) == 2
