"""Who reads the devices: Carbontracker's thread, or the caller where no driver is asked."""

import itertools
import threading
import time

import pytest

from mlflow_carbon.metering.clock import SystemClock
from mlflow_carbon.metering.collector import Collector
from mlflow_carbon.metering.machine import Machine
from mlflow_carbon.metering.readings import EnergySource


def collector_of(*methods, read=None, interval_s=60.0):
    """Returns a collector without a thread, and the names of the threads that have read."""
    readers = []
    read = read or itertools.count().__next__

    def read_joules():
        readers.append(threading.current_thread().name)
        return float(read())

    sources = tuple(
        EnergySource("cpu", index, method, read_joules) for index, method in enumerate(methods)
    )
    collector = Collector(
        lambda: Machine(sources=sources), clock=SystemClock(), interval_s=interval_s
    )
    collector.init()
    return collector, readers


def test_cpu_of_estimated_power_is_read_by_the_caller():
    collector, readers = collector_of("tdp")
    first, second = (collector.snapshot(1.0) for _ in range(2))
    assert readers == [threading.current_thread().name] * 2
    (before,), (after,) = first.tallies.values(), second.tallies.values()
    assert after.energy_joules - before.energy_joules == 1.0
    assert first.time_s <= first.ended_s <= second.time_s
    assert collector.last_snapshot.tallies == second.tallies


@pytest.mark.parametrize("methods", [("counter",), ("tdp", "sampled")])
def test_device_with_a_driver_is_left_to_the_thread(methods):
    collector, readers = collector_of(*methods)
    collector.snapshot(0.01)
    assert readers == []
    assert collector.is_stalled


def test_caller_and_thread_never_read_at_one_time():
    joules, is_reading, overlaps = itertools.count(), threading.Lock(), []

    def read():
        overlaps.append(not is_reading.acquire(blocking=False))
        time.sleep(0)  # lets the other thread in
        is_reading.release()
        return next(joules)

    collector, readers = collector_of("tdp", read=read, interval_s=0.0)
    thread = threading.Thread(target=lambda: [collector.collect_power_usage(0) for _ in range(200)])
    thread.start()
    for _ in range(200):
        collector.snapshot(1.0)
    thread.join()
    assert len(set(readers)) == 2
    assert overlaps == [False] * 400
    (tally,) = collector.last_snapshot.tallies.values()
    assert tally.energy_joules == 399.0  # every reading but the first adds a joule


def test_reading_that_takes_too_long_holds_others_up_for_a_limited_time():
    is_reading, may_end = threading.Event(), threading.Event()

    def read():
        is_reading.set()
        may_end.wait(10)
        return 0.0

    collector, _ = collector_of("tdp", read=read)
    slow = threading.Thread(target=collector.snapshot, args=(1.0,))
    slow.start()
    assert is_reading.wait(10)
    collector.snapshot(0.01)  # would wait for ever
    assert collector.is_stalled
    may_end.set()
    slow.join()
