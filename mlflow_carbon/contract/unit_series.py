"""A run's windows by what they count: a series for each unit, one of which is the run's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowSeries


@dataclass(frozen=True)
class PlacedWindow:
    """Where a window goes: the metrics of one point, their step, and the tags that say more."""

    metrics: dict[str, float]
    step: int
    tags: dict[str, str]


@dataclass
class UnitSeries:
    """A run's window series.

    The first unit that the user marks is the run's own, and ``carbon/window`` is its series; it
    takes the place of minutes and of a framework's epochs. Where windows lie in one another the
    inner ones close first, so theirs is the run's unit. Every other unit has its own series,
    ``carbon/window/unit/<unit>``: inner and outer windows are in no common mean.

    Attributes:
        main: of the run's own unit.
        others: by unit.
        is_replaceable: whether nobody but the plugin or a framework has marked ``main``.
    """

    main: WindowSeries = field(default_factory=WindowSeries)
    others: dict[str, WindowSeries] = field(default_factory=dict)
    is_replaceable: bool = True

    def add(self, window: Window, *, is_automatic: bool) -> PlacedWindow:
        """Takes one more window.

        Args:
            window: with its unit.
            is_automatic: whether the plugin or a framework marked it, not the user.
        """
        unit = window.unit or ""
        is_better = self.is_replaceable and (
            not is_automatic or self.main.unit in (None, keys.UNIT_MINUTE)
        )
        if unit == self.main.unit or (is_better and unit not in self.others):
            self.is_replaceable = self.is_replaceable and is_automatic
            tags = self.main.add(window)
            return PlacedWindow(window.metrics(), self.main.num_points, tags)
        series = self.others.setdefault(unit, WindowSeries())
        series.add(window)
        metrics = {
            keys.window_key_of_unit(key, unit): value for key, value in window.metrics().items()
        }
        return PlacedWindow(metrics, series.num_points, {})

    def energy_per_other_unit(self) -> Mapping[str, UnitEnergy]:
        """Returns the run value of each unit but the run's own."""
        found = {unit: series.windows.energy_per_unit() for unit, series in self.others.items()}
        return {unit: energy for unit, energy in found.items() if energy is not None}
