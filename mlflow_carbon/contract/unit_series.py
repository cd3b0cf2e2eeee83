"""A run's windows by unit: a series for each unit, one of which is the run's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowSeries


@dataclass(frozen=True)
class PlacedWindow:
    """A window as it is logged: the metrics of one point, their step, and further tags."""

    metrics: dict[str, float]
    step: int
    tags: dict[str, str]


@dataclass
class UnitSeries:
    """A run's window series.

    The first unit that the user marks is the run's own and replaces minutes and a framework's
    epochs; its series is ``carbon/window``. Of nested windows the inner ones close first, so the
    run's unit is theirs. Every other unit has a series of its own, ``carbon/window/unit/<unit>``,
    so that no mean mixes inner and outer windows.

    Attributes:
        main: the series of the run's own unit.
        others: the series of the other units, by unit.
        is_replaceable: whether only the plugin or a framework has marked ``main``, not the user.
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
        """Returns the run value of every unit except the run's own."""
        found = {unit: series.windows.energy_per_unit() for unit, series in self.others.items()}
        return {unit: energy for unit, energy in found.items() if energy is not None}
