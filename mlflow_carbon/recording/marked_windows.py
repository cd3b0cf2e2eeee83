"""Windows as they are marked: those of one unit that overlap are measured as one."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.metering.protocol import EnergyMeter, OpenWindow


@dataclass(eq=False)
class Stretch:
    """What is measured as one window: as many marked ones of one unit as overlap.

    Attributes:
        unit: what it counts.
        opened: the meter's window.
        is_automatic: whether a framework marked it, not the user.
        reading: what it cost; ``None`` until its last marked window ends.
        num_units: of all its marked windows that hold no others.
        num_marks: marked windows so far.
        running: those that go on, in the order in which they were opened.
        num_uncounted: those whose units are still to be told.
        other_units: of windows that were open while it was.
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
    """One marked window; its unit is its own from its opening.

    Attributes:
        stretch: what it is measured with.
        thread_id: of the thread that opened it.
        is_stopped: whether its work has ended.
        is_outer: whether it holds another one of its unit and thread, whose units count.
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
            window = MarkedWindow(stretch)
            stretch.num_marks += 1
            stretch.num_uncounted += 1
            stretch.running.append(window)
            return window

    def stop(self, window: MarkedWindow) -> None:
        """Ends the window's work; how many units it did is told by ``count``."""
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
        """Counts the units of a window that has ended; the last one of its stretch hands it on.

        A window that holds others of its unit counts their units, not its own.
        """
        with self._lock:
            stretch = window.stretch
            stretch.num_units += 0 if window.is_outer else num_units
            stretch.num_uncounted -= 1
            is_complete = stretch.num_uncounted == 0 and stretch.reading is not None
        if is_complete:
            self._add(stretch)
