"""A run's windows by unit: the series of the run's own unit, and the sums of every other."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures, worded
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowSeries


@dataclass(frozen=True)
class PlacedWindow:
    """A window as it is logged.

    Attributes:
        step: in the series of the run's own unit; ``None`` for a window of another unit.
        tags: to write with it.
    """

    step: int | None
    tags: dict[str, str]


@dataclass
class UnitSums:
    """Windows of a unit that is not the run's own, summed up: a tag holds them.

    Attributes:
        num_windows: number of windows that did units.
        num_units: of them all.
        energy_kwh: of them all.
        mean_kwh: of the windows' energies per unit.
        deviation_kwh2: sum of the squares of their differences from the mean.
    """

    num_windows: int = 0
    num_units: float = 0.0
    energy_kwh: float = 0.0
    mean_kwh: float = 0.0
    deviation_kwh2: float = 0.0

    @classmethod
    def of(cls, windows: Iterable[Window]) -> "UnitSums":
        """Returns the sums of these windows."""
        sums = cls()
        for window in windows:
            sums.add(window)
        return sums

    @classmethod
    def read(cls, figures: Figures, unit: str) -> "UnitSums | None":
        """Returns the sums that ``tags`` wrote; ``None`` without any."""
        tag = keys.windows_tag(unit)
        text = figures.tags.get(tag)
        if text is None:
            return None
        words = figures.words(tag, text)
        return cls(
            int(words.get("num_windows", 0)),
            words.get("num_units", 0.0),
            words.get("energy_kwh", 0.0),
            words.get("mean_kwh", 0.0),
            words.get("deviation_kwh2", 0.0),
        )

    def add(self, window: Window) -> None:
        """Adds a window.

        Source: Welford 1962, Technometrics 4(3), 419-420.
        """
        if window.num_units <= 0:
            return
        per_unit_kwh = window.energy_kwh / window.num_units
        self.num_windows += 1
        self.num_units += window.num_units
        self.energy_kwh += window.energy_kwh
        difference_kwh = per_unit_kwh - self.mean_kwh
        self.mean_kwh += difference_kwh / self.num_windows
        self.deviation_kwh2 += difference_kwh * (per_unit_kwh - self.mean_kwh)

    def energy_per_unit(self) -> UnitEnergy | None:
        """Returns the run value and its spread; ``None`` where no unit was done."""
        if not self.num_windows:
            return None
        std_kwh = None
        if self.num_windows > 1:
            std_kwh = math.sqrt(self.deviation_kwh2 / (self.num_windows - 1))
        return UnitEnergy(self.energy_kwh / self.num_units, std_kwh)

    def tags(self, unit: str) -> dict[str, str]:
        """Returns the tag of the sums."""
        return {keys.windows_tag(unit): worded(vars(self))}


@dataclass
class UnitSeries:
    """A run's window series.

    The first unit that the user marks is the run's own and replaces minutes and a framework's
    epochs. Of nested windows the inner ones close first, so the run's unit is theirs. Every other
    unit has sums of its own, so that no mean mixes inner and outer windows.

    Attributes:
        main: the series of the run's own unit.
        others: the sums of the other units, by unit.
        is_replaceable: whether only the plugin or a framework has marked ``main``, not the user.
    """

    main: WindowSeries = field(default_factory=WindowSeries)
    others: dict[str, UnitSums] = field(default_factory=dict)
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
            return PlacedWindow(self.main.num_points, tags)
        sums = self.others.setdefault(unit, UnitSums())
        sums.add(window)
        return PlacedWindow(None, sums.tags(unit))

    def energy_per_other_unit(self) -> Mapping[str, UnitEnergy]:
        """Returns the run value of every unit except the run's own."""
        found = {unit: sums.energy_per_unit() for unit, sums in self.others.items()}
        return {unit: energy for unit, energy in found.items() if energy is not None}
