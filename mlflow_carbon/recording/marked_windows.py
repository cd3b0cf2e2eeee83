"""Windows as they are marked: those of one unit that overlap are measured as one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.metering.protocol import EnergyMeter, OpenWindow


@dataclass(eq=False)
class Stretch:
    """What is measured as one window: as many marks of one unit as overlap.

    Attributes:
        unit: what it counts.
        opened: the meter's window.
        is_automatic: whether a framework marked it, not the user.
        reading: what it cost; ``None`` until its last mark ends.
        num_units: of all its marks.
        num_marks: so far.
        other_units: of windows that were open while it was.
    """

    unit: str
    opened: OpenWindow
    is_automatic: bool
    reading: Reading | None = None
    num_units: float = 0.0
    num_marks: int = 0
    num_running: int = 0
    num_uncounted: int = 0
    other_units: set[str] = field(default_factory=set)


@dataclass(eq=False)
class MarkedWindow:
    """One marked window; its unit is its own from its opening."""

    stretch: Stretch
    is_stopped: bool = False


class MarkedWindows:
    """The windows of one run that are open now."""

    def __init__(self, meter: EnergyMeter, add: Callable[[Stretch], None]) -> None:
        """Opens none yet.

        Args:
            meter: measures them.
            add: takes each stretch that has ended.
        """
        self._meter = meter
        self._add = add
        # By unit and whether a framework marks it: the user's windows take its place.
        self._running: dict[tuple[str, bool], Stretch] = {}
        self._lock = threading.Lock()  # never that of whoever the meter's thread calls

    def open(self, unit: str, *, is_automatic: bool) -> MarkedWindow:
        """Opens a window; it joins one of its unit that is open already."""
        with self._lock:
            stretch = self._running.get((unit, is_automatic))
            if stretch is None:
                stretch = Stretch(unit, self._meter.open_window(), is_automatic)
                for other in self._running.values():
                    other.other_units.add(unit)
                    stretch.other_units.add(other.unit)
                self._running[unit, is_automatic] = stretch
            stretch.num_marks += 1
            stretch.num_running += 1
            stretch.num_uncounted += 1
            return MarkedWindow(stretch)

    def stop(self, window: MarkedWindow) -> None:
        """Ends the window's work; how many units it did is told by ``count``."""
        with self._lock:
            if window.is_stopped:
                return
            window.is_stopped = True
            stretch = window.stretch
            stretch.num_running -= 1
            if stretch.num_running == 0:
                stretch.reading = self._meter.close_window(stretch.opened)
                del self._running[stretch.unit, stretch.is_automatic]

    def count(self, window: MarkedWindow, num_units: float) -> None:
        """Counts the units of a window that has ended; the last one of its stretch hands it on."""
        with self._lock:
            stretch = window.stretch
            stretch.num_units += num_units
            stretch.num_uncounted -= 1
            is_complete = stretch.num_uncounted == 0 and stretch.reading is not None
        if is_complete:
            self._add(stretch)
