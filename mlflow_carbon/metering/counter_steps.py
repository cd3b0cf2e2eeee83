"""One step of an energy counter: energy, no news yet, or a value that cannot be believed."""

from dataclasses import dataclass, replace
from enum import Enum

# The limit of a device that does not tell its own. Packages of 500 W and GPUs of 1,400 W are sold
# (Intel Xeon 6980P: ark.intel.com; NVIDIA GB300: nvidia.com/en-us/data-center).
MAX_PACKAGE_POWER_W = 1000.0
MAX_GPU_POWER_W = 3000.0

# Power may exceed a device's own limit for a while: limits hold on average.
LIMIT_FACTOR = 2.0

# A step may hold energy from before the last reading, but only from this time. NVML renews its
# figures every 20 to 100 ms (arXiv:2312.02741), RAPL every 1 ms: this is generous.
MAX_STEP_S = 1.0

# Only RAPL's counters start again at 0, and they are renewed every 1 ms.
MAX_WRAP_STEP_S = 0.1


class StepKind(Enum):
    """The kinds of step between two readings of a counter."""

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
    """The state kept of a counter between readings.

    Attributes:
        last: its latest reading.
        moved_s: when the counter was last seen to move; before that, when it was first read.
        trusted: the last reading before a disbelieved one, kept until the counter moves on.
        peak_w: highest mean power of any step of 0.1 s or more so far; 0 before the first.
    """

    last: Count
    moved_s: float
    trusted: Count | None = None
    peak_w: float = 0.0


@dataclass(frozen=True)
class CounterStep:
    """The result of one reading of a counter.

    Attributes:
        state: the state to keep.
        kind: the kind of step.
        joules: energy since the reading before; 0 unless the counter moved.
        is_observed: whether the energy covers all the time since the counter last moved.
    """

    state: CounterState
    kind: StepKind
    joules: float
    is_observed: bool


def counter_step(
    state: CounterState, now: Count, *, max_power_w: float, wrap_joules: float | None
) -> CounterStep:
    """Judges a new reading of a counter.

    A gain is believed up to the energy that the device can have drawn since the counter last
    moved. A fall is a new start at 0 if the gain is believed, and such as the device has drawn
    before, within a factor. Any other change is a gap: the counter was reset, or one reading was
    wrong. If the next value follows from the value before the gap, only the gap has no energy.

    Args:
        state: the state after the reading before.
        now: the new reading.
        max_power_w: the device never draws more.
        wrap_joules: value at which the counter starts again at 0; ``None`` if it never does.
    """
    elapsed_s = now.time_s - state.last.time_s
    moved = CounterState(now, now.time_s, peak_w=state.peak_w)
    trusted = state.trusted
    if trusted is not None and _may_return(trusted.joules, state.last.joules, now.joules):
        since_s = now.time_s - trusted.time_s
        joules = now.joules - trusted.joules
        if joules <= max_power_w * (since_s + MAX_STEP_S):
            share = elapsed_s / since_s if since_s > 0 else 1.0
            return CounterStep(moved, StepKind.MOVED, joules * share, True)
    if now.joules == state.last.joules:
        still = CounterState(now, state.moved_s, trusted, state.peak_w)
        return CounterStep(still, StepKind.STILL, 0.0, False)
    gain_joules = now.joules - state.last.joules
    moved_in_s = now.time_s - state.moved_s
    most_joules = max_power_w * (moved_in_s + MAX_STEP_S)
    if gain_joules < 0 and wrap_joules is not None:
        gain_joules %= wrap_joules
        likely_w = min(LIMIT_FACTOR * state.peak_w, max_power_w) if state.peak_w else max_power_w
        most_joules = likely_w * (moved_in_s + MAX_WRAP_STEP_S)
    if not 0 <= gain_joules <= most_joules:
        gap = CounterState(now, now.time_s, trusted or state.last, state.peak_w)
        return CounterStep(gap, StepKind.GAP, 0.0, False)
    may_hide_a_wrap = wrap_joules is not None and elapsed_s > wrap_joules / max_power_w
    if moved_in_s >= MAX_WRAP_STEP_S:  # a shorter step tells too little of the power
        step_w = gain_joules / (moved_in_s + MAX_WRAP_STEP_S)
        moved = replace(moved, peak_w=max(state.peak_w, step_w))
    return CounterStep(moved, StepKind.MOVED, gain_joules, not may_hide_a_wrap)


def _may_return(trusted_joules: float, wrong_joules: float, joules: float) -> bool:
    """Returns whether a value may follow from the value trusted before a wrong one."""
    is_back = joules < wrong_joules if wrong_joules > trusted_joules else joules > wrong_joules
    return is_back and joules >= trusted_joules
