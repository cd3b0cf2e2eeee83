"""Carbontracker as an energy meter: its thread and components, corrected and made safe."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription, Reading
from mlflow_carbon.errors import MeterError
from mlflow_carbon.metering.accelerators import PCI_DIR
from mlflow_carbon.metering.clock import Clock, SystemClock
from mlflow_carbon.metering.collector import Collector
from mlflow_carbon.metering.discovery import find_machine
from mlflow_carbon.metering.machine import CarbontrackerParts, Machine
from mlflow_carbon.metering.meter_settings import MeterSettings
from mlflow_carbon.metering.protocol import OpenWindow
from mlflow_carbon.metering.readings import Snapshot, reading_between

__all__ = [
    "Clock",
    "DeviceEnergy",
    "Meter",
    "MeterDescription",
    "MeterSettings",
    "OpenWindow",
    "Reading",
    "SystemClock",
]

# A driver may hang; the user's code waits this long and no longer. start and stop: 2 s at most.
START_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 1.0
JOIN_TIMEOUT_S = 0.5


class Meter:
    """Measures the machine between ``start`` and ``stop``, and windows in between.

    No method raises into the user's run, delays it by more than 2 s, prints, or opens a socket.
    In a forked child every method does nothing.
    """

    def __init__(
        self,
        settings: MeterSettings = MeterSettings(),  # noqa: B008  # frozen
        *,
        clock: Clock | None = None,
        pci_dir: Path = PCI_DIR,
    ) -> None:
        """Looks for nothing yet.

        Args:
            settings: what is measured, and how.
            clock: ``None`` takes this machine's; a test brings its own.
            pci_dir: where the kernel shows its PCI devices.
        """
        self._settings = settings
        self._pci_dir = pci_dir
        self._clock = clock = clock or SystemClock()
        self._num_threads = os.cpu_count() or 1
        self._process_id: int | None = None
        self._tracker = "carbontracker"
        self._collector = Collector(self._find_machine, clock=clock, interval_s=settings.interval_s)
        self._thread: Any = None
        self._whole: OpenWindow | None = None
        self._total: Reading | None = None
        self._open_windows: set[OpenWindow] = set()

    def start(self) -> None:
        """Finds the devices and starts to read them; failures are in ``description``."""
        if self._whole is not None:
            return
        self._process_id = os.getpid()
        try:
            self._tracker = f"carbontracker {version('carbontracker')}"
            self._thread = _start_carbontracker_thread(self._collector)
        except Exception as error:  # whatever it or its dependencies raise, the run goes on
            self._collector.add_problem(f"Carbontracker does not start: {error!r}.")
            self._collector.end()
        self._whole = self._opened(self._collector.snapshot(START_TIMEOUT_S))

    def open_window(self) -> OpenWindow:
        """Starts a window; any number may be open at once, in any thread."""
        window = self._opened(self._synchronized_snapshot())
        self._open_windows.add(window)
        return window

    def close_window(self, window: OpenWindow) -> Reading:
        """Returns the energy since the window was opened.

        Raises:
            MeterError: the window was closed before.
        """
        if window not in self._open_windows:
            raise MeterError("This window is closed already; open one window for each reading.")
        self._open_windows.remove(window)
        return self._reading(window, self._synchronized_snapshot())

    def reading_so_far(self, window: OpenWindow) -> Reading:
        """Returns the energy from the window's opening to the latest reading; leaves it open."""
        return self._reading(window, self._collector.last_snapshot)

    def every(self, duration_s: float, use: Callable[[Reading], None]) -> Callable[[], None]:
        """Hands the energy of each ``duration_s`` to ``use``, in the meter's thread.

        The first one begins with the latest reading.

        Returns:
            A function that ends this; ``use`` is not called after it, nor after ``stop``.
        """
        is_fresh = self._is_ours() and self.is_answered
        window = self._opened(self._collector.last_snapshot if is_fresh else self._snapshot())

        def look(snapshot: Snapshot) -> None:
            nonlocal window
            if snapshot.time_s - window.opened.time_s < duration_s:
                return
            reading = self._reading(window, snapshot)
            # The next one begins where this one ends.
            window = self._opened(replace(snapshot, ended_s=None))
            use(reading)

        self._collector.listen(look)
        return lambda: self._collector.ignore(look)

    def sample(self) -> None:
        """Reads every device now, in addition to the regular readings."""
        self._snapshot()

    @property
    def is_answered(self) -> bool:
        """Whether the devices have answered every request so far; a device that hangs has not."""
        return not self._collector.is_stalled

    def stop(self) -> Reading:
        """Ends the thread and returns the energy since ``start``, gaps between windows included.

        Another call returns the same reading.
        """
        if self._total is None:
            closed = self._snapshot()
            self._total = self._reading(self._whole or self._opened(closed), closed)
            if self._is_ours() and self._thread is not None:
                _end_carbontracker_thread(self._thread, self._collector)
        return self._total

    @property
    def description(self) -> MeterDescription:
        """What is measured here and how; complete once ``start`` has returned."""
        machine = self._collector.machine or Machine()
        counting = machine.without(self._collector.dead)
        return MeterDescription(
            components=tuple(dict.fromkeys(source.component for source in counting.sources)),
            method_by_component=counting.method_by_component(self._settings),
            cpu_tdp_source=machine.cpu_tdp_source,
            attribution=machine.attribution(self._settings),
            hardware=", ".join(machine.hardware),
            tracker=self._tracker,
            problems=self._collector.problems,
            unread=machine.unread,
            cpu_idle_power_w=machine.cpu_idle_power_w,
        )

    def _find_machine(self) -> Machine:
        return find_machine(
            self._settings,
            _carbontracker_parts(),
            clock=self._clock,
            environment=os.environ,
            pci_dir=self._pci_dir,
        )

    def _is_ours(self) -> bool:
        """Returns whether this process has the thread and is not a forked child."""
        return os.getpid() == self._process_id

    def _synchronized_snapshot(self) -> Snapshot:
        if self._is_ours() and "gpu" in self._settings.measured_components:
            synchronize_gpu(sys.modules.get("torch"))
        return self._snapshot()

    def _snapshot(self) -> Snapshot:
        if not self._is_ours() or self._whole is None:
            return Snapshot(self._clock.monotonic_s(), {})
        return self._collector.snapshot(READ_TIMEOUT_S)

    def _opened(self, snapshot: Snapshot) -> OpenWindow:
        """Returns a window that opens with a snapshot, however old."""
        since_s = self._clock.monotonic_s() - snapshot.opens_s
        return OpenWindow(snapshot, self._clock.unix_s() - since_s)

    def _reading(self, window: OpenWindow, closed: Snapshot) -> Reading:
        machine = self._collector.machine or Machine()
        methods = {source.device: source.method for source in machine.sources}
        return reading_between(
            window.opened,
            closed,
            methods,
            start_unix_s=window.start_unix_s,
            num_unread=len(machine.unread),
            num_threads=self._num_threads,
        )


def synchronize_gpu(torch: Any) -> None:
    """Waits until the GPUs have done the work that this process gave them.

    Args:
        torch: the torch module, or ``None`` where it is not loaded.
    """
    try:
        if torch is None or not torch.cuda.is_initialized():
            return
        if torch.cuda.is_current_stream_capturing():  # waiting would break the user's CUDA graph
            return
        for index in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(index) > 0:  # elsewhere a wait would make a context
                torch.cuda.synchronize(index)
    except Exception:
        return  # a CUDA error is the user's: his own next call raises it


# Carbontracker. It is imported when the first meter starts, as importing takes 0.1 to 0.5 s.


class _SilentLog:
    """Stands for Carbontracker's logger, which prints to stdout."""

    def info(self, message: str) -> None:
        """Ignores the message."""

    def output(self, message: str, verbose_level: int = 0) -> None:
        """Ignores the message."""

    def err_critical(self, message: str) -> None:
        """Ignores the message: the collector keeps the exception."""


def _start_carbontracker_thread(collector: Collector) -> Any:
    from carbontracker.tracker import CarbonTrackerThread

    thread = CarbonTrackerThread(
        components=[collector],
        logger=_SilentLog(),
        ignore_errors=True,  # else an error would end the process: os._exit(70)
        delete=collector.shutdown,
        update_interval=0,  # the collector waits
    )
    thread.epoch_start()
    return thread


def _end_carbontracker_thread(thread: Any, collector: Collector) -> None:
    """Does what the thread's own ``stop`` does, but waits for the thread for a limited time."""
    thread.shutdown_event.set()
    thread.measuring_event.set()
    collector.end()
    if thread is not threading.current_thread():
        thread.join(JOIN_TIMEOUT_S)


def _carbontracker_parts() -> CarbontrackerParts:
    from carbontracker.components.apple_silicon import powermetrics
    from carbontracker.components.cpu import intel
    from carbontracker.components.cpu.sim_cpu import SimulatedCPUHandler
    from carbontracker.components.gpu import nvidia
    from carbontracker.components.gpu.sim_gpu import SimulatedGPUHandler

    return CarbontrackerParts(
        nvidia=nvidia,
        intel=intel,
        powermetrics=powermetrics,
        simulated_cpu=SimulatedCPUHandler,
        simulated_gpu=SimulatedGPUHandler,
        cpu_table=Path(str(files("carbontracker") / "data" / "cpu_power.csv")),
    )


@contextmanager
def another_machine(powercap_dir: str, pynvml: Any) -> Iterator[None]:
    """Lets Carbontracker see another powercap tree and another NVML in the block, for tests."""
    from carbontracker.components.cpu import intel
    from carbontracker.components.gpu import nvidia

    real = intel.RAPL_DIR, nvidia.pynvml
    intel.RAPL_DIR, nvidia.pynvml = f"{powercap_dir}/", pynvml
    try:
        yield
    finally:
        intel.RAPL_DIR, nvidia.pynvml = real
