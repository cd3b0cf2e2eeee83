"""A run's windows as points of its curves: written one by one, and read back as windows.

``keys`` says what the curves hold.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures, Histories
from mlflow_carbon.contract.windows import Window
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE, duration_s_from_kwh

_ROUNDING_FRACTION = 1e-12  # a smaller gap between two windows is rounding
_UNIT_ROUNDING = 1e-6  # a number of units that is this close to a whole one is whole


@dataclass(frozen=True)
class WindowPoints:
    """A window's points.

    Attributes:
        at_start: the points at the window's start, by metric; empty where it begins as the last
            ended.
        at_end: the points at the window's end, by metric.
    """

    at_start: dict[str, float]
    at_end: dict[str, float]


class EnergyCurve:
    """The curve of energy so far, with a point at each end of a window."""

    def __init__(self, *, spent_kwh: float = 0.0, is_node: bool = False) -> None:
        """Starts where an earlier part of the run has ended.

        Args:
            spent_kwh: energy of the earlier part.
            is_node: whether the curve is of one node of several, so that the CO2e is not the run's.
        """
        self._spent_kwh = spent_kwh
        self._is_node = is_node
        self._is_new = True

    @property
    def key(self) -> str:
        """The metric of the energy."""
        return keys.NODE_ENERGY_KWH if self._is_node else keys.ENERGY_KWH

    def add(
        self,
        window: Window,
        *,
        spent_kwh: float | None,
        g_per_kwh: float,
        per_unit_kwh: float | None,
    ) -> WindowPoints:
        """Returns the points of one more window of the run's own unit.

        Args:
            window: with its unit.
            spent_kwh: by the run up to now, gaps included; ``None`` if not known.
            g_per_kwh: PUE × intensity.
            per_unit_kwh: of the windows so far; ``None`` writes no figure per unit.
        """
        end_kwh = max(spent_kwh or 0.0, self._spent_kwh + window.energy_kwh)
        start_kwh = end_kwh - window.energy_kwh
        has_gap = start_kwh - self._spent_kwh > _ROUNDING_FRACTION * end_kwh
        at_start: dict[str, float] = {}
        # MLflow lists metrics in the order of their first points
        if self._is_new and not self._is_node:
            at_start[keys.CO2E_G] = start_kwh * g_per_kwh
        if self._is_new or has_gap:
            at_start[self.key] = start_kwh
        else:
            end_kwh = self._spent_kwh + window.energy_kwh
        self._spent_kwh, self._is_new = end_kwh, False
        values = {} if self._is_node else {keys.CO2E_G: end_kwh * g_per_kwh}
        values[self.key] = end_kwh
        if window.power_w is not None:
            values[keys.POWER_W] = window.power_w
        if per_unit_kwh is not None and window.unit is not None:
            values[keys.co2e_g_per_unit(window.unit)] = per_unit_kwh * g_per_kwh
        return WindowPoints(at_start, values)


@dataclass(frozen=True)
class _End:
    """The end of a window as the curves tell it: times in ms, energies in kWh."""

    step: int
    end_ms: int
    start_ms: int
    energy_kwh: float
    spent_kwh: float
    power_w: float


def read_curves(
    figures: Figures,
    histories: Histories,
    *,
    unit: str | None,
    first_step: int,
    g_per_kwh: float | None,
    before: Iterable[Window] = (),
) -> dict[int, Window]:
    """Returns a run's windows by step, as far as ``histories`` has its curves.

    A window without energy counts with the next one, whose units are those of both. The energy of
    a window's components is not known.

    Args:
        figures: of the run.
        histories: points by metric.
        unit: what the windows from ``first_step`` on count.
        first_step: step of the first window of the newest unit.
        g_per_kwh: PUE × intensity as recorded, for nodes, whose curves have no CO2e.
        before: earlier windows of the unit, as version 1 wrote them.

    Raises:
        BadRecordError: a point is one that no window can have measured.
    """
    masses_g = _by_place(figures, histories, keys.CO2E_G)
    means_g = {} if unit is None else _by_place(figures, histories, keys.co2e_g_per_unit(unit))
    earlier = list(before)
    energy_kwh = sum(window.energy_kwh for window in earlier)
    num_units = sum(window.num_units for window in earlier)
    found = {}
    for end in _ends(figures, histories):
        duration_s = _duration_s(end)
        done: float | None = duration_s / SECONDS_PER_MINUTE
        place = end.step, end.end_ms
        is_of_unit = end.step >= first_step
        if is_of_unit:
            energy_kwh += end.energy_kwh
            if place in means_g or unit != keys.UNIT_MINUTE:
                mass_g = masses_g.get(place)
                factor = mass_g / end.spent_kwh if mass_g and end.spent_kwh > 0 else g_per_kwh
                done = _units(energy_kwh, factor, means_g.get(place), num_units)
            num_units += done or 0.0
        if done is None:
            continue
        found[end.step] = Window(
            end_unix_s=end.end_ms / MILLISECONDS_PER_SECOND,
            duration_s=duration_s,
            energy_kwh=end.energy_kwh,
            energy_kwh_by_component={},
            num_units=done,
            unit=unit if is_of_unit else None,
        )
    return found


def _by_place(figures: Figures, histories: Histories, key: str) -> dict[tuple[int, int], float]:
    """Returns a curve's values by step and time stamp; of two at one place the window's."""
    found: dict[tuple[int, int], float] = {}
    for step, ms, value in figures.in_order(key, histories):
        found.setdefault((step, ms), value)  # the total of the run is no less
    return found


def _ends(figures: Figures, histories: Histories) -> Iterator[_End]:
    """Yields the ends of the windows in order: the points that have a power."""
    key = keys.NODE_ENERGY_KWH if keys.NODE_ENERGY_KWH in histories else keys.ENERGY_KWH
    powers_w = _by_place(figures, histories, keys.POWER_W)
    before_ms, before_kwh = 0, 0.0
    for step, end_ms, spent_kwh in figures.in_order(key, histories):
        power_w = powers_w.pop((step, end_ms), None) if step > 0 else None
        if power_w is not None:
            energy_kwh = max(spent_kwh - before_kwh, 0.0)
            yield _End(step, end_ms, before_ms, energy_kwh, spent_kwh, power_w)
        before_ms, before_kwh = end_ms, spent_kwh


def _duration_s(end: _End) -> float:
    if end.power_w > 0 and end.energy_kwh > 0:
        return duration_s_from_kwh(end.energy_kwh, end.power_w)
    return max(end.end_ms - end.start_ms, 0) / MILLISECONDS_PER_SECOND


def _units(
    energy_kwh: float, g_per_kwh: float | None, mean_g: float | None, num_before: float
) -> float | None:
    """Returns the units of a window: those so far less those before; ``None`` if not known.

    Args:
        energy_kwh: of the windows so far.
        g_per_kwh: what turns it into CO2e.
        mean_g: CO2e per unit so far.
        num_before: units before the window.
    """
    if not g_per_kwh or not mean_g:
        return None
    done = energy_kwh * g_per_kwh / mean_g - num_before
    nearest = round(done)
    if math.isclose(done, nearest, rel_tol=_UNIT_ROUNDING, abs_tol=_UNIT_ROUNDING):
        done = float(nearest)
    return done if done > 0 else None
