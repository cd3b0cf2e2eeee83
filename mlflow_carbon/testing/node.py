"""A machine made of fakes, put under Carbontracker's two module globals."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from mlflow_carbon.metering.meter import Meter, MeterSettings, another_machine
from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.nvml import FakeGpu, FakeNvml, no_gpu
from mlflow_carbon.testing.power import Power
from mlflow_carbon.testing.powercap import FakePowercap


@dataclass
class FakeNode:
    """One machine. Inside ``with`` Carbontracker sees its powercap tree and its GPUs."""

    clock: FakeClock
    powercap: FakePowercap
    nvml: FakeNvml
    _entered: ExitStack = field(default_factory=ExitStack, init=False)

    @property
    def pci_dir(self) -> Path:
        """The folder of the machine's PCI devices; empty unless a test adds devices."""
        return self.powercap.root.parent / "pci"

    def __enter__(self) -> "FakeNode":
        self._entered.enter_context(another_machine(str(self.powercap.root), self.nvml))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._entered.close()

    def started_meter(self, settings: MeterSettings = MeterSettings()) -> Meter:  # noqa: B008
        """Returns a meter of this machine, on its clock; ``stop`` it before the block ends."""
        meter = Meter(settings, clock=self.clock, pci_dir=self.pci_dir)
        meter.start()
        return meter

    def run(self, meter: Meter, duration_s: float, *, interval_s: float = 1.0) -> None:
        """Moves time on and lets the meter read at every interval, as its thread would."""
        end_s = self.clock.now_s + duration_s
        while end_s - self.clock.now_s > 1e-9:
            self.clock.advance(min(interval_s, end_s - self.clock.now_s))
            meter.sample()


def gpu_node(folder: str | Path, *powers: Power, has_counter: bool = True) -> FakeNode:
    """Returns a machine with one GPU for each power, and no RAPL.

    Args:
        folder: an empty one, for the powercap tree.
        powers: of each GPU over time.
        has_counter: whether the GPUs count their energy; else their power is sampled.
    """
    clock = FakeClock()
    gpus = [
        FakeGpu(power, has_counter, uuid=f"GPU-{index:08x}-aaaa-bbbb-cccc-{index:012x}")
        for index, power in enumerate(powers)
    ]
    tree = FakePowercap(Path(folder) / "powercap", clock)
    return FakeNode(clock, tree, FakeNvml(clock, gpus))


def cpu_node(folder: str | Path) -> FakeNode:
    """Returns a machine without a GPU, whose powercap tree is still to be filled.

    ``node.powercap.add_zone("0", "package-0", Constant(100.0))`` adds a CPU package.
    """
    clock = FakeClock()
    return FakeNode(clock, FakePowercap(Path(folder) / "powercap", clock), no_gpu(clock))
