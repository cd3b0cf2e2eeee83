"""Functions are called a while later, in their order, from one thread of the process."""

import os
import threading
import time

import pytest

from mlflow_carbon.recording.lingering import Lingering


def test_functions_are_called_in_their_order_and_none_before_its_time():
    lingering, called, is_done = Lingering(0.2), [], threading.Event()
    start_s = time.monotonic()
    for number in range(3):
        lingering.call_later(lambda number=number: called.append((number, time.monotonic())))
    lingering.call_later(is_done.set)
    assert is_done.wait(10)
    assert [number for number, _ in called] == [0, 1, 2]
    assert all(time_s - start_s >= 0.2 for _, time_s in called)
    is_done.clear()
    lingering.call_later(is_done.set)  # the thread sleeps by now
    assert is_done.wait(10)


def test_many_functions_take_one_thread():
    lingering, is_done = Lingering(0.1), threading.Event()
    before = threading.active_count()
    for _ in range(50):
        lingering.call_later(lambda: None)
    lingering.call_later(is_done.set)
    assert threading.active_count() <= before + 1
    assert is_done.wait(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child_starts_afresh():
    lingering, called = Lingering(0.05), threading.Event()
    lingering.call_later(lambda: None)
    child = os.fork()
    if child == 0:
        lingering.call_later(called.set)
        os._exit(0 if called.wait(10) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
