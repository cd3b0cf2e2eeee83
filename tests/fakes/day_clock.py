"""A time of day that the test moves: whoever sleeps moves it on, and nobody waits."""

from collections.abc import Callable

from mlflow_carbon.tracking.waiting import DayClock
from mlflow_carbon.units import unix_s_from_iso8601


class MovedClock(DayClock):
    """Begins at a time that the test names."""

    def __init__(self, text: str, *, ends: Callable[[float], None] = lambda _: None) -> None:
        """Sets the clock.

        Args:
            text: ISO 8601.
            ends: called with the time after each sleep; may raise what ends a wait.
        """
        self.now_s = unix_s_from_iso8601(text)
        self.naps_s: list[float] = []
        self._ends = ends

    def unix_s(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.naps_s.append(seconds)
        self.now_s += seconds
        self._ends(self.now_s)


def interrupted_at(text: str) -> Callable[[float], None]:
    """Returns what presses Ctrl-C at a time."""
    at_s = unix_s_from_iso8601(text)

    def press(now_s: float) -> None:
        if now_s >= at_s:
            raise KeyboardInterrupt

    return press
