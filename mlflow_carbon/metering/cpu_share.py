"""This process tree's share of the machine's CPU time, over stretches that the kernel can count."""

from mlflow_carbon.metering.clock import Clock

# The kernel counts CPU time in ticks of 10 ms: a share of one tick is 0 or 1.
MIN_BUSY_S = 0.02
# A machine that does so little is given this long.
PATIENCE_S = 0.5
# Nothing ran for so long: our share of that is 0.
IDLE_S = 2.0


class CpuShare:
    """Says, reading by reading, which share of the energy since the last share is ours."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: tuple[float, float, float] | None = None  # time, own and all CPU time

    def fraction(self) -> float | None:
        """Returns our share of the CPU time since the last share; ``None``: ask again later."""
        time_s = self._clock.monotonic_s()
        own_s, all_s = self._clock.process_tree_cpu_s(), self._clock.machine_cpu_s()
        if self._before is None:
            self._before = time_s, own_s, all_s
            return None
        elapsed_s = time_s - self._before[0]
        our_busy_s, busy_s = own_s - self._before[1], all_s - self._before[2]
        is_enough = busy_s >= MIN_BUSY_S or (busy_s > 0 and elapsed_s >= PATIENCE_S)
        if not is_enough and elapsed_s < IDLE_S:
            return None
        self._before = time_s, own_s, all_s
        return min(max(our_busy_s / busy_s, 0.0), 1.0) if busy_s > 0 else 0.0
