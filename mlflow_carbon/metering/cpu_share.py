"""This process tree's share of the machine's CPU time, over stretches that the kernel can count."""

from mlflow_carbon.metering.clock import Clock

# The kernel counts CPU time in ticks of 10 ms: a share of one tick is 0 or 1.
MIN_BUSY_S = 0.02
# How long to wait for that much busy time on a machine that does little.
PATIENCE_S = 0.5
# If nothing ran for this long, our share is 0.
IDLE_S = 2.0


class CpuShare:
    """Returns, reading by reading, this process tree's share of the energy since the last share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before: tuple[float, float, float] | None = None  # time, own and all CPU time

    def fraction(self) -> float | None:
        """Returns our share of the CPU time since the last share; ``None`` if not known yet."""
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
