"""The public fakes are what they say, so that users can rely on figures worked out on paper."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

import mlflow_carbon
from mlflow_carbon import testing
from mlflow_carbon.errors import MeterError
from mlflow_carbon.metering.protocol import EnergyMeter
from mlflow_carbon.testing import Constant, FakeMeter, cpu_node, gpu_node, meter_process_by, reading
from mlflow_carbon.tracking.process_metering import process_metering
from tests.fakes.recorded import recorded


def test_every_public_name_is_there_and_documented():
    page = (Path(__file__).parent.parent / "docs" / "testing.md").read_text()
    for name in testing.__all__:
        assert getattr(testing, name).__doc__
        assert f"`{name}`" in page


def energy_joules(meter: EnergyMeter, work: Callable[[], None]) -> float:
    """Returns what a meter of whatever kind says of the work."""
    meter.every(60, lambda _: None)()
    window = meter.open_window()
    work()
    return pytest.approx((meter.close_window(window).energy_kwh or 0.0) * 3.6e6)


def test_real_and_fake_meter_are_meters(tmp_path):
    with gpu_node(tmp_path, Constant(300.0)) as node:
        real = node.started_meter(mlflow_carbon.MeterSettings(components="gpu"))
        assert energy_joules(real, lambda: node.run(real, 2.0)) == 600
        real.stop()
    assert energy_joules(FakeMeter([reading(cpu_joules=7)]), lambda: None) == 7


def test_fake_meter_without_readings_says_what_it_needs():
    meter = FakeMeter([])
    with pytest.raises(MeterError, match="no reading for window 1; give it one for each window"):
        meter.close_window(meter.open_window())


@pytest.mark.slow
def test_lent_meter_measures_each_run_of_its_block_and_none_after_it(store):
    meter = FakeMeter([reading(cpu_joules=36), reading(cpu_joules=72)])
    with meter_process_by(meter):
        for _ in range(2):
            with mlflow.start_run() as run, mlflow_carbon.track(region="SE"):
                assert process_metering().meter is meter
    energy_kwh = recorded(mlflow.get_run(run.info.run_id))["energy_kwh"]
    assert energy_kwh == pytest.approx(72 / 3.6e6)
    assert process_metering().meter is None


def test_package_zone_of_a_fake_machine_is_counted(tmp_path):
    with cpu_node(str(tmp_path)) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter(mlflow_carbon.MeterSettings(components="cpu"))
        window = meter.open_window()
        node.run(meter, 30.0)
        measured = meter.close_window(window)
        meter.stop()
    assert measured.energy_kwh == pytest.approx(3_000 / 3.6e6)  # 100 W × 30 s
    assert {device.method for device in measured.devices} == {"counter"}


def test_metering_of_the_process_is_made_when_it_is_first_asked_for():
    assert process_metering() is process_metering()
