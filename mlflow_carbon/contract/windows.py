"""One marked stretch of a run's work, and the series of such windows in the store."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlflow_carbon.accounting.emissions import mean_std
from mlflow_carbon.accounting.uncertainty import Stretch, num_distinct_readings
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures, Histories
from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, watts_from_kwh

TIME_STEP_S = 0.002  # time stamps are whole ms, so ends that meet may differ by this


@dataclass(frozen=True, slots=True)
class Window:
    """One marked stretch of work: its energy, and the number of units that it did.

    ``unit`` is ``None`` where a later unit has replaced the window's own in the store.
    """

    end_unix_s: float
    duration_s: float
    energy_kwh: float
    energy_kwh_by_component: Mapping[str, float]
    num_units: float
    unit: str | None

    @classmethod
    def of(cls, reading: Reading, num_units: float, unit: str) -> "Window | None":
        """Returns the window of a meter's reading; ``None`` if the reading has no energy."""
        if reading.energy_kwh is None:
            return None
        return cls(
            end_unix_s=reading.start_unix_s + reading.duration_s,
            duration_s=reading.duration_s,
            energy_kwh=reading.energy_kwh,
            energy_kwh_by_component=reading.energy_kwh_by_component(),
            num_units=num_units,
            unit=unit,
        )

    @property
    def start_unix_s(self) -> float:
        """The window's start, in s since 1970."""
        return self.end_unix_s - self.duration_s

    @property
    def power_w(self) -> float | None:
        """Mean power; ``None`` for a window of no duration."""
        return watts_from_kwh(self.energy_kwh, self.duration_s) if self.duration_s > 0 else None

    @property
    def stretch(self) -> Stretch:
        """The part of the window that statistics need."""
        return Stretch(self.energy_kwh, self.num_units, self.power_w)

    @classmethod
    def read(
        cls, figures: Figures, histories: Histories, *, unit: str | None, first_step: int
    ) -> "dict[int, Window]":
        """Returns a run's windows of version 1 by step, as far as ``histories`` has their series.

        Args:
            figures: of the run.
            histories: points by metric.
            unit: what the windows from ``first_step`` on count.
            first_step: step of the first window of the newest unit.

        Raises:
            BadRecordError: a point is one that no window can have measured.
        """
        energies = figures.points(keys.WINDOW_ENERGY_KWH, histories)
        durations = figures.points(keys.WINDOW_DURATION_S, histories)
        nums_units = figures.points(keys.WINDOW_NUM_UNITS, histories)
        by_component = {
            key.split("/")[2]: figures.points(key, histories)
            for key in histories
            if keys.is_window_component(key)
        }
        return {
            step: cls(
                end_unix_s=durations[step][1] / MILLISECONDS_PER_SECOND,
                duration_s=durations[step][0],
                energy_kwh=energies[step][0],
                energy_kwh_by_component={
                    name: points[step][0] for name, points in by_component.items() if step in points
                },
                num_units=nums_units[step][0],
                unit=unit if step >= first_step else None,
            )
            for step in sorted(energies.keys() & durations.keys() & nums_units.keys())
        }

    def after(self, unix_s: float) -> "Window | None":
        """Returns the part after a time, with its share of the energy; ``None`` if empty."""
        after_s = min(self.end_unix_s - unix_s, self.duration_s)
        if after_s <= TIME_STEP_S or self.duration_s <= 0:
            return None
        fraction = after_s / self.duration_s
        parts_kwh = {name: kwh * fraction for name, kwh in self.energy_kwh_by_component.items()}
        return replace(
            self,
            duration_s=after_s,
            energy_kwh=self.energy_kwh * fraction,
            energy_kwh_by_component=parts_kwh,
        )


@dataclass(frozen=True, slots=True)
class UnitEnergy:
    """The run value of energy per unit, and ``std_within``: ``None`` for a single window."""

    energy_kwh: float
    std_kwh: float | None = None


class WindowColumns:
    """Energy, units and mean power of windows in order: 24 bytes each, whatever they measured.

    A run may have a hundred thousand windows; its summary needs only these three figures.

    Attributes:
        energy_kwh: of all windows together.
        num_units: of all windows together.
    """

    def __init__(self, windows: Iterable[Window] = ()) -> None:
        self.energies_kwh = array("d")
        self.nums_units = array("d")
        self.powers_w = array("d")  # NaN where the power is not known
        self.energy_kwh = self.num_units = 0.0  # of all windows together
        for window in windows:
            self.append(window)

    def __len__(self) -> int:
        return len(self.nums_units)

    def append(self, window: Window) -> None:
        """Takes one more window."""
        self.energies_kwh.append(window.energy_kwh)
        self.nums_units.append(window.num_units)
        self.powers_w.append(math.nan if window.power_w is None else window.power_w)
        self.energy_kwh += window.energy_kwh
        self.num_units += window.num_units

    def energy_so_far(self) -> float | None:
        """Returns the run value in kWh, at no cost; ``None`` before a unit is done."""
        return self.energy_kwh / self.num_units if self.num_units > 0 else None

    @property
    def num_distinct_readings(self) -> int | None:
        """Number of different mean powers of the windows; ``None`` if no power is known."""
        return num_distinct_readings(
            None if math.isnan(power_w) else power_w for power_w in self.powers_w
        )

    def energy_per_unit(self) -> UnitEnergy | None:
        """Returns the run value and its spread; ``None`` where no unit was done."""
        columns = zip(self.energies_kwh, self.nums_units, strict=True)
        done = [(kwh, units) for kwh, units in columns if units > 0]
        if not done:
            return None
        run_value_kwh = sum(kwh for kwh, _ in done) / sum(units for _, units in done)
        return UnitEnergy(run_value_kwh, mean_std([kwh / units for kwh, units in done]).std)


@dataclass
class WindowSeries:
    """The points of the window metrics so far.

    Attributes:
        unit: what the windows count; ``None`` before the first window.
        windows: the windows that count ``unit``; earlier points counted another unit.
        num_points: the last step so far; of a resumed run, that of the total before.
    """

    unit: str | None = None
    windows: WindowColumns = field(default_factory=WindowColumns)
    num_points: int = 0

    def add(self, window: Window) -> dict[str, str]:
        """Adds a point; a unit other than before makes a new start.

        Returns:
            The tags of a new start.
        """
        self.num_points += 1
        if window.unit == self.unit:
            self.windows.append(window)
            return {}
        self.unit, self.windows = window.unit, WindowColumns([window])
        is_first = self.num_points == 1
        first_step = {} if is_first else {keys.TAG_FIRST_WINDOW_STEP: str(self.num_points)}
        return {keys.TAG_UNIT: window.unit or "", **first_step}


def without_overlap(windows: Sequence[Window]) -> list[Window]:
    """Returns the windows that do not overlap and together hold the most energy.

    Overlapping windows hold the same energy twice, so the sum of the windows returned is a lower
    bound of the energy of them all.

    Source: Kleinberg and Tardos 2005, Algorithm Design, 6.1 (weighted interval scheduling).
    """
    ordered = sorted(windows, key=lambda window: window.end_unix_s)
    ends_s = [window.end_unix_s for window in ordered]
    best_kwh = [0.0]  # of the first 0, 1, 2 … windows
    previous = []  # for each window, how many windows end before it starts
    for number, window in enumerate(ordered):
        num_before = bisect_right(ends_s, window.start_unix_s + TIME_STEP_S, hi=number)
        previous.append(num_before)
        best_kwh.append(max(best_kwh[number], best_kwh[num_before] + window.energy_kwh))
    chosen: list[Window] = []
    number = len(ordered)
    while number > 0:
        window, num_before = ordered[number - 1], previous[number - 1]
        if best_kwh[num_before] + window.energy_kwh >= best_kwh[number - 1]:
            chosen.append(window)
            number = num_before
        else:
            number -= 1
    return chosen[::-1]
