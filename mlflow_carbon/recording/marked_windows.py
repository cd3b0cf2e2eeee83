"""Windows as they are marked; overlapping windows of one unit are measured as one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.metering.protocol import EnergyMeter, OpenWindow


@dataclass(eq=False)
class Stretch:
    """Overlapping marked windows of one unit, measured together as one window.

    Attributes:
        unit: what the windows count.
        opened: the meter's window.
        is_automatic: whether a framework marked it, not the user.
        reading: the energy; ``None`` until the last marked window ends.
        num_units: units of all marked windows, except those that hold others.
        num_marks: number of marked windows so far.
        running: marked windows still open, in the order of opening.
        num_uncounted: number of marked windows whose units are not known yet.
        other_units: units of the other windows that were open at the same time.
    """

    unit: str
    opened: OpenWindow
    is_automatic: bool
    reading: Reading | None = None
    num_units: float = 0.0
    num_marks: int = 0
    running: "list[MarkedWindow]" = field(default_factory=list)
    num_uncounted: int = 0
    other_units: set[str] = field(default_factory=set)


@dataclass(eq=False)
class MarkedWindow:
    """One marked window; its unit is fixed when it opens.

    Attributes:
        stretch: the stretch that the window is measured in.
        thread_id: of the thread that opened the window.
        is_stopped: whether the window's work has ended.
        is_outer: whether the window holds another of its unit and thread, whose units count.
    """

    stretch: Stretch
    thread_id: int = field(default_factory=threading.get_ident)
    is_stopped: bool = False
    is_outer: bool = False


class MarkedWindows:
    """The windows of one run that are open now."""

    def __init__(self, meter: EnergyMeter, add: Callable[[Stretch], None]) -> None:
        """Opens no window yet.

        Args:
            meter: measures them.
            add: takes each stretch that has ended.
        """
        self._meter = meter
        self._add = add
        # By unit and whether a framework marks it, as the user's windows replace a framework's.
        self._running: dict[tuple[str, bool], Stretch] = {}
        self._lock = threading.Lock()  # never shared with what the meter's thread calls

    def open(self, unit: str, *, is_automatic: bool) -> MarkedWindow:
        """Opens a window, which joins an open stretch of its unit."""
        with self._lock:
            stretch = self._running.get((unit, is_automatic))
            if stretch is None:
                stretch = Stretch(unit, self._meter.open_window(), is_automatic)
                for other in self._running.values():
                    other.other_units.add(unit)
                    stretch.other_units.add(other.unit)
                self._running[unit, is_automatic] = stretch
            window = MarkedWindow(stretch)
            stretch.num_marks += 1
            stretch.num_uncounted += 1
            stretch.running.append(window)
            return window

    def stop(self, window: MarkedWindow) -> None:
        """Ends the window's work; ``count`` then gives the number of its units."""
        with self._lock:
            if window.is_stopped:
                return
            window.is_stopped = True
            stretch = window.stretch
            position = stretch.running.index(window)
            for earlier in stretch.running[:position]:
                earlier.is_outer |= earlier.thread_id == window.thread_id
            del stretch.running[position]
            if not stretch.running:
                stretch.reading = self._meter.close_window(stretch.opened)
                del self._running[stretch.unit, stretch.is_automatic]

    def count(self, window: MarkedWindow, num_units: float) -> None:
        """Counts the units of an ended window; after the last window, the stretch is handed on.

        A window that holds others of its unit counts their units, not its own.
        """
        with self._lock:
            stretch = window.stretch
            stretch.num_units += 0 if window.is_outer else num_units
            stretch.num_uncounted -= 1
            is_complete = stretch.num_uncounted == 0 and stretch.reading is not None
        if is_complete:
            self._add(stretch)
