"""Each row of a comparison against the row that a reader names: ratio, interval, test, size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mlflow_carbon.accounting.emissions import MeanStd
from mlflow_carbon.accounting.ratios import Ratio, hedges_g, holm, ratio_of_means, welch_p_value
from mlflow_carbon.errors import InvalidInputError

BASELINE_COLUMNS = (
    "energy_ratio",
    "energy_ratio_low",
    "energy_ratio_high",
    "co2e_ratio",
    "co2e_ratio_low",
    "co2e_ratio_high",
    "co2e_change_percent",
    "p_value",
    "p_value_holm",
    "effect_size",
)
_QUANTITIES = {"energy": "energy_kwh", "co2e": "co2e_g"}


def with_baseline(
    table: pd.DataFrame,
    keys: Sequence[str],
    baseline: Mapping[str, str],
    *,
    per_unit: bool,
    same_runs: bool = False,
) -> tuple[pd.DataFrame, list[str]]:
    """Returns a comparison's table with ``BASELINE_COLUMNS``, and what a reader must know.

    A row's baseline is the row with the baseline's values and, in every other key, its own. The
    test is Welch's, of the run values of energy; ``p_value_holm`` is corrected for all the rows.

    Args:
        table: one row a group.
        keys: columns that name a group.
        baseline: column and value, as ``steps`` and ``1000``.
        per_unit: whether energy per unit is compared, or that of whole runs.
        same_runs: whether rows that differ in region alone are of the same runs at other prices:
            their ratio is exact, and a test in one region is the test in all.

    Raises:
        InvalidInputError: no row has the baseline's values.
    """
    is_baseline = pd.Series(True, index=table.index)
    for name, value in baseline.items():
        is_baseline &= table[name].map(lambda cell, value=value: _is_same(cell, value))
    if not is_baseline.any():
        name, value = next(iter(baseline.items()))
        known = ", ".join(map(str, table[name].dropna().unique()[:10]))
        raise InvalidInputError(
            f"No group has {' and '.join(f'{name}={value}' for name, value in baseline.items())}; "
            f"{name} is {known}.",
            arguments=["baseline"],
        )
    others = [key for key in keys if key not in baseline]
    by_others = {_key(row, others): position for position, row in table[is_baseline].iterrows()}
    of_work = [key for key in keys if key != "region" or not same_runs]
    rows: list[dict[str, Any]] = []
    num_without = 0
    for position, row in table.iterrows():
        base = by_others.get(_key(row, others))
        num_without += base is None
        if base is None or base == position:
            rows.append({})
        else:
            other = table.loc[base]
            is_tested = _key(row, of_work) != _key(other, of_work)
            rows.append(_against(row, other, per_unit, is_tested=is_tested))
    added = pd.DataFrame(rows, index=table.index).reindex(columns=list(BASELINE_COLUMNS))
    works = [_key(row, of_work) for _, row in table.iterrows()]
    added["p_value_holm"] = _corrected(added["p_value"], works)
    notices = []
    if num_without:
        rows_word = "row has" if num_without == 1 else "rows have"
        named = ", ".join(f"{name}={value}" for name, value in baseline.items())
        notices.append(
            f"{num_without} {rows_word} no baseline: no group of {named} is equal to it in "
            f"{', '.join(others)}. Name their values in `baseline`, too."
        )
    return pd.concat([table, added.astype("float64")], axis=1), notices


def _corrected(p_values: pd.Series, works: Sequence[tuple[Any, ...]]) -> pd.Series:
    """Returns p-values by Holm; rows of the same work are one test."""
    by_work = {work: float(p) for work, p in zip(works, p_values, strict=True) if not pd.isna(p)}
    corrected = dict(zip(by_work, holm(list(by_work.values())), strict=True))
    return pd.Series([corrected.get(work) for work in works], p_values.index, dtype="float64")


def _against(row: pd.Series, base: pd.Series, per_unit: bool, *, is_tested: bool) -> dict[str, Any]:
    """Returns the cells of one row against its baseline."""
    cells: dict[str, Any] = {}
    for name, quantity in _QUANTITIES.items():
        mean, other = (_mean(it, quantity, per_unit, is_tested) for it in (row, base))
        ratio = ratio_of_means(mean, other) or Ratio(math.nan)
        cells[f"{name}_ratio"] = ratio.value
        cells[f"{name}_ratio_low"] = ratio.low
        cells[f"{name}_ratio_high"] = ratio.high
    cells["co2e_change_percent"] = 100 * (cells["co2e_ratio"] - 1)
    mean, other = (_mean(it, "energy_kwh", per_unit, is_tested) for it in (row, base))
    cells["p_value"] = welch_p_value(mean, other)
    cells["effect_size"] = hedges_g(mean, other)
    return cells


def _mean(row: pd.Series, quantity: str, per_unit: bool, is_tested: bool) -> MeanStd:
    stem = f"{quantity}_per_unit" if per_unit else quantity
    std = row[f"{stem}_std_between"]
    has_std = is_tested and not pd.isna(std)
    return MeanStd(float(row[f"{stem}_mean"]), float(std) if has_std else None, row["num_runs"])


def _key(row: pd.Series, names: Sequence[str]) -> tuple[Any, ...]:
    return tuple(None if pd.isna(row[name]) else row[name] for name in names)


def _is_same(cell: Any, value: str) -> bool:
    """Returns whether a cell is a value as a user writes it: 1000, 1000.0 and 1e3 are one."""
    if str(cell) == value:
        return True
    try:
        return float(cell) == float(value)
    except (TypeError, ValueError):
        return False
