"""Windows that are shorter than a counter's step are reported together, their mean right."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.metering.meter import MeterSettings
from mlflow_carbon.recording.silent_windows import SilentWindows, Work
from mlflow_carbon.testing.node import gpu_node
from mlflow_carbon.testing.nvml import FakeGpu
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.tracking.track import track
from tests.fakes.recorded import recorded

GPU_0 = ("gpu", 0)


def reading(energy_kwh: float | None, *, silent: bool = False) -> Reading:
    devices = () if energy_kwh is None else (DeviceEnergy("cpu", 0, energy_kwh, "tdp"),)
    return Reading(0.0, 1.0, devices, silent=(GPU_0,) if silent else ())


def test_windows_wait_for_the_counter_and_come_together() -> None:
    windows = SilentWindows()
    assert windows.add(reading(1.0, silent=True), 2, "sample") is None
    assert windows.add(reading(None, silent=True), 3, "sample") is None
    work = windows.add(reading(4.0), 5, "sample")
    assert work is not None
    # energy of the first and the last, units and time of all three
    assert (work.reading.energy_kwh, work.reading.duration_s, work.num_units) == (5.0, 3.0, 10)
    assert windows.add(reading(4.0), 5, "sample") == Work(reading(4.0), 5)


def test_windows_of_another_unit_are_not_merged() -> None:
    windows = SilentWindows()
    windows.add(reading(1.0, silent=True), 2, "sample")
    assert windows.add(reading(4.0), 1, "epoch") == Work(reading(4.0), 1)


def test_windows_before_a_gap_are_lost_with_it() -> None:
    windows = SilentWindows()
    windows.add(reading(1.0, silent=True), 2, "sample")
    assert windows.add(reading(None), 2, "sample") is None
    assert windows.add(reading(4.0), 5, "sample") == Work(reading(4.0), 5)


@pytest.mark.slow
def test_short_windows_over_a_counter_of_100_ms_have_the_mean_of_long_ones(
    store: str, tmp_path: Path
) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:

        def in_steps(_: FakeGpu) -> int:
            return 5_000_000 + 30_000 * int(node.clock.now_s / 0.1 + 1e-9)

        node.nvml.nvmlDeviceGetTotalEnergyConsumption = in_steps  # type: ignore[method-assign]
        meter = node.started_meter(MeterSettings(components="gpu"))
        with track(meter=meter, unit="iteration", region="Sweden", pue=1.0) as tracked:
            for _ in range(500):
                with tracked.window():
                    node.clock.advance(0.02)
        meter.stop()
    data = MlflowClient(tracking_uri=store).get_run(tracked.run_id).data
    # 300 W × 20 ms; 500 windows of which each five share a step
    assert recorded(data)["energy_kwh_per_iteration"] * 3.6e6 == pytest.approx(6.0)
    assert recorded(data)["energy_kwh"] * 3.6e6 == pytest.approx(3_000.0)
    assert (data.tags["carbon.num_units"], data.tags["carbon.num_windows"]) == ("500", "100")
    assert "carbon.error" not in data.tags
