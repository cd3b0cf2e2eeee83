"""When to start work whose deadline leaves a choice, and what the wait saves."""

from dataclasses import dataclass

from mlflow_carbon.accounting.advice import best_start
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, time_text
from mlflow_carbon.units import SECONDS_PER_HOUR

ASSUMED_DURATION_S = SECONDS_PER_HOUR  # of work that has never run


@dataclass(frozen=True, kw_only=True)
class StartPlan:
    """A chosen start. Times are in s since 1970; what is ``None`` is not known.

    Attributes:
        start_s: when the work starts.
        deadline_s: when it must have ended.
        duration_s: that it is expected to take.
        is_duration_known: whether somebody said so, or it is assumed.
        g_per_kwh: mean intensity of work that starts then.
        g_per_kwh_now: mean intensity of work that starts at once.
        saving_fraction: of the emissions, against a start at once.
        source: of the intensities.
        reason: why it starts at once; "" where it waits.
    """

    start_s: float
    deadline_s: float
    duration_s: float
    is_duration_known: bool
    g_per_kwh: float | None = None
    g_per_kwh_now: float | None = None
    saving_fraction: float | None = None
    source: str | None = None
    reason: str = ""


def plan_start(
    series: IntensitySeries | None,
    *,
    now_s: float,
    deadline_s: float,
    duration_s: float | None,
    unknown: str = "",
) -> StartPlan:
    """Returns the start of least CO2e; a start at once where nothing is known or gained.

    Args:
        series: intensities to come; ``None`` where none are known.
        now_s: the earliest start, in s since 1970.
        deadline_s: when the work must have ended, in s since 1970.
        duration_s: of the work; ``None`` takes an hour, or less where the deadline is nearer.
        unknown: why there is no series.

    Raises:
        InvalidInputError: the deadline has passed.
    """
    if not deadline_s > now_s:
        raise InvalidInputError(
            f"The deadline {time_text(deadline_s)} has passed; give a later one.",
            arguments=["deadline"],
        )
    expected_s = min(ASSUMED_DURATION_S, deadline_s - now_s) if duration_s is None else duration_s

    def at_once(reason: str) -> StartPlan:
        return StartPlan(
            start_s=now_s,
            deadline_s=deadline_s,
            duration_s=expected_s,
            is_duration_known=duration_s is not None,
            reason=reason,
        )

    if series is None:
        return at_once(unknown)
    if expected_s > deadline_s - now_s:
        return at_once(f"the deadline leaves less than the {expected_s:.4g} s that the work takes")
    try:
        found = best_start(series, now_s=now_s, duration_s=expected_s, deadline_s=deadline_s)
    except NoIntensityError:
        first_s, last_s = series.slots[0].start_s, series.slots[-1].end_s
        return at_once(
            f"{series.source} covers {time_text(first_s)} to {time_text(last_s)}, and not all of "
            f"{expected_s:.4g} s from now"
        )
    return StartPlan(
        start_s=found.start_s,
        deadline_s=deadline_s,
        duration_s=expected_s,
        is_duration_known=duration_s is not None,
        g_per_kwh=found.g_per_kwh,
        g_per_kwh_now=found.g_per_kwh_now,
        saving_fraction=found.saving_fraction,
        source=series.source,
        reason="no later start emits less" if found.start_s <= now_s else "",
    )
