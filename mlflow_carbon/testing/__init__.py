"""Fakes with known joules, so that code that meters is tested without hardware."""

from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.meter import FakeMeter, meter_process_by, reading
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.nvml import FakeGpu, FakeNvml
from mlflow_carbon.testing.power import Constant, Ramp, SquareWave
from mlflow_carbon.testing.powercap import FakePowercap

__all__ = [
    "Constant",
    "FakeClock",
    "FakeGpu",
    "FakeMeter",
    "FakeNode",
    "FakeNvml",
    "FakePowercap",
    "Ramp",
    "SquareWave",
    "cpu_node",
    "gpu_node",
    "meter_process_by",
    "reading",
]
