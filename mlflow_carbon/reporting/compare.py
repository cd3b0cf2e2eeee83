"""Runs grouped and priced by Eq. 1: mean, std between runs and std within runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import pandas as pd

from mlflow_carbon.accounting.emissions import checked, validate_pue
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.reporting.baselines import BASELINE_COLUMNS, with_baseline
from mlflow_carbon.reporting.comparison_doubts import doubts, mixture_sentence
from mlflow_carbon.reporting.group_statistics import (
    ASSUMPTION_COLUMNS,
    BASIS_COLUMNS,
    STATISTIC_COLUMNS,
    group_statistics,
)
from mlflow_carbon.reporting.populations import POPULATION_COLUMNS, mixed_populations, movers
from mlflow_carbon.reporting.run_groups import PER_UNIT, column_of, usable_runs

ALWAYS_GROUPED_BY = ("unit", "region")  # never averaged over
PER_RUN = "run"  # energy of whole runs, whatever they did

SCALED_COLUMNS = (
    "scaled_num_units",
    "energy_kwh_scaled_mean",
    "energy_kwh_scaled_std",
    "co2e_g_scaled_mean",
    "co2e_g_scaled_std",
)
_SORT_COLUMNS = {"energy": "energy_kwh", "co2e": "co2e_g"}


@dataclass(frozen=True)
class Comparison:
    """One row a group, unit and region, and what a reader of it must know.

    ``table`` has the group keys, ``ALWAYS_GROUPED_BY``, ``STATISTIC_COLUMNS``, ``BASIS_COLUMNS``
    (readings of all runs, and their mean coverage), ``ASSUMPTION_COLUMNS``, and, where they are
    asked for, ``SCALED_COLUMNS`` and ``BASELINE_COLUMNS``; what is not known, or differs inside a
    group, is None there.

    Attributes:
        table: see above.
        group_by: the keys, those that the comparison added to keep unlike runs apart included.
        notices: sentences; an argument's name is in backticks.
        per: a unit, or ``PER_RUN``; ``None`` for every unit and the whole runs.
        baseline: keys and values that the rows are held against.
        kept_apart: the keys that the comparison added.
        is_repriced: whether rows that differ in region alone are of the same runs.
    """

    table: pd.DataFrame
    group_by: tuple[str, ...]
    notices: tuple[str, ...]
    per: str | None = None
    baseline: Mapping[str, str] | None = None
    kept_apart: tuple[str, ...] = ()
    is_repriced: bool = False


def compare_runs(
    runs: pd.DataFrame,
    *,
    group_by: Sequence[str] = (),
    intensities: Sequence[CarbonIntensity] = (),
    pue: float | None = None,
    per: str | None = None,
    pool: bool = False,
    scale_to: float | None = None,
    baseline: Mapping[str, str] | None = None,
    sort: str | None = None,
) -> Comparison:
    """Returns the mean, std between runs and std within runs of energy and CO2e.

    The mean is over run values, each run counting once. ``std_between`` is the sample std of
    the run values; ``std_within`` pools the std of the windows inside each run.

    Args:
        runs: as ``store.read_runs`` returns them.
        group_by: names of parameters or tags, or ``experiment``, as ``column_of`` takes them; runs
            without one of them are left out.
        intensities: prices every run in each of these regions; none keeps what each run recorded.
        pue: prices with this PUE; ``None`` keeps what each run recorded.
        per: only the runs of this unit; ``run`` takes those without a unit, too.
        pool: whether unlike runs may be in one group; else it is split by what tells them apart.
        scale_to: adds energy and CO2e of so many units, or runs.
        baseline: adds each row's ratio to the row with these values, ``{"steps": "1000"}``.
        sort: ``energy``, ``co2e`` or a column; with ``-`` before it from high to low.

    Raises:
        InvalidInputError: no run has a parameter or tag of that name, a region repeats, no run
            counts the unit, no group is the baseline, or a figure is out of range.
        NoRunsError: no run is left to compare.
    """
    regions = [intensity.region for intensity in intensities]
    if len(set(regions)) < len(regions):
        raise InvalidInputError(f"Regions {', '.join(regions)} repeat; give each region once.")
    names = [*group_by, *(name for name in baseline or {} if name not in group_by)]
    reserved = STATISTIC_COLUMNS + BASIS_COLUMNS + ASSUMPTION_COLUMNS
    columns = {
        name: column_of(runs, name, reserved=reserved)
        for name in names
        if name not in ALWAYS_GROUPED_BY
    }
    assumed = [] if intensities else ["region", "intensity_g_per_kwh"]
    usable, notices = usable_runs(
        _of_unit(runs, per),
        columns,
        assumed if pue is not None else [*assumed, "pue"],
        measured=["energy_kwh"] if per == PER_RUN else PER_UNIT,
    )
    if usable.empty:
        raise NoRunsError(f"None of {len(runs)} metered runs can be compared. {' '.join(notices)}")
    fixed = ["unit"] if intensities else list(ALWAYS_GROUPED_BY)
    added = {} if pool else mixed_populations(usable, [*columns.values(), *fixed])
    columns |= added
    if added:
        notices.append(_split_sentence(list(added)))
    quantity = "energy_kwh" if per == PER_RUN else "energy_kwh_per_unit"
    found = movers(usable, [*columns.values(), *fixed], quantity=quantity)
    notices += filter(None, [mixture_sentence(found)])
    priced = usable if pue is None else usable.assign(pue=validate_pue(pue))
    if intensities:
        priced = pd.concat([_in_region(priced, intensity) for intensity in intensities])
    group_columns = [*columns.values(), *ALWAYS_GROUPED_BY]
    table = group_statistics(priced, group_columns)
    groups = priced.groupby(group_columns, sort=False, dropna=False).ngroup().to_numpy()
    notices += doubts(priced, groups, runs, columns)
    keys = [*columns, *ALWAYS_GROUPED_BY]
    table.columns = pd.Index([*keys, *table.columns[len(keys) :]])
    table = _ordered(table, [*added, *columns, "unit"], regions)
    if scale_to is not None:
        table = _scaled(table, scale_to, quantity)
    if baseline:
        is_per_unit = quantity != "energy_kwh"
        table, untold = with_baseline(
            table, keys, baseline, per_unit=is_per_unit, same_runs=len(intensities) > 1
        )
        notices += untold
    if sort is not None:
        table = _sorted(table, sort, quantity)
    return Comparison(
        table,
        tuple(columns),
        tuple(notices),
        per=per,
        baseline=baseline,
        kept_apart=tuple(added),
        is_repriced=len(intensities) > 1,
    )


def check_sort(sort: str | None, group_by: Sequence[str]) -> None:
    """Refuses a column that no comparison has, before any run is read.

    Args:
        sort: as ``compare_runs`` takes it.
        group_by: the keys of the groups, those of the baseline included.

    Raises:
        InvalidInputError: names the columns.
    """
    known = (*_SORT_COLUMNS, *group_by, *ALWAYS_GROUPED_BY, *STATISTIC_COLUMNS, *BASIS_COLUMNS)
    known += (*ASSUMPTION_COLUMNS, *SCALED_COLUMNS, *BASELINE_COLUMNS)
    name = "energy" if sort is None else sort.removeprefix("-")
    if name not in known and name not in POPULATION_COLUMNS:
        near = get_close_matches(name, known, cutoff=0.0)
        raise InvalidInputError(
            f"sort is {sort!r}; give energy, co2e, a key of the groups or a column of the csv. "
            f"Nearest: {', '.join(near)}.",
            arguments=["sort"],
        )


def _of_unit(runs: pd.DataFrame, per: str | None) -> pd.DataFrame:
    if per is None or per == PER_RUN:
        return runs
    chosen = runs[runs["unit"] == per]
    if chosen.empty:
        units = ", ".join(sorted(runs["unit"].dropna().unique())) or "nothing"
        raise InvalidInputError(
            f"per is {per!r}, which no run counts; they count {units}. Give one of these, or run.",
            arguments=["per"],
        )
    return chosen


def _split_sentence(names: Sequence[str]) -> str:
    listed = ",".join(names)
    return (
        f"Kept apart by {listed}: the groups would have mixed unlike runs. `group_by` {listed} "
        "asks for that, `pool` mixes them."
    )


def _in_region(runs: pd.DataFrame, intensity: CarbonIntensity) -> pd.DataFrame:
    return runs.assign(
        region=intensity.region,
        intensity_g_per_kwh=intensity.g_per_kwh,
        period=intensity.period,
        intensity_set=intensity.intensity_set,
        intensity_basis=intensity.basis,
    )


def _scaled(table: pd.DataFrame, num_units: float, quantity: str) -> pd.DataFrame:
    """Returns the table with the energy and CO2e of so many units, the std times as many.

    The spread is what the paper prints as ±; it is not the error of the total.
    """
    checked("scale_to", num_units)
    suffix = quantity.removeprefix("energy_kwh")
    figures = {"scaled_num_units": float(num_units)}
    for name in ("energy_kwh", "co2e_g"):
        figures[f"{name}_scaled_mean"] = num_units * table[f"{name}{suffix}_mean"]
        std = table[f"{name}{suffix}_std_between"]
        if suffix:
            std = std.fillna(table[f"{name}{suffix}_std_within"])
        figures[f"{name}_scaled_std"] = num_units * std
    return table.assign(**figures)


def _ordered(table: pd.DataFrame, group_columns: list[str], regions: list[str]) -> pd.DataFrame:
    """Returns the rows by group, numbers as numbers, then by region in the order asked for."""
    if regions:
        order = {region: position for position, region in enumerate(regions)}
        by_region = table["region"].map(order)
    else:
        by_region = table["region"]
    helper = pd.DataFrame(
        {key: _sortable(table[key]) for key in group_columns} | {"region": by_region}
    )
    return table.loc[helper.sort_values(list(helper.columns)).index].reset_index(drop=True)


def _sorted(table: pd.DataFrame, sort: str, quantity: str) -> pd.DataFrame:
    name = sort.removeprefix("-")
    suffix = quantity.removeprefix("energy_kwh")
    column = f"{_SORT_COLUMNS[name]}{suffix}_mean" if name in _SORT_COLUMNS else name
    if column not in table:
        raise InvalidInputError(
            f"sort is {sort!r}; give energy, co2e or a column: {', '.join(table.columns)}.",
            arguments=["sort"],
        )
    values = _sortable(table[column])
    order = values.sort_values(ascending=not sort.startswith("-"), kind="stable").index
    return table.loc[order].reset_index(drop=True)


def _sortable(values: pd.Series) -> pd.Series:
    """Returns the values as numbers where all that are there are numbers."""
    numbers = pd.to_numeric(values, errors="coerce")
    return values if (numbers.isna() & values.notna()).any() else numbers
