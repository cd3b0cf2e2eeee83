"""Time and CPU time as the meter sees them, so that a test can bring its own."""

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

import psutil

from mlflow_carbon.metering.local_ranks import LocalRanks


class Clock(Protocol):
    """The times that the meter asks for, all in s."""

    def monotonic_s(self) -> float:
        """Returns a time that never jumps."""
        ...

    def unix_s(self) -> float:
        """Returns the time of day."""
        ...

    def machine_cpu_s(self) -> float:
        """Returns the CPU time that all processes have used, added over hardware threads."""
        ...

    def process_tree_cpu_s(self) -> float:
        """Returns the CPU time that this process and its descendants have used."""
        ...

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float
    ) -> bool:
        """Waits, holding ``condition``, until ``predicate`` holds or the time is up."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def __init__(self) -> None:
        self._ranks = LocalRanks(os.environ)

    def monotonic_s(self) -> float:
        """Returns a time that never jumps."""
        return time.monotonic()

    def unix_s(self) -> float:
        """Returns the time of day."""
        return time.time()

    def machine_cpu_s(self) -> float:
        """Returns the CPU time that all processes have used, added over hardware threads."""
        times = psutil.cpu_times()
        # guest is part of user; other machines had the steal time; iowait is idle
        return sum(
            getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq")
        )

    def process_tree_cpu_s(self) -> float:
        """Returns the CPU time that this process and its descendants have used.

        In a launch the other ranks of this node count too, as one rank measures for all.
        """
        return self._ranks.cpu_s()

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float
    ) -> bool:
        """Waits, holding ``condition``, until ``predicate`` holds or the time is up."""
        return condition.wait_for(predicate, timeout_s)
