"""Calls back a while later, for all runs of a process from one thread that sleeps in between."""

import functools
import os
import threading
import time
from collections import deque
from collections.abc import Callable

TICK_S = 0.25  # a call may be late by this; a sweep of short runs wakes the thread no more often


class Lingering:
    """Calls functions a fixed time after they were handed over; a forked child starts afresh."""

    def __init__(self, linger_s: float) -> None:
        """Starts no thread yet.

        Args:
            linger_s: how long a function waits, at least.
        """
        self._linger_s = linger_s
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()  # when each is due
        self._thread: threading.Thread | None = None

    def call_later(self, function: Callable[[], None]) -> None:
        """Calls a function, which must not raise or wait, once its time has come."""
        with self._changed:
            self._waiting.append((time.monotonic() + self._linger_s, function))
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mlflow-carbon-linger", daemon=True
                )
                self._thread.start()
            elif len(self._waiting) == 1:
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                wait_s = self._waiting[0][0] - time.monotonic()
            if wait_s > 0:
                time.sleep(max(wait_s, TICK_S))
                continue
            _, function = self._waiting.popleft()
            function()


@functools.cache
def lingering(linger_s: float) -> Lingering:
    """Returns the one that lets functions wait for so long, in s."""
    return Lingering(linger_s)
