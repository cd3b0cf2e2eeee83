"""What would have cost less, from the user's own runs: settings, place, month and hour."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from scipy.special import stdtrit

from mlflow_carbon.accounting.advice import best_start
from mlflow_carbon.accounting.emissions import MeanStd
from mlflow_carbon.accounting.ratios import difference_of_means
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, time_text
from mlflow_carbon.grid.intensity import (
    MONTHLY_SETS,
    latest_intensities,
    monthly_intensities,
    price_label,
    yearly_sets,
)
from mlflow_carbon.reporting.run_groups import usable_runs
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX

CONFIDENCE_FRACTION = 0.95
MEASURED_PER_UNIT = ("energy_kwh", "energy_kwh_per_unit", "unit")
_OF_WINDOWS = ("energy_kwh_per_unit", "energy_kwh_per_unit_std_within", "num_windows")
_MAX_VALUES = 12  # a parameter of more values is an identifier, not a setting
# Words in the names of parameters that tell copies of one work apart, not kinds of work.
_REPEATS = {"seed", "seeds", "state", "replicate", "name", "out", "output"}
_HARDWARE_COLUMN = TAG_COLUMN_PREFIX + keys.TAG_HARDWARE
_HELD_EQUAL = ("unit", "methods", "attribution")
# Well-known places of data centres, so that the advice is one that can be followed.
_PLACES = ("SE", "NO", "FI", "FR", "CH", "CA", "GB", "DE", "US")
# Parameters that price the energy; the rows of place and time say what they would save.
_PRICES = {"region", "month", "pue", "intensity_set"}
_QUALITY = "quality of the run"
_CHANGES_PRODUCT = ("size", "model_size", "dims", "iterations", "epochs")


@dataclass(frozen=True)
class Change:
    """One change of a setting, place or time, and the share of CO2e that it saves.

    Attributes:
        setting: a parameter, ``hardware``, ``region``, ``month`` or ``hour``.
        before: its value where most is emitted; for place and time, the runs' own.
        after: the value where least is emitted.
        saving_fraction: of the CO2e per unit, all else equal.
        low: lower bound of the saving; ``None`` where nothing tells it.
        high: upper bound.
        basis: what the figure rests on, and what it does not tell.
        run_ids: the runs it was computed from; empty for place and time.
        caveat: in a few words, why it may be no saving; empty where none is known.
    """

    setting: str
    before: str
    after: str
    saving_fraction: float
    low: float | None
    high: float | None
    basis: str
    run_ids: tuple[str, ...] = ()
    caveat: str = ""

    @property
    def is_shown(self) -> bool:
        """Whether the interval lies above 0: what was measured shows a saving."""
        return self.low is not None and self.low > 0


def setting_changes(
    runs: pd.DataFrame,
    *,
    quality: Mapping[str, float] | None = None,
    is_lower_better: bool = True,
) -> list[Change]:
    """Returns, for each setting that varies while all others are equal, its best change.

    Args:
        runs: as ``store.read_runs`` returns them.
        quality: a quality figure of runs, by id. A value of ``steps`` or another setting is then
            taken only if its mean is no worse than the end of the 95 % interval of the dearest
            value's mean.
        is_lower_better: whether a low quality figure is a good one.
    """
    usable, _ = usable_runs(runs, {}, [], measured=MEASURED_PER_UNIT)
    is_above_0 = usable["energy_kwh_per_unit"] > 0
    columns = varying_settings(usable if is_above_0.all() else usable[is_above_0])
    needed = ["run_id", *_OF_WINDOWS, *_HELD_EQUAL, *columns]  # a group is a copy
    usable = usable.loc[is_above_0, needed]
    usable[_QUALITY] = usable["run_id"].map(quality or {}).astype(float)
    changes = []
    for column in columns:
        others = [*(other for other in columns if other != column), *_HELD_EQUAL]
        best: tuple[int, Change] | None = None
        for _, group in usable.groupby(others, dropna=False, sort=True):
            change = _best_change(group, column, is_lower_better if quality else None)
            if change is not None and (best is None or len(change.run_ids) > best[0]):
                best = len(change.run_ids), change
        if best is not None:
            changes.append(best[1])
    return sorted(changes, key=lambda it: (not it.is_shown, -it.saving_fraction))


def varying_settings(runs: pd.DataFrame) -> list[str]:
    """Returns the columns of parameters, and of the hardware, that tell kinds of work apart."""
    found = []
    for column in runs.columns:
        name = column.removeprefix(PARAM_COLUMN_PREFIX)
        is_setting = (
            column.startswith(PARAM_COLUMN_PREFIX)
            and name not in _PRICES
            and not _REPEATS & set(re.split(r"[\W_]+", name.lower()))
        )
        if (is_setting or column == _HARDWARE_COLUMN) and (
            1 < runs[column].nunique(dropna=False) <= _MAX_VALUES
        ):
            found.append(column)
    return found


def place_changes(
    runs: pd.DataFrame, series: IntensitySeries | None = None
) -> tuple[list[Change], list[str]]:
    """Returns the savings of another region, month or hour, and why some are not known.

    Args:
        runs: as ``store.read_runs`` returns them.
        series: the user's own hourly figures; ``None`` without any.
    """
    changes: list[Change] = []
    unknown: list[str] = []
    regions = runs["region"].dropna().unique()
    if len(regions) == 1:
        region = str(regions[0])
        changes += _regions(runs, region)
        months = list(_months(region))
        changes += months
        if not months:
            unknown.append(f"month: no monthly intensities of {region} are known.")
    else:
        unknown.append("region and month: the runs recorded several regions, or none.")
    if series is None:
        unknown.append("hour: pass --intensity-file with hourly figures of your grid.")
    else:
        changes += _hours(runs, series)
    return changes, unknown


def welch_saving(before: MeanStd, after: MeanStd) -> tuple[float, float] | tuple[None, None]:
    """Returns low and high of 1 - after / before, by Welch's t on logarithms.

    Args:
        before: of the logarithms of energies.
        after: the same, of the cheaper side.

    Returns:
        ``(None, None)`` where a side has one value, or neither side scatters.
    """
    difference = difference_of_means(after, before, confidence_fraction=CONFIDENCE_FRACTION)
    if difference is None:
        return None, None
    return 1 - math.exp(difference[1]), 1 - math.exp(difference[0])


def _best_change(group: pd.DataFrame, column: str, is_lower_better: bool | None) -> Change | None:
    """Returns the change from a setting's dearest value to its cheapest; ``None`` without two."""
    by_value = {str(value): rows for value, rows in group.groupby(column, sort=True) if len(rows)}
    if len(by_value) < 2:
        return None
    logs = {value: _of_logs(rows) for value, rows in by_value.items()}
    before = max(logs, key=lambda value: logs[value].mean)
    allowed = list(by_value)
    if is_lower_better is not None:
        allowed = [
            value
            for value, rows in by_value.items()
            if _is_as_good(rows, by_value[before], is_lower_better)
        ]
    after = min([*allowed, before], key=lambda value: logs[value].mean)
    saving = 1 - math.exp(logs[after].mean - logs[before].mean)
    if after == before or saving <= 0:
        return None
    low, high = welch_saving(logs[before], logs[after])
    numbers = [len(by_value[value]) for value in (before, after)]
    name = "hardware" if column == _HARDWARE_COLUMN else column.removeprefix(PARAM_COLUMN_PREFIX)
    basis = f"{numbers[0]} and {numbers[1]} of your runs, all else equal."
    if low is None:
        basis += " One run a side, or no scatter: no interval."
    elif 1 in numbers:
        basis += " A single run's interval is of its windows; runs may differ by more."
    caveat = ""
    if name in _CHANGES_PRODUCT:
        caveat = "another product"
        basis += " Another product, not the same for less."
    elif is_lower_better is not None:
        basis += " Its quality is no worse than the upper end of the other's interval."
    elif name != "hardware":
        caveat = "quality not compared"
        basis += " Whether quality holds was not compared."
    return Change(
        name,
        before,
        after,
        saving,
        low,
        high,
        basis,
        tuple(pd.concat([by_value[before], by_value[after]])["run_id"]),
        caveat,
    )


def _of_logs(rows: pd.DataFrame) -> MeanStd:
    """Returns mean and std of the logarithms of runs' energies; of one run, those of its windows.

    To first order the logarithm of a window's energy scatters by std / mean.
    """
    if len(rows) > 1:
        logs = rows["energy_kwh_per_unit"].map(math.log)
        return MeanStd(float(logs.mean()), float(logs.std()), len(logs))
    mean, std, num_windows = rows[list(_OF_WINDOWS)].iloc[0]
    if num_windows >= 2 and std >= 0:
        return MeanStd(math.log(mean), std / mean, int(num_windows))
    return MeanStd(math.log(mean), None, 1)


def _is_as_good(rows: pd.DataFrame, reference: pd.DataFrame, is_lower_better: bool) -> bool:
    """Returns whether a mean quality is no worse than the end of the reference's 95 % interval."""
    sign = 1.0 if is_lower_better else -1.0
    own, of_reference = rows[_QUALITY].dropna() * sign, reference[_QUALITY].dropna() * sign
    if own.empty or len(of_reference) < 2:
        return False
    quantile = float(stdtrit(len(of_reference) - 1, 0.5 + CONFIDENCE_FRACTION / 2))
    margin = quantile * float(of_reference.std()) / math.sqrt(len(of_reference))
    return bool(own.mean() <= of_reference.mean() + margin)


def _regions(runs: pd.DataFrame, region: str) -> Iterator[Change]:
    sets = runs["intensity_set"].dropna().unique()
    name = str(sets[0]) if len(sets) == 1 and sets[0] in yearly_sets() else None
    found = latest_intensities(name) if name else latest_intensities()
    by_region = {item.region: item for item in found}
    here = by_region.get(region)
    places = [by_region[place] for place in _PLACES if place in by_region]
    if here is None or not places:
        return
    best = min(places, key=lambda item: item.g_per_kwh)
    if best.g_per_kwh < here.g_per_kwh:
        yield Change(
            "region",
            here.label,
            best.label,
            1 - best.g_per_kwh / here.g_per_kwh,
            None,
            None,
            "Yearly means; the energy cancels, and the means carry no error. A marginal load can "
            "differ.",
        )


def _months(region: str) -> Iterator[Change]:
    try:
        months = monthly_intensities(region, intensity_set=MONTHLY_SETS[0])
    except NoIntensityError:
        return
    newest = [item for item in months if item.period[:4] == months[-1].period[:4]]
    mean = sum(item.g_per_kwh for item in newest) / len(newest)
    best = min(newest, key=lambda item: item.g_per_kwh)
    if best.g_per_kwh < mean:
        yield Change(
            "month",
            price_label(
                region,
                mean,
                period=f"mean of {newest[0].period} to {newest[-1].period}",
                intensity_set=best.intensity_set,
            ),
            best.label,
            1 - best.g_per_kwh / mean,
            None,
            None,
            "Monthly means; that year's weather need not come again.",
        )


def _hours(runs: pd.DataFrame, series: IntensitySeries) -> Iterator[Change]:
    duration_s = float(runs["duration_s"].median())
    start_s, end_s = series.slots[0].start_s, series.slots[-1].end_s
    spans = [(slot.end_s - slot.start_s, slot.g_per_kwh) for slot in series.slots]
    mean = sum(span * g_per_kwh for span, g_per_kwh in spans) / sum(span for span, _ in spans)
    if not (duration_s > 0 and start_s + duration_s <= end_s):
        return
    try:
        best = best_start(series, now_s=start_s, duration_s=duration_s, deadline_s=end_s)
    except NoIntensityError:
        return
    if best.g_per_kwh < mean:
        yield Change(
            "hour",
            f"mean of the file ({mean:.4g} g/kWh)",
            f"start {time_text(best.start_s)} ({best.g_per_kwh:.4g} g/kWh)",
            1 - best.g_per_kwh / mean,
            None,
            None,
            f"{series.source}; a run of {duration_s:.4g} s, the median of yours.",
        )
