"""The meter on this machine in real time, and what it hands over every minute."""

import time
from pathlib import Path

import pytest

from mlflow_carbon.metering.meter import Meter, MeterSettings, Reading
from mlflow_carbon.testing.node import gpu_node
from mlflow_carbon.testing.power import Constant


def test_meter_measures_this_machine_in_real_time() -> None:
    meter = Meter(MeterSettings(components="cpu"))
    meter.start()
    window = meter.open_window()
    end_s = time.monotonic() + 0.3
    while time.monotonic() < end_s:  # keeps one thread busy
        pass
    reading = meter.close_window(window)
    total = meter.stop()
    assert 0.3 <= reading.duration_s < 2
    assert reading.energy_kwh is not None
    assert total.energy_kwh is not None
    # one busy thread of any CPU draws between 0.1 W and a whole package's 1000 W
    assert 0.1 < reading.energy_kwh * 3.6e6 / reading.duration_s < 1000
    # our share of the CPU is told in ticks of 10 ms, over the window's 0.3 s and over the meter's
    assert total.energy_kwh >= 0.9 * reading.energy_kwh


def test_every_minute_is_handed_over_until_the_caller_ends_it(tmp_path: Path) -> None:
    minutes: list[Reading] = []
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(MeterSettings(components="gpu"))
        end = meter.every(60.0, minutes.append)
        node.run(meter, 130.0)
        end()
        node.run(meter, 60.0)
        meter.stop()
    assert [reading.duration_s for reading in minutes] == [60.0, 60.0]
    # 100 W for 60 s = 6000 J
    assert [reading.energy_kwh for reading in minutes] == [pytest.approx(6000 / 3.6e6)] * 2


def test_use_of_a_minute_that_fails_is_a_problem_and_the_readings_go_on(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(MeterSettings(components="gpu"))
        meter.every(60.0, lambda _: 1 / 0)
        node.run(meter, 90.0)
        total = meter.stop()
    assert total.duration_s == 90.0
    assert "could not be used: ZeroDivisionError" in meter.description.problems[0]


def test_reading_so_far_is_that_of_the_latest_reading_and_leaves_the_window_open(
    tmp_path: Path,
) -> None:
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(MeterSettings(components="gpu"))
        window = meter.open_window()
        node.run(meter, 10.0)
        node.clock.advance(5.0)  # nobody reads
        so_far = meter.reading_so_far(window)
        whole = meter.close_window(window)
        meter.stop()
    # 100 W for 10 s, and for 15 s
    assert (so_far.duration_s, so_far.energy_kwh) == (10.0, pytest.approx(1000 / 3.6e6))
    assert whole.energy_kwh == pytest.approx(1500 / 3.6e6)
