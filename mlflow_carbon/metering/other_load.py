"""How much of the node other processes use while a run is metered."""

from dataclasses import dataclass

from mlflow_carbon.metering.clock import Clock

LOOK_S = 0.5  # between two looks; the kernel counts CPU time in ticks of 10 ms
NOTABLE_FRACTION = 0.1  # of the node's CPU; less is what any machine does beside


@dataclass(frozen=True)
class Load:
    """CPU time so far, in s over all threads: of this process tree, and of the whole node."""

    time_s: float
    own_cpu_s: float
    all_cpu_s: float


class LoadWatch:
    """Looks at the node's load now and then; to be used by one thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last: Load | None = None

    def load(self) -> Load:
        """Returns the load at the last look, which is made anew where that is some time ago."""
        time_s = self._clock.monotonic_s()
        if self._last is None or time_s - self._last.time_s >= LOOK_S:
            own_s, all_s = self._clock.process_tree_cpu_s(), self._clock.machine_cpu_s()
            self._last = Load(time_s, own_s, all_s)
        return self._last


def other_cpu_fraction(
    before: Load | None, after: Load | None, *, num_threads: int
) -> float | None:
    """Returns the share of the node's CPU that others used between two looks, 0 to 1.

    Args:
        before: at the start.
        after: at the end.
        num_threads: hardware threads of the node.

    Returns:
        ``None`` where the looks are missing or too close to each other to tell.
    """
    if before is None or after is None or after.time_s - before.time_s < LOOK_S:
        return None
    others_s = (after.all_cpu_s - before.all_cpu_s) - (after.own_cpu_s - before.own_cpu_s)
    capacity_s = (after.time_s - before.time_s) * num_threads
    return min(max(others_s / capacity_s, 0.0), 1.0)
