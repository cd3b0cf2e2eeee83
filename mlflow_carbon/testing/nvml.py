"""A pynvml whose GPUs follow a fake clock, and which can be told to fail."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml  # type: ignore[import-untyped]

from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.power import Power


@dataclass
class FakeGpu:
    """One GPU; ``mig_uuids`` are the parts it is split into."""

    power: Power
    has_counter: bool = True
    uuid: str = "GPU-00000000-aaaa-bbbb-cccc-000000000000"
    name: str = "NVIDIA A100-SXM4-80GB"
    mig_uuids: tuple[str, ...] = ()
    process_ids: tuple[int, ...] = ()


@dataclass
class FakeNvml:
    """Answers as the module pynvml; ``fails`` is called at every reading and may raise."""

    clock: FakeClock
    gpus: list[FakeGpu]
    fails: Callable[[], None] = lambda: None
    init_error: int | None = None
    num_inits: int = field(default=0, init=False)

    NVMLError = pynvml.NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED

    def nvmlInit(self) -> None:  # noqa: N802
        if self.init_error is not None:
            raise pynvml.NVMLError(self.init_error)
        self.num_inits += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        if self.num_inits == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        self.num_inits -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:  # noqa: N802
        if not 0 <= index < len(self.gpus):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:  # noqa: N802
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeGpu | str) -> str:  # noqa: N802
        return handle if isinstance(handle, str) else handle.uuid

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:  # noqa: N802
        self.fails()
        return round(handle.power.power_w(self.clock.now_s) * 1e3)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeGpu) -> int:  # noqa: N802
        self.fails()
        if not handle.has_counter:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return 5_000_000 + round(handle.power.energy_joules(self.clock.now_s) * 1e3)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: FakeGpu) -> int:  # noqa: N802
        return 7 if handle.mig_uuids else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: FakeGpu, index: int) -> str:  # noqa: N802
        if index >= len(handle.mig_uuids):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return handle.mig_uuids[index]

    def nvmlDeviceGetComputeRunningProcesses(  # noqa: N802
        self, handle: FakeGpu
    ) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=process_id) for process_id in handle.process_ids]


def no_gpu(clock: FakeClock) -> FakeNvml:
    """Returns the pynvml of a machine without a driver."""
    return FakeNvml(clock, [], init_error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
