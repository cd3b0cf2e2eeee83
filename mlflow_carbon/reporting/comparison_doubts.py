"""What a reader must know before trusting a comparison: sentences.

A sentence names an argument in backticks; the command line has its option there.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from mlflow_carbon.accounting.uncertainty import MIN_DISTINCT_READINGS
from mlflow_carbon.contract import keys
from mlflow_carbon.grid.hourly import FILE_SET
from mlflow_carbon.grid.intensity import basis_notice
from mlflow_carbon.reporting.group_statistics import num_mixed
from mlflow_carbon.reporting.populations import Movers
from mlflow_carbon.reporting.run_groups import EXPERIMENT
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX, words_of

_SHARED = f"{TAG_COLUMN_PREFIX}{keys.TAG_SHARED}"
_FIX_OF_MIXTURE = {
    "methods": "energy got in different ways; `group_by` carbon.method tells them apart.",
    "attribution": "`group_by` carbon.attribution tells them apart.",
    "pue": "give one `pue`.",
    "intensity_g_per_kwh": "give a `region`.",
}


def doubts(
    priced: pd.DataFrame, groups: np.ndarray, runs: pd.DataFrame, columns: Mapping[str, str]
) -> list[str]:
    """Returns a sentence for each doubt about comparing runs of a group, or the groups.

    Args:
        priced: the runs compared, once for each region, with the index of ``runs``.
        groups: the number of each one's group.
        runs: all that were read.
        columns: the column of each group key.
    """
    needed = [name for name in ("methods", _SHARED, "num_distinct_readings") if name in priced]
    once = priced.loc[~priced.index.duplicated(), needed]
    return [
        *_namesakes(runs, columns),
        *_mixtures(priced, groups),
        *_of_measuring(once),
        *_of_intensities(priced),
    ]


def mixture_sentence(found: Movers) -> str | None:
    """Returns which settings differ inside a group and move its energy; ``None`` without any."""
    if found.names:
        listed = "; ".join(
            f"{name} ({values})" for name, values in zip(found.names, found.values, strict=True)
        )
        return (
            f"Runs inside a group differ in {listed}, and their energy with it: {found.names[0]} "
            f"explains {found.share_fraction:.0%} of its variance; `group_by` {found.names[0]} "
            "tells them apart."
        )
    if found.untold:
        return (
            f"Runs inside a group differ in energy by up to {found.largest_ratio:.3g} times, and "
            f"in {', '.join(found.untold)}: too few runs to tell what moves it."
        )
    return None


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


def _mixtures(priced: pd.DataFrame, groups: np.ndarray) -> Iterator[str]:
    is_by_file = priced["intensity_set"].eq(FILE_SET).all()
    num_groups = int(groups.max()) + 1
    for column, fix in _FIX_OF_MIXTURE.items():
        if column == "intensity_g_per_kwh" and is_by_file:
            continue  # each run at its own time: meant to differ
        num, values = num_mixed(priced[column], groups)
        if num:
            if column == "methods":
                values = [f"({words_of(value) or 'not recorded'})" for value in values]
            yield f"{num} of {num_groups} rows mix {column} {', '.join(values)}: {fix}"


def _of_measuring(runs: pd.DataFrame) -> Iterator[str]:
    """Yields what is said of the runs themselves, whatever their price."""
    num = len(runs)
    is_backfilled = runs["methods"].str.contains(keys.METHOD_BACKFILLED, regex=False)
    if num_backfilled := int(is_backfilled.sum()):
        yield (
            f"{num_backfilled} of {num} runs were backfilled from MLflow's system "
            "metrics, not metered as they ran; `group_by` carbon.tracker tells them apart."
        )
    num_shared = int(runs[_SHARED].eq("true").sum()) if _SHARED in runs else 0
    if num_shared:
        yield (
            f"{num_shared} of {num} runs shared their machine with other "
            "runs at the same time: each has the energy of all, so they do not add up."
        )
    if num_few := int((runs["num_distinct_readings"] < MIN_DISTINCT_READINGS).sum()):
        yield (
            f"{num_few} of {num} runs rest on fewer than "
            f"{MIN_DISTINCT_READINGS} distinct power readings: their spread may be that of the "
            "sampling, not of the work; measure more or longer windows."
        )


def _of_intensities(priced: pd.DataFrame) -> Iterator[str]:
    used = priced[["region", "intensity_set", "intensity_basis"]].drop_duplicates()
    by_set = used.dropna(subset="intensity_set").groupby("intensity_set")["region"]
    if len(by_set) > 1:
        listed = ", ".join(
            f"{name} ({', '.join(sorted(set(regions)))})" for name, regions in by_set
        )
        yield f"Intensities come from different sets: {listed}; give one `intensity_set`."
    bases = used[["region", "intensity_basis"]].dropna().drop_duplicates()
    if notice := basis_notice(bases.itertuples(index=False, name=None)):
        yield notice
