"""One step of an energy counter: energy, no news yet, or a value that cannot be believed."""

from dataclasses import dataclass
from enum import Enum

# No device draws more, where it does not tell its own limit. Packages of 500 W and GPUs of
# 1,400 W are sold (Intel Xeon 6980P: ark.intel.com; NVIDIA GB300: nvidia.com/en-us/data-center).
MAX_PACKAGE_POWER_W = 1000.0
MAX_GPU_POWER_W = 3000.0

# Power may exceed a device's own limit for a while: limits hold on average.
LIMIT_FACTOR = 2.0

# A step may hold energy from before the last reading, but not from longer ago. NVML renews its
# figures every 20 to 100 ms (arXiv:2312.02741), RAPL every 1 ms: this is generous.
MAX_STEP_S = 1.0


class StepKind(Enum):
    """What a reading of a counter says."""

    MOVED = "moved"
    STILL = "still"
    GAP = "gap"  # the value cannot follow from the one before


@dataclass(frozen=True)
class Count:
    """A counter's value and when it was read."""

    joules: float
    time_s: float


@dataclass(frozen=True)
class CounterState:
    """What is remembered of a counter.

    Attributes:
        last: its latest reading.
        moved_s: when it was last seen to move; at first, when it was first read.
        trusted: the reading before one that could not be believed, until it moves on.
    """

    last: Count
    moved_s: float
    trusted: Count | None = None


@dataclass(frozen=True)
class CounterStep:
    """What one reading of a counter adds.

    Attributes:
        state: what is remembered from now on.
        kind: what the reading says.
        joules: energy since the reading before; 0 unless it moved.
        is_observed: whether the counter tells of all the time since it last moved.
    """

    state: CounterState
    kind: StepKind
    joules: float
    is_observed: bool


def counter_step(
    state: CounterState, now: Count, *, max_power_w: float, wrap_joules: float | None
) -> CounterStep:
    """Judges a new reading of a counter.

    A gain is believed up to what the device can draw since the counter last moved. Anything
    else, a fall above all, is a gap: the counter was reset, or one reading was wrong. If the
    next value follows from the one before the gap, only the gap itself has no energy.

    Args:
        state: what is remembered.
        now: the new reading.
        max_power_w: the device never draws more.
        wrap_joules: where the counter starts again at 0; ``None`` if it never does.
    """
    elapsed_s = now.time_s - state.last.time_s
    moved = CounterState(now, now.time_s)
    trusted = state.trusted
    if trusted is not None and _may_return(trusted.joules, state.last.joules, now.joules):
        since_s = now.time_s - trusted.time_s
        joules = now.joules - trusted.joules
        if joules <= max_power_w * (since_s + MAX_STEP_S):
            share = elapsed_s / since_s if since_s > 0 else 1.0
            return CounterStep(moved, StepKind.MOVED, joules * share, True)
    if now.joules == state.last.joules:
        still = CounterState(now, state.moved_s, trusted)
        return CounterStep(still, StepKind.STILL, 0.0, False)
    gain_joules = now.joules - state.last.joules
    if gain_joules < 0 and wrap_joules is not None:
        gain_joules %= wrap_joules
    longest_s = now.time_s - state.moved_s + MAX_STEP_S
    if not 0 <= gain_joules <= max_power_w * longest_s:
        gap = CounterState(now, now.time_s, trusted or state.last)
        return CounterStep(gap, StepKind.GAP, 0.0, False)
    may_hide_a_wrap = wrap_joules is not None and elapsed_s > wrap_joules / max_power_w
    return CounterStep(moved, StepKind.MOVED, gain_joules, not may_hide_a_wrap)


def _may_return(trusted_joules: float, wrong_joules: float, joules: float) -> bool:
    """Returns whether a value may follow from the one that was trusted before a wrong one."""
    is_back = joules < wrong_joules if wrong_joules > trusted_joules else joules > wrong_joules
    return is_back and joules >= trusted_joules
