"""The comparison on a real GPU runs; here over a fake one that follows real time."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from carbontracker.components.gpu import nvidia

from benchmarks.gpu_validation import WithoutCounter, kept, measure, table, train
from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.node import FakeNode
from mlflow_carbon.testing.nvml import FakeGpu, FakeNvml
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.testing.powercap import FakePowercap


class RealTime(FakeClock):
    """A clock that goes by itself."""

    @property
    def now_s(self) -> float:
        return time.monotonic()

    @now_s.setter
    def now_s(self, _: float) -> None:
        """Real time cannot be set."""


@pytest.fixture
def node(tmp_path: Path) -> FakeNode:
    clock = RealTime()
    gpu = FakeGpu(Constant(300.0))
    return FakeNode(clock, FakePowercap(tmp_path / "powercap", clock), FakeNvml(clock, [gpu]))


@pytest.mark.slow
def test_all_ways_agree_on_a_constant_power(node: FakeNode) -> None:
    with node:
        measured = measure(time.sleep, 1.5)
    truth_joules = 300.0 * measured.duration_s
    assert measured.counter_joules == pytest.approx(truth_joules, rel=0.1)
    assert measured.our_joules == pytest.approx(measured.counter_joules, rel=0.1)
    assert measured.our_sampled_joules == pytest.approx(measured.counter_joules, rel=0.1)
    # one GPU, so nothing to average over
    assert measured.carbontracker_joules == pytest.approx(measured.counter_joules, rel=0.2)
    assert all(power_w == 300.0 for _, power_w, _ in measured.trace)
    assert len(measured.trace) >= 10
    assert "| NVML counter, read directly |" in table(measured)


def test_energy_that_was_not_measured_is_no_zero() -> None:
    lines = table(replace(kept(), our_joules=None)).splitlines()
    assert "| our meter (counter) | - | - |" in lines


def test_without_counter_hides_the_counter_only(node: FakeNode) -> None:
    with node:
        hidden = WithoutCounter(nvidia.pynvml)
        gpu = hidden.nvmlDeviceGetHandleByIndex(0)
        assert hidden.nvmlDeviceGetPowerUsage(gpu) == 300_000
        with pytest.raises(hidden.NVMLError):
            hidden.nvmlDeviceGetTotalEnergyConsumption(gpu)


@pytest.mark.gpu
def test_our_meter_agrees_with_the_counter_of_a_real_gpu() -> None:
    measured = measure(train, 10.0)
    assert measured.our_joules == pytest.approx(measured.counter_joules, rel=0.1)
    assert measured.our_sampled_joules == pytest.approx(measured.counter_joules, rel=0.1)
