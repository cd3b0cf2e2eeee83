"""Mean, std between runs and std within runs of every group at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlflow_carbon.accounting.emissions import checked, validate_pue

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
NUMBER_COLUMNS = (*STATISTIC_COLUMNS[2:], *BASIS_COLUMNS, "pue", "intensity_g_per_kwh")

_WITHIN = "energy_kwh_per_unit_std_within"


@dataclass(frozen=True)
class _Groups:
    """The number of each run's group, from 0."""

    of_run: np.ndarray
    num: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        return np.asarray(np.bincount(self.of_run, weights=values, minlength=self.num))


def group_statistics(priced: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Returns a row for each group of runs, with every run counting once.

    Args:
        priced: runs with the PUE and the intensity of Eq. 1.
        columns: what makes a group; nothing in one of them is a value, too.

    Returns:
        ``columns``, ``STATISTIC_COLUMNS``, ``BASIS_COLUMNS`` and ``ASSUMPTION_COLUMNS``; kWh and g;
        what is not known, or differs inside a group, is None.

    Raises:
        InvalidInputError: a PUE is outside 1 to 3, or an intensity or energy is negative.
    """
    number = priced.groupby(list(columns), sort=False, dropna=False).ngroup().to_numpy()
    groups = _Groups(number, int(number.max()) + 1)
    _, first = np.unique(number, return_index=True)
    table = priced.iloc[first][list(columns)].reset_index(drop=True)
    figures: dict[str, np.ndarray] = {
        "num_runs": np.bincount(number, minlength=groups.num),
        "num_windows": groups.sums(_floats(priced, "num_windows", 0.0)).astype(int),
    }
    g_per_kwh = _g_per_kwh(priced)
    degrees = np.nan_to_num(_floats(priced, "num_windows") - 1).clip(min=0.0)
    for quantity, factor in (("energy_kwh", 1.0), ("co2e_g", g_per_kwh)):
        per_unit = _floats(priced, "energy_kwh_per_unit") * factor
        mean, std = _mean_and_std(per_unit, groups)
        figures[f"{quantity}_per_unit_mean"] = mean
        figures[f"{quantity}_per_unit_std_between"] = std
        within = _floats(priced, _WITHIN) * factor
        figures[f"{quantity}_per_unit_std_within"] = _pooled_std(within, degrees, groups)
    for quantity, factor in (("energy_kwh", 1.0), ("co2e_g", g_per_kwh)):
        mean, std = _mean_and_std(_floats(priced, "energy_kwh") * factor, groups)
        figures[f"{quantity}_mean"] = mean
        figures[f"{quantity}_std_between"] = std
    figures["num_distinct_readings"] = groups.sums(_floats(priced, "num_distinct_readings"))
    figures["coverage_fraction"] = _mean_and_std(_floats(priced, "coverage_fraction"), groups)[0]
    common = {name: common_values(priced[name], number) for name in ASSUMPTION_COLUMNS}
    rows = pd.concat([table, pd.DataFrame(figures), pd.DataFrame(common, dtype=object)], axis=1)
    return rows.astype(dict.fromkeys(NUMBER_COLUMNS, "float64"))


def common_values(values: pd.Series, groups: np.ndarray) -> np.ndarray:
    """Returns the one value that all runs of a group share, for each group; None if they differ.

    Args:
        values: one a run; a run without a value does not count.
        groups: the number of each run's group, from 0.
    """
    codes, distinct = pd.factorize(values)
    lowest, highest = _extremes(codes[codes >= 0], groups[codes >= 0], int(groups.max()) + 1)
    is_common = lowest == highest
    found = np.full(len(lowest), None, dtype=object)
    found[is_common] = np.asarray(distinct, dtype=object)[lowest[is_common]]
    return found


def num_mixed(values: pd.Series, groups: np.ndarray) -> tuple[int, list[str]]:
    """Returns the number of groups that mix several values, and all those values as text."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    lowest, highest = _extremes(codes, groups, int(groups.max()) + 1)
    is_mixed = lowest < highest
    mixed = np.unique(codes[is_mixed[groups]])
    return int(is_mixed.sum()), sorted({str(distinct[code]) for code in mixed})


def _extremes(codes: np.ndarray, groups: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each group's lowest and highest code; of a group without any, the low one is more."""
    lowest = np.full(num, np.iinfo(np.intp).max, dtype=np.intp)
    highest = np.full(num, -1, dtype=np.intp)
    np.minimum.at(lowest, groups, codes)
    np.maximum.at(highest, groups, codes)
    return lowest, highest


def _g_per_kwh(priced: pd.DataFrame) -> np.ndarray:
    """Returns the CO2e of a kWh of each run's IT energy, in g: PUE x intensity."""
    pue, intensity = _floats(priced, "pue"), _floats(priced, "intensity_g_per_kwh")
    for bound in (pue.min(), pue.max()):
        validate_pue(float(bound))
    for name, values in (("intensity_g_per_kwh", intensity), ("energy_kwh", priced["energy_kwh"])):
        for bound in (values.min(), values.max()):
            checked(name, float(bound))
    return np.asarray(pue * intensity)


def _mean_and_std(values: np.ndarray, groups: _Groups) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the sample std (n - 1) of each group's values; NaN is no value."""
    is_known = ~np.isnan(values)
    known = _Groups(groups.of_run[is_known], groups.num)
    with np.errstate(invalid="ignore", divide="ignore"):  # 0 / 0: nothing known of a group
        counts = known.sums(np.ones(len(known.of_run)))
        mean = known.sums(values[is_known]) / counts
        squares = known.sums((values[is_known] - mean[known.of_run]) ** 2)
        return mean, np.where(counts > 1, np.sqrt(squares / (counts - 1)), np.nan)


def _pooled_std(stds: np.ndarray, degrees: np.ndarray, groups: _Groups) -> np.ndarray:
    """Returns the std inside runs, pooled by degrees of freedom; NaN where there are none."""
    weights = np.where(np.isnan(stds), 0.0, degrees)
    with np.errstate(invalid="ignore"):
        squares = groups.sums(weights * np.nan_to_num(stds) ** 2)
        return np.asarray(np.sqrt(squares / groups.sums(weights)))


def _floats(frame: pd.DataFrame, column: str, missing: float = np.nan) -> np.ndarray:
    values = frame[column].to_numpy(dtype=float, na_value=np.nan)
    return np.asarray(np.nan_to_num(values, nan=missing) if missing == 0.0 else values)
