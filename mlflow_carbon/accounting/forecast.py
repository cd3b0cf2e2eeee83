"""From measured windows to the emissions of work still to be done, and whether a budget holds."""

import math
from dataclasses import dataclass, replace

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.uncertainty import (
    DEFAULT_CONFIDENCE_FRACTION,
    Interval,
    UnitStatistics,
    prediction_interval,
    spread_kwh,
)
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.units import kg_from_grams

WITHIN = "within"  # even the upper bound keeps the budget
AT_RISK = "at_risk"  # the mean keeps it, the upper bound does not
WILL_EXCEED = "will_exceed"  # the mean does not keep it
STOP_NOW = "stop_now"  # the next window may already exceed it
EXCEEDED = "exceeded"  # more than the budget is spent


@dataclass(frozen=True)
class EnergyForecast:
    """Expected IT energy in kWh of work still to be done, from measured windows.

    Attributes:
        num_units: units still to be done.
        spent_kwh: measured energy that is part of the total and of the interval.
        energy_kwh: expected total.
        spread_kwh: std × N of the units still to be done, as the paper prints behind ±;
            ``None`` for one window.
        interval: where the total will lie; ``None`` for one window.
        statistics: energy of one unit by the windows, with their number.
    """

    num_units: float
    spent_kwh: float
    energy_kwh: float
    spread_kwh: float | None
    interval: Interval | None
    statistics: UnitStatistics


@dataclass(frozen=True)
class Emissions:
    """A forecast priced by Eq. 1, every figure in g CO2e; ``None`` where there was one window."""

    co2e_g: float
    spread_g: float | None
    low_g: float | None
    high_g: float | None


@dataclass(frozen=True)
class BudgetVerdict:
    """Whether a run keeps its budget: one of the states of this file, and a sentence."""

    state: str
    sentence: str


def forecast_energy(
    statistics: UnitStatistics,
    num_units: float,
    *,
    spent_kwh: float = 0.0,
    confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION,
) -> EnergyForecast:
    """Returns the expected energy of ``num_units`` more units, in kWh.

    Args:
        statistics: of the measured windows, all of the same unit.
        num_units: units still to be done.
        spent_kwh: measured energy to add, as when a running run's total is forecast.
        confidence_fraction: of the prediction interval.

    Raises:
        InvalidInputError: a figure is out of range.
    """
    if not (math.isfinite(spent_kwh) and spent_kwh >= 0):
        raise InvalidInputError(f"spent_kwh is {spent_kwh}; give a finite number, 0 or more.")
    spread = spread_kwh(statistics, num_units)
    interval = prediction_interval(statistics, num_units, confidence_fraction=confidence_fraction)
    if interval is not None:
        low_kwh, high_kwh = interval.low_kwh + spent_kwh, interval.high_kwh + spent_kwh
        interval = replace(interval, low_kwh=low_kwh, high_kwh=high_kwh)
    return EnergyForecast(
        num_units=num_units,
        spent_kwh=spent_kwh,
        energy_kwh=spent_kwh + statistics.mean_kwh * num_units,
        spread_kwh=spread,
        interval=interval,
        statistics=statistics,
    )


def price(forecast: EnergyForecast, *, pue: float, intensity_g_per_kwh: float) -> Emissions:
    """Returns a forecast in g CO2e.

    Raises:
        InvalidInputError: the intensity is negative or not finite, or the PUE is outside 1 to 3.
    """

    def priced(energy_kwh: float) -> float:
        return co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=intensity_g_per_kwh)

    interval, spread = forecast.interval, forecast.spread_kwh
    return Emissions(
        co2e_g=priced(forecast.energy_kwh),
        spread_g=None if spread is None else priced(spread),
        low_g=None if interval is None else priced(interval.low_kwh),
        high_g=None if interval is None else priced(interval.high_kwh),
    )


def work_asked(
    *, iterations: int | None = None, samples: int | None = None, units: float | None = None
) -> tuple[str, float]:
    """Returns the name and the value of the one argument that was given.

    Raises:
        InvalidInputError: not exactly one argument was given, or its value is not above zero.
    """
    asked = {"iterations": iterations, "samples": samples, "units": units}
    given = {name: number for name, number in asked.items() if number is not None}
    if len(given) != 1:
        raise InvalidInputError(
            "Give iterations, samples or units, and only one of them.", arguments=list(asked)
        )
    ((name, number),) = given.items()
    if not (math.isfinite(number) and number > 0):
        raise InvalidInputError(
            f"{name} is {number:g}; give a finite number above 0.", arguments=[name]
        )
    return name, number


def num_units_asked(
    unit: str,
    *,
    iterations: int | None = None,
    samples: int | None = None,
    units: float | None = None,
) -> float:
    """Returns the number of units asked for, in the run's own unit.

    Args:
        unit: what the run counts.
        iterations: for runs that count iterations.
        samples: for runs that count samples.
        units: for any run, in its own unit.

    Raises:
        InvalidInputError: not exactly one number was given, the number is not above zero, or the
            run counts another unit: iterations and samples do not convert.
    """
    name, number = work_asked(iterations=iterations, samples=samples, units=units)
    if name not in ("units", f"{unit}s"):
        raise InvalidInputError(
            f"The run measured energy per {unit}, so {name} does not apply; "
            f"take a run that counts {name}.",
            arguments=[name],
            instead="units",
        )
    return number


def judge_spent(
    spent_kwh: float, *, budget_kg: float, pue: float, intensity_g_per_kwh: float
) -> BudgetVerdict:
    """Judges whether the energy spent so far keeps a run's budget of kg CO2e.

    Raises:
        InvalidInputError: the budget is not above zero and finite, or another figure is
            out of range.
    """
    if not (math.isfinite(budget_kg) and budget_kg > 0):
        raise InvalidInputError(f"carbon_budget_kg is {budget_kg}; give kg CO2e above 0.")
    spent_kg = kg_from_grams(co2e_g(spent_kwh, pue=pue, intensity_g_per_kwh=intensity_g_per_kwh))
    return BudgetVerdict(
        WITHIN if spent_kg <= budget_kg else EXCEEDED,
        f"{spent_kg:.3g} kg CO2e of a budget of {budget_kg:g} kg are spent.",
    )


def judge_budget(
    statistics: UnitStatistics,
    num_units_left: float | None,
    *,
    num_units_next: float,
    budget_kg: float,
    spent_kwh: float,
    pue: float,
    intensity_g_per_kwh: float,
) -> BudgetVerdict:
    """Judges whether a running run will keep its budget of kg CO2e; called after each window.

    Ending the run at ``STOP_NOW`` keeps the budget unless a unit of the next window costs more
    than in any window before.

    Args:
        statistics: of the windows so far.
        num_units_left: units still to be done; 0 after the last window; ``None`` if unknown, so
            that only the next window is judged.
        num_units_next: units of the next window.
        budget_kg: what the whole run may emit.
        spent_kwh: energy measured so far, gaps between windows included.
        pue: facility energy over IT energy.
        intensity_g_per_kwh: carbon intensity at the place and time of the run.

    Raises:
        InvalidInputError: the budget is not above zero and finite, or another figure is
            out of range.
    """

    def kg(energy_kwh: float) -> float:
        return kg_from_grams(co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=intensity_g_per_kwh))

    so_far = judge_spent(
        spent_kwh, budget_kg=budget_kg, pue=pue, intensity_g_per_kwh=intensity_g_per_kwh
    )
    if so_far.state == EXCEEDED or (num_units_left is not None and num_units_left <= 0):
        return so_far
    sentence = so_far.sentence.removesuffix(".")
    num_next = num_units_next if num_units_left is None else min(num_units_next, num_units_left)
    next_kg = kg(spent_kwh + statistics.max_kwh * num_next)
    if num_units_left is None:
        state = STOP_NOW if next_kg > budget_kg else WITHIN
        after = "kg after another window as dear as the dearest"
        return BudgetVerdict(state, f"{sentence}; {next_kg:.3g} {after}.")
    energy = forecast_energy(statistics, num_units_left, spent_kwh=spent_kwh)
    mean_kg = kg(energy.energy_kwh)
    upper_kg = mean_kg if energy.interval is None else kg(energy.interval.high_kwh)
    if next_kg > budget_kg:
        state = STOP_NOW
    elif mean_kg > budget_kg and statistics.num_windows > 1:  # the first may be a warm-up
        state = WILL_EXCEED
    else:
        state = AT_RISK if upper_kg > budget_kg else WITHIN
    return BudgetVerdict(
        state, f"{sentence}; {mean_kg:.3g} kg expected in all, at most {upper_kg:.3g} kg."
    )
