"""Forecasts a running run's total, and judges whether the run keeps its carbon budget."""

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.forecast import (
    EXCEEDED,
    STOP_NOW,
    BudgetVerdict,
    forecast_energy,
    judge_budget,
    judge_spent,
    price,
)
from mlflow_carbon.accounting.uncertainty import Stretch, UnitStatistics, unit_statistics
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.windows import Window
from mlflow_carbon.errors import InvalidInputError

WARN, STOP = "warn", "stop"

# The spread is computed from all windows: after each of the first windows, later only when their
# number has grown by this share, else a run of 100,000 windows would spend its time on the spread.
NUM_ALWAYS_COMPUTED = 20
GROWTH_FRACTION = 0.05

OnBudget = str | Callable[[BudgetVerdict], None]


@dataclass(frozen=True)
class CarbonPlan:
    """The user's plan for the run as a whole.

    Attributes:
        total_units: units that will be done from now on; ``None`` if unknown.
        budget_kg: CO2e that the run may emit; ``None`` for no limit.
        on_budget: ``warn`` says when the budget will be exceeded, ``stop`` ends the user's loop
            before the window that may exceed it, and a function is called with each new verdict.

    Raises:
        InvalidInputError: a value is out of range.
    """

    total_units: float | None = None
    budget_kg: float | None = None
    on_budget: OnBudget = WARN

    def __post_init__(self) -> None:
        for name, value in (
            ("total_units", self.total_units),
            ("carbon_budget_kg", self.budget_kg),
        ):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidInputError(f"{name} is {value}; give a finite number above 0.")
        if self.on_budget not in (WARN, STOP) and not callable(self.on_budget):
            raise InvalidInputError(
                f"on_budget is {self.on_budget!r}; use {WARN!r}, {STOP!r} or a function."
            )


@dataclass(frozen=True)
class LiveFigures:
    """The forecast after a window.

    Attributes:
        values: the point of the forecast's curve; empty without a forecast.
        tags: the forecast's interval; empty without a forecast.
        is_news: whether the state of the budget has changed.
    """

    values: dict[str, float]
    is_news: bool
    tags: dict[str, str] = field(default_factory=dict)


class LiveForecast:
    """The forecast of one run, updated window by window; not for two threads at once.

    A window counts with the gap before it, so that the forecast is of the run's own total.
    """

    def __init__(self, plan: CarbonPlan, *, spent_kwh: float = 0.0, num_nodes: int = 1) -> None:
        """Starts with the energy of an earlier part of the run.

        Args:
            plan: the user's.
            spent_kwh: energy of an earlier part on this node.
            num_nodes: nodes of the run; each is assumed to spend as much as this one.
        """
        self.plan = plan
        self._num_nodes = num_nodes
        self.verdict: BudgetVerdict | None = None
        self._units_left = plan.total_units
        self._units_planned = plan.total_units or 0.0
        self._spent_kwh = spent_kwh * num_nodes
        self._start_afresh(is_planned=True)

    def _start_afresh(self, *, is_planned: bool) -> None:
        """Forgets windows that counted another unit."""
        self._is_planned = is_planned
        self._energies_kwh = array("d")
        self._nums_units = array("d")
        self._energy_kwh = 0.0  # of all these windows
        self._num_units = 0.0
        self._statistics: UnitStatistics | None = None
        self._next_computed = 0

    @property
    def is_wanted(self) -> bool:
        """Whether a forecast is possible: there is a budget or a known number of units."""
        return self.plan.budget_kg is not None or self._units_left is not None

    @property
    def must_stop(self) -> bool:
        """Whether the next window may exceed the budget."""
        return self.verdict is not None and self.verdict.state in (STOP_NOW, EXCEEDED)

    def replan(self, plan: CarbonPlan) -> None:
        """Replaces the plan for the work still to be done."""
        self.plan = plan
        self._plan_units(plan.total_units)

    def expect(self, num_units: float) -> None:
        """Notes the number of units still to be done, unless the user gave the total."""
        if self.plan.total_units is None:
            self._plan_units(num_units)

    def _plan_units(self, num_units: float | None) -> None:
        self._units_left, self._units_planned = num_units, num_units or 0.0

    def add(
        self,
        window: Window,
        *,
        is_planned: bool,
        spent_kwh: float | None,
        assumptions: Assumptions,
    ) -> LiveFigures:
        """Adds a window and returns the new forecast.

        Args:
            window: the window just closed.
            is_planned: whether the window counts the plan's unit.
            spent_kwh: measured by the run so far, gaps between windows included; ``None`` if
                unknown, so that no gaps count.
            assumptions: what turns energy into CO2e.
        """
        energy_kwh = window.energy_kwh * self._num_nodes
        if is_planned != self._is_planned:
            self._start_afresh(is_planned=is_planned)
        gapless_kwh = self._spent_kwh + energy_kwh
        spent_kwh = gapless_kwh if spent_kwh is None else spent_kwh * self._num_nodes
        if self._energies_kwh:
            energy_kwh = max(spent_kwh - self._spent_kwh, 0.0)
        self._spent_kwh = spent_kwh
        statistics, is_computed = self._updated(Stretch(energy_kwh, window.num_units))
        left = self._left_after(window.num_units) if is_planned else None
        values: dict[str, float] = {}
        tags: dict[str, str] = {}
        if left is not None and statistics.num_windows > 1 and (is_computed or left == 0):
            mass_g, low_g, high_g = _forecast_g(statistics, left, spent_kwh, assumptions)
            values = {keys.FORECAST_CO2E_G: mass_g}
            tags = {keys.TAG_FORECAST_INTERVAL_G: f"{low_g:.6g} to {high_g:.6g}"}
        if self.plan.budget_kg is None:
            return LiveFigures(values, is_news=False, tags=tags)
        verdict = judge_budget(
            statistics,
            left,
            num_units_next=window.num_units,
            budget_kg=self.plan.budget_kg,
            spent_kwh=spent_kwh,
            pue=assumptions.pue,
            intensity_g_per_kwh=assumptions.intensity.g_per_kwh,
        )
        return LiveFigures(values, self._is_news(verdict), tags)

    def end(self, spent_kwh: float, assumptions: Assumptions) -> bool:
        """Judges the budget by the run's whole energy; returns whether its state has changed."""
        if self.plan.budget_kg is None:
            return False
        return self._is_news(
            judge_spent(
                spent_kwh * self._num_nodes,
                budget_kg=self.plan.budget_kg,
                pue=assumptions.pue,
                intensity_g_per_kwh=assumptions.intensity.g_per_kwh,
            )
        )

    def _is_news(self, verdict: BudgetVerdict) -> bool:
        """Keeps a verdict; returns whether its state has changed."""
        before, self.verdict = self.verdict, verdict
        return before is None or before.state != verdict.state

    def _updated(self, window: Stretch) -> tuple[UnitStatistics, bool]:
        """Returns up-to-date statistics, and whether their spread is up to date as well."""
        self._energies_kwh.append(window.energy_kwh)
        self._nums_units.append(window.num_units)
        self._energy_kwh += window.energy_kwh
        self._num_units += window.num_units
        num_windows = len(self._energies_kwh)
        if self._statistics is None or num_windows >= self._next_computed:
            columns = zip(self._energies_kwh, self._nums_units, strict=True)
            self._statistics = unit_statistics([Stretch(*values) for values in columns])
            if num_windows >= NUM_ALWAYS_COMPUTED:
                self._next_computed = math.ceil(num_windows * (1 + GROWTH_FRACTION))
            return self._statistics, True
        self._statistics = replace(
            self._statistics,
            mean_kwh=self._energy_kwh / self._num_units,
            max_kwh=max(self._statistics.max_kwh, window.energy_kwh / window.num_units),
        )
        return self._statistics, False

    def _left_after(self, num_units: float) -> float | None:
        """Returns the number of units still to be done; ``None`` if not, or no longer, known."""
        if self._units_left is not None:
            left = self._units_left - num_units
            is_done = math.isclose(left, 0.0, abs_tol=1e-9 * self._units_planned)
            self._units_left = 0.0 if is_done else left if left > 0 else None
        return self._units_left


def _forecast_g(
    statistics: UnitStatistics, left: float, spent_kwh: float, assumptions: Assumptions
) -> tuple[float, float, float]:
    """Returns the CO2e foretold and the ends of its interval, in g; all equal after the last."""
    pue, g_per_kwh = assumptions.pue, assumptions.intensity.g_per_kwh
    if left == 0:
        spent_g = co2e_g(spent_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh)
        return spent_g, spent_g, spent_g
    energy = forecast_energy(statistics, left, spent_kwh=spent_kwh)
    emissions = price(energy, pue=pue, intensity_g_per_kwh=g_per_kwh)
    assert emissions.low_g is not None  # two windows or more
    assert emissions.high_g is not None
    return emissions.co2e_g, emissions.low_g, emissions.high_g
