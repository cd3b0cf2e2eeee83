"""A machine made of fakes, put under Carbontracker's two module globals."""

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from carbontracker.components.cpu import intel
from carbontracker.components.gpu import nvidia

from mlflow_carbon.metering.meter import Meter, MeterSettings
from tests.fakes.clock import FakeClock
from tests.fakes.nvml import FakeGpu, FakeNvml, no_gpu
from tests.fakes.power import Power
from tests.fakes.powercap import FakePowercap


@dataclass
class FakeNode:
    """One machine. Inside ``with`` Carbontracker sees its powercap tree and its GPUs."""

    clock: FakeClock
    powercap: FakePowercap
    nvml: FakeNvml

    @property
    def pci_dir(self) -> Path:
        """Where the machine shows its PCI devices; there are none unless a test puts some."""
        return self.powercap.root.parent / "pci"

    def __enter__(self) -> "FakeNode":
        self._real = intel.RAPL_DIR, nvidia.pynvml
        intel.RAPL_DIR, nvidia.pynvml = f"{self.powercap.root}/", self.nvml
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        intel.RAPL_DIR, nvidia.pynvml = self._real

    def started_meter(self, settings: MeterSettings = MeterSettings()) -> Meter:  # noqa: B008
        """Returns a meter that runs on this machine's clock."""
        meter = Meter(settings, clock=self.clock, pci_dir=self.pci_dir)
        meter.start()
        return meter

    def run(self, meter: Meter, duration_s: float, *, interval_s: float = 1.0) -> None:
        """Moves time on and lets the meter read at every interval, as its thread would."""
        end_s = self.clock.now_s + duration_s
        while end_s - self.clock.now_s > 1e-9:
            self.clock.advance(min(interval_s, end_s - self.clock.now_s))
            meter.sample()


def gpu_node(folder: Path, *powers: Power, has_counter: bool = True) -> FakeNode:
    """Returns a machine with one GPU for each power, and no RAPL."""
    clock = FakeClock()
    gpus = [
        FakeGpu(power, has_counter, uuid=f"GPU-{index:08x}-aaaa-bbbb-cccc-{index:012x}")
        for index, power in enumerate(powers)
    ]
    tree = FakePowercap(folder / "powercap", clock)
    return FakeNode(clock, tree, FakeNvml(clock, gpus))


def cpu_node(folder: Path) -> FakeNode:
    """Returns a machine without a GPU, whose powercap tree is still to be filled."""
    clock = FakeClock()
    return FakeNode(clock, FakePowercap(folder / "powercap", clock), no_gpu(clock))
