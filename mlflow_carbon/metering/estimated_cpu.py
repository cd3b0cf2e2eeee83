"""The energy of a CPU without a counter, by its load and the load curve of servers."""

from collections import deque

from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.load_curve import tdp_fraction

# The kernel counts busy time in ticks of 10 ms: a load must be taken over several ticks.
LOAD_OVER_S = 0.1


class EstimatedCpu:
    """A counter in J, estimated from load and TDP; to be read by one thread at a time."""

    def __init__(self, full_power_w: float, *, num_threads: int, clock: Clock) -> None:
        """Reads nothing yet.

        Args:
            full_power_w: TDP of the threads that this machine sees.
            num_threads: number of these threads.
            clock: tells the time and the machine's CPU time.
        """
        self._full_power_w = full_power_w
        self._num_threads = num_threads
        self._clock = clock
        self._joules = 0.0
        self._points: deque[tuple[float, float]] = deque()  # time and busy time, oldest first

    @property
    def idle_power_w(self) -> float:
        """Power of the threads when idle."""
        return self._full_power_w * tdp_fraction(0.0)

    def read_joules(self) -> float:
        """Returns the energy since the first reading, in J."""
        time_s, busy_s = self._clock.monotonic_s(), self._clock.machine_cpu_s()
        points = self._points
        if points:
            while len(points) > 1 and time_s - points[1][0] >= LOAD_OVER_S:
                points.popleft()
            before_s, busy_before_s = points[0]
            elapsed_s = time_s - before_s
            if elapsed_s > 0:
                load_fraction = (busy_s - busy_before_s) / (elapsed_s * self._num_threads)
                power_w = self._full_power_w * tdp_fraction(load_fraction)
                self._joules += power_w * (time_s - points[-1][0])
        points.append((time_s, busy_s))
        return self._joules
