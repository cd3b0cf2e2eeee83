"""Runs grouped and priced by Eq. 1: mean, std between runs and std within runs."""

import difflib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from mlflow_carbon.accounting.emissions import co2e_g, mean_std, pooled_std, validate_pue
from mlflow_carbon.accounting.uncertainty import MIN_DISTINCT_READINGS
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.hourly import FILE_SET
from mlflow_carbon.grid.intensity import CarbonIntensity, basis_notice
from mlflow_carbon.store.run_columns import PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX
from mlflow_carbon.store.runs import Cell

ALWAYS_GROUPED_BY = ("unit", "region")  # never averaged over
EXPERIMENT = "experiment"  # the key that is neither a parameter nor a tag

STATISTIC_COLUMNS = (
    "num_runs",
    "num_windows",
    "energy_kwh_per_unit_mean",
    "energy_kwh_per_unit_std_between",
    "energy_kwh_per_unit_std_within",
    "co2e_g_per_unit_mean",
    "co2e_g_per_unit_std_between",
    "co2e_g_per_unit_std_within",
    "energy_kwh_mean",
    "energy_kwh_std_between",
    "co2e_g_mean",
    "co2e_g_std_between",
)
BASIS_COLUMNS = ("num_distinct_readings", "coverage_fraction")
ASSUMPTION_COLUMNS = (
    "pue",
    "intensity_g_per_kwh",
    "period",
    "intensity_set",
    "intensity_basis",
    "methods",
)

_NUMBER_COLUMNS = (*STATISTIC_COLUMNS[2:], *BASIS_COLUMNS, "pue", "intensity_g_per_kwh")
_WITHIN = "energy_kwh_per_unit_std_within"
_FIX_OF_MIXTURE = {
    "methods": "energy got in different ways; tell it apart by --group-by carbon.method.cpu.",
    "attribution": "tell it apart by --group-by carbon.attribution.",
    "pue": "pass --pue.",
    "intensity_g_per_kwh": "pass --region.",
}


@dataclass(frozen=True)
class Comparison:
    """One row a group, unit and region, and what a reader of it must know.

    ``table`` has the group keys, ``ALWAYS_GROUPED_BY``, ``STATISTIC_COLUMNS``, ``BASIS_COLUMNS``
    (readings of all runs, and their mean coverage) and ``ASSUMPTION_COLUMNS``; what is not known,
    or differs inside a group, is None there.
    """

    table: pd.DataFrame
    group_by: tuple[str, ...]
    notices: tuple[str, ...]


def compare_runs(
    runs: pd.DataFrame,
    *,
    group_by: Sequence[str] = (),
    intensities: Sequence[CarbonIntensity] = (),
    pue: float | None = None,
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

    Raises:
        InvalidInputError: no run has a parameter or tag of that name, a region repeats, or the
            PUE is outside 1 to 3.
        NoRunsError: no run is left to compare.
    """
    regions = [intensity.region for intensity in intensities]
    if len(set(regions)) < len(regions):
        raise InvalidInputError(f"Regions {', '.join(regions)} repeat; give each region once.")
    columns = {name: column_of(runs, name) for name in group_by if name not in ALWAYS_GROUPED_BY}
    assumed = [] if intensities else ["region", "intensity_g_per_kwh"]
    usable, notices = usable_runs(runs, columns, assumed if pue is not None else [*assumed, "pue"])
    if usable.empty:
        raise NoRunsError(f"None of {len(runs)} metered runs can be compared. {' '.join(notices)}")
    priced = usable if pue is None else usable.assign(pue=validate_pue(pue))
    if intensities:
        priced = pd.concat([_in_region(priced, intensity) for intensity in intensities])
    group_columns = [*columns.values(), *ALWAYS_GROUPED_BY]
    rows = [
        dict(zip([*columns, *ALWAYS_GROUPED_BY], values, strict=True)) | _statistics(group)
        for values, group in priced.groupby(group_columns, sort=False)
    ]
    table = pd.DataFrame(rows).astype(dict.fromkeys(_NUMBER_COLUMNS, "float64"))
    table = _sorted(table, [*columns, "unit"], regions)
    told = (*notices, *_namesakes(runs, columns), *_doubts(priced, group_columns))
    return Comparison(table, tuple(columns), told)


def usable_runs(
    runs: pd.DataFrame, columns: Mapping[str, str], assumed: Sequence[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the runs that can be compared, and a sentence for each reason to leave one out.

    Args:
        runs: as ``store.read_runs`` returns them.
        columns: the column of each group key.
        assumed: the columns of Eq. 1 that are taken from the runs.
    """
    measured = ["energy_kwh", "energy_kwh_per_unit", "unit"]
    faults = {
        "whose energy contains that of child runs": runs["scope"] == keys.SCOPE_PARENT,
        "without energy per unit": runs[measured].isna().any(axis=1),
        f"without {' or '.join(assumed)}": runs[list(assumed)].isna().any(axis=1),
        f"without {' or '.join(columns)}": runs[list(columns.values())].isna().any(axis=1),
    }
    sentences = []
    is_usable = pd.Series(True, index=runs.index)
    for fault, is_faulty in faults.items():
        num_left_out = int((is_usable & is_faulty).sum())
        if num_left_out:
            runs_word = "run" if num_left_out == 1 else "runs"
            sentences.append(f"Left out {num_left_out} {runs_word} {fault}.")
        is_usable &= ~is_faulty
    return runs[is_usable], sentences


def column_of(runs: pd.DataFrame, name: str) -> str:
    """Returns the column of a group key.

    Args:
        runs: as ``store.read_runs`` returns them.
        name: ``experiment`` for MLflow's experiment, else a parameter or else a tag of that name;
            ``params.NAME`` and ``tags.NAME`` say which.

    Raises:
        InvalidInputError: no run has one of that name, or the comparison has such a column itself.
    """
    if name == EXPERIMENT:
        return name
    if name in STATISTIC_COLUMNS + BASIS_COLUMNS + ASSUMPTION_COLUMNS:
        raise InvalidInputError(
            f"Cannot group by {name!r}: the comparison has a column of that name. "
            f"Use {PARAM_COLUMN_PREFIX}{name} or {TAG_COLUMN_PREFIX}{name}."
        )
    prefixes = (PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX)
    for column in (PARAM_COLUMN_PREFIX + name, TAG_COLUMN_PREFIX + name, name):
        if column in runs and column.startswith(prefixes):
            return column
    known = [column.split(".", 1)[1] for column in runs if column.startswith(prefixes)]
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    raise InvalidInputError(
        f"No run has a parameter or tag {name!r}. Nearest: {', '.join(nearest)}.",
        arguments=["group_by"],
    )


def _in_region(runs: pd.DataFrame, intensity: CarbonIntensity) -> pd.DataFrame:
    return runs.assign(
        region=intensity.region,
        intensity_g_per_kwh=intensity.g_per_kwh,
        period=intensity.period,
        intensity_set=intensity.intensity_set,
        intensity_basis=intensity.basis,
    )


def _statistics(group: pd.DataFrame) -> dict[Hashable, Cell]:
    """Returns the statistics of the runs of one group, unit and region."""
    num_windows = group["num_windows"].fillna(0).astype(int)
    row: dict[Hashable, Cell] = {"num_runs": len(group), "num_windows": int(num_windows.sum())}
    for quantity in ("energy_kwh", "co2e_g"):
        per_unit = mean_std(_in(quantity, group, "energy_kwh_per_unit"))
        row[f"{quantity}_per_unit_mean"] = per_unit.mean
        row[f"{quantity}_per_unit_std_between"] = per_unit.std
        row[f"{quantity}_per_unit_std_within"] = _std_within(quantity, group)
    for quantity in ("energy_kwh", "co2e_g"):
        total = mean_std(_in(quantity, group, "energy_kwh"))
        row[f"{quantity}_mean"] = total.mean
        row[f"{quantity}_std_between"] = total.std
    row["num_distinct_readings"] = group["num_distinct_readings"].sum(skipna=False)
    row["coverage_fraction"] = group["coverage_fraction"].mean()
    return row | {column: _common(group[column]) for column in ASSUMPTION_COLUMNS}


def _in(quantity: str, group: pd.DataFrame, column: str) -> list[float]:
    """Returns an energy column in kWh, or as the emissions of each run in g."""
    if quantity == "energy_kwh":
        return list(group[column])
    factors = zip(group[column], group["pue"], group["intensity_g_per_kwh"], strict=True)
    return [co2e_g(kwh, pue=pue, intensity_g_per_kwh=g_per_kwh) for kwh, pue, g_per_kwh in factors]


def _std_within(quantity: str, group: pd.DataFrame) -> float | None:
    with_spread = group.dropna(subset=[_WITHIN, "num_windows"])
    return pooled_std(_in(quantity, with_spread, _WITHIN), list(with_spread["num_windows"]))


def _common(values: pd.Series) -> Cell:
    """Returns the one value that all runs of a group share; None when they differ."""
    distinct = values.dropna().unique()
    return distinct[0] if len(distinct) == 1 else None


def _namesakes(runs: pd.DataFrame, columns: Mapping[str, str]) -> Iterator[str]:
    """Yields a sentence for each group key that a name shared by others may mean, too."""
    for name, column in columns.items():
        others = [
            other
            for other in (PARAM_COLUMN_PREFIX + name, TAG_COLUMN_PREFIX + name)
            if other in runs and other != column
        ]
        if others:
            what = "MLflow's experiment" if column == EXPERIMENT else column
            yield (
                f"Grouped by {what}; runs have {' and '.join(others)}, too: "
                "give that name to group by it."
            )


def _doubts(priced: pd.DataFrame, group_columns: list[str]) -> Iterator[str]:
    """Yields a sentence for each doubt about comparing runs of a group, or the groups."""
    is_by_file = priced["intensity_set"].eq(FILE_SET).all()
    for column, fix in _FIX_OF_MIXTURE.items():
        if column == "intensity_g_per_kwh" and is_by_file:
            continue  # each run at its own time: meant to differ
        distinct_in_group = priced.groupby(group_columns)[column].unique()
        mixed = [values for values in distinct_in_group if len(values) > 1]
        if mixed:
            listed = ", ".join(sorted({str(value) for values in mixed for value in values}))
            yield f"{len(mixed)} of {len(distinct_in_group)} rows mix {column} {listed}: {fix}"
    by_method = priced.drop_duplicates("run_id")["methods"]
    num_backfilled = int(by_method.str.contains(keys.METHOD_BACKFILLED, regex=False).sum())
    if num_backfilled:
        yield (
            f"{num_backfilled} of {len(by_method)} runs were backfilled from MLflow's system "
            "metrics, not metered as they ran; --group-by carbon.tracker tells them apart."
        )
    shared = f"{TAG_COLUMN_PREFIX}{keys.TAG_SHARED}"
    num_shared = (
        priced.loc[priced[shared].eq("true"), "run_id"].nunique() if shared in priced else 0
    )
    if num_shared:
        yield (
            f"{num_shared} of {priced['run_id'].nunique()} runs shared their machine with other "
            "runs at the same time: each has the energy of all, so they do not add up."
        )
    num_few = int(
        (priced.groupby("run_id")["num_distinct_readings"].min() < MIN_DISTINCT_READINGS).sum()
    )
    if num_few:
        yield (
            f"{num_few} of {priced['run_id'].nunique()} runs rest on fewer than "
            f"{MIN_DISTINCT_READINGS} distinct power readings: their spread may be that of the "
            "sampling, not of the work; measure more or longer windows."
        )
    regions_by_set = priced.dropna(subset="intensity_set").groupby("intensity_set")["region"]
    if len(regions_by_set) > 1:
        listed = ", ".join(
            f"{name} ({', '.join(sorted(set(regions)))})" for name, regions in regions_by_set
        )
        yield f"Intensities come from different sets: {listed}; pass --intensity-set for one."
    bases = priced[["region", "intensity_basis"]].dropna().drop_duplicates()
    if notice := basis_notice(bases.itertuples(index=False, name=None)):
        yield notice


def _sorted(table: pd.DataFrame, group_columns: list[str], regions: list[str]) -> pd.DataFrame:
    """Returns the rows by group, numbers as numbers, then by region in the order asked for."""
    if regions:
        order = {region: position for position, region in enumerate(regions)}
        by_region = table["region"].map(order)
    else:
        by_region = table["region"]
    helper = pd.DataFrame(
        {key: _sortable(table[key]) for key in group_columns} | {"region": by_region}
    )
    return table.loc[helper.sort_values([*group_columns, "region"]).index].reset_index(drop=True)


def _sortable(values: pd.Series) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    return values if numbers.isna().any() else numbers
