"""Loops that were left: whether their last item was done, judged by how long it took."""

import time
from dataclasses import dataclass
from typing import Any

MIN_BODY_S = 1e-3  # a loop that was left sooner has done nothing with its item


@dataclass(frozen=True)
class LeftWindow:
    """A window in which a loop was left: it is not known yet whether its last item counts."""

    window: Any
    num_done: int
    is_likely_done: bool


class Bodies:
    """How long the loop takes with an item."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._total_s = 0.0
        self._num = 0

    def begin(self) -> None:
        """The loop gets an item."""
        self._began_s = time.monotonic()

    def end(self) -> None:
        """The loop asks for the next item."""
        self._total_s += time.monotonic() - self._began_s
        self._num += 1

    def is_likely_done(self) -> bool:
        """Returns whether the loop has worked on the item that it was left at.

        Nothing tells ``break`` at the end of a body from ``zip`` with something shorter but time.
        """
        usual_s = self._total_s / self._num if self._num else 0.0
        return time.monotonic() - self._began_s >= max(usual_s / 2, MIN_BODY_S)
