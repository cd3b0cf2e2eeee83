"""Unlike runs in one group: populations to keep apart, and settings that move the energy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import fdtrc

from mlflow_carbon.contract import keys
from mlflow_carbon.reporting.run_groups import METHOD
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX

# Kept apart wherever they would be mixed: another workload, machine, or way of measuring it.
POPULATION_COLUMNS = {
    "dims": f"{PARAM_COLUMN_PREFIX}dims",
    "model_size": f"{PARAM_COLUMN_PREFIX}model_size",
    "sampler": f"{PARAM_COLUMN_PREFIX}sampler",
    "mlflow.project.entryPoint": f"{TAG_COLUMN_PREFIX}mlflow.project.entryPoint",
    keys.TAG_HARDWARE: f"{TAG_COLUMN_PREFIX}{keys.TAG_HARDWARE}",
    METHOD: "methods",
    keys.TAG_ATTRIBUTION: "attribution",
}
_SCRIPT = f"{TAG_COLUMN_PREFIX}mlflow.source.name"
# Tags that MLflow or this package writes; what they say of a run's work is in the columns above.
_WRITTEN_BY_PROGRAMS = tuple(f"{TAG_COLUMN_PREFIX}{prefix}" for prefix in ("mlflow.", "carbon."))
_SIGNIFICANT_P = 0.01  # of all settings together (Bonferroni)
_LEAST_SHARE = 0.1  # of the energies' variance in a group that a setting must explain
_LEAST_RATIO = 1.05  # of energies that a setting must make
_DOUBTFUL_RATIO = 1.2  # of energies in a group, where too few runs tell what makes it
_MAX_VALUES = 50  # of a setting that is no number
_MAX_NAMED = 4
_ABSENT = "-"


@dataclass(frozen=True)
class Movers:
    """Settings that differ inside groups and go with their energy, the strongest first.

    Attributes:
        names: as ``group_by`` takes them.
        values: of each, for a reader.
        share_fraction: of the energies' variance inside the groups that the first explains.
        untold: settings that differ where energies differ, and too few runs tell which moves them.
        largest_ratio: of two energies in one group.
    """

    names: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    share_fraction: float = 0.0
    untold: tuple[str, ...] = ()
    largest_ratio: float = 1.0


def mixed_populations(runs: pd.DataFrame, group_columns: Sequence[str]) -> dict[str, str]:
    """Returns the keys, and their columns, that keep unlike runs of a group apart; few or none.

    A run that lacks such a setting is unlike one that has it; one that does not say how it was
    measured may be like any other, as a killed run has no such tags.

    Args:
        runs: that can be compared.
        group_columns: what makes a group so far.
    """
    found: dict[str, str] = {}
    for name, column in POPULATION_COLUMNS.items():
        if column not in runs or column in group_columns:
            continue
        values = runs[column].mask(runs[column].eq(""))
        if not name.startswith(keys.TAG_PREFIX):
            values = values.fillna(_ABSENT)
        if values.nunique() < 2:
            continue
        groups = _codes(runs, [*group_columns, *found.values()])
        if (pd.Series(values.to_numpy()).groupby(groups).nunique() > 1).any():
            found[name] = column
    return found


def movers(
    runs: pd.DataFrame, group_columns: Sequence[str], *, quantity: str = "energy_kwh_per_unit"
) -> Movers:
    """Returns the parameters and tags that differ inside a group and move its energy.

    Each is regressed on its own: log(energy) by the values of the setting, and by its rank where it
    is a number with as many values as runs, the groups' own means taken out; F-test at 1 % of all
    settings together. What goes with a mover comes with it.

    Args:
        runs: that can be compared.
        group_columns: what makes a group.
        quantity: the energy.
    """
    measured = runs[runs[quantity] > 0]
    if measured.empty:
        return Movers()
    groups = _codes(measured, group_columns)
    log_energy = np.log(measured[quantity].to_numpy(dtype=float))
    centred = _centred(log_energy, groups)
    ranges = pd.Series(log_energy).groupby(groups).agg(lambda logs: logs.max() - logs.min())
    largest_ratio = float(np.exp(ranges.max()))
    if largest_ratio < _LEAST_RATIO:
        return Movers(largest_ratio=largest_ratio)
    settings, differing = _settings(measured, groups, group_columns)
    tested, untold = [], []
    for name, texts in settings.items():
        effect = _effect(texts, groups, centred)
        if effect is None:
            untold.append(name)
        else:
            tested.append((*effect, name))
    limit = _SIGNIFICANT_P / max(len(tested), 1)
    found = sorted(
        (item for item in tested if item[0] < limit and item[1] >= _LEAST_SHARE),
        key=lambda item: -item[1],
    )[:_MAX_NAMED]
    names = tuple(name for *_, name in found)
    if found:
        values = tuple(_listed(settings[name][differing[name]]) for name in names)
        return Movers(names, values, found[0][1], largest_ratio=largest_ratio)
    if largest_ratio < _DOUBTFUL_RATIO:
        return Movers(largest_ratio=largest_ratio)
    untold += [name for p, share, name in tested if share >= 0.5 and p >= limit]
    return Movers(untold=tuple(untold[:_MAX_NAMED]), largest_ratio=largest_ratio)


def _codes(runs: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Returns a number for each run's group, from 0."""
    if not columns:
        return np.zeros(len(runs), dtype=np.intp)
    return np.asarray(runs.groupby(list(columns), sort=False, dropna=False).ngroup())


def _centred(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Returns values less the mean of their group."""
    means = np.bincount(groups, weights=values) / np.bincount(groups)
    return np.asarray(values - means[groups])


def _settings(
    runs: pd.DataFrame, groups: np.ndarray, group_columns: Sequence[str]
) -> tuple[dict[str, pd.Series], dict[str, np.ndarray]]:
    """Returns the texts of each parameter and tag of the user that differs inside a group.

    Beside them, by name too, whether each run is in such a group.
    """
    found: dict[str, pd.Series] = {}
    differing: dict[str, np.ndarray] = {}
    for column in runs:
        is_param = column.startswith(PARAM_COLUMN_PREFIX)
        is_tag = column.startswith(TAG_COLUMN_PREFIX) and not column.startswith(
            _WRITTEN_BY_PROGRAMS
        )
        if column in group_columns or not (is_param or is_tag or column == _SCRIPT):
            continue
        texts = runs[column].fillna(_ABSENT).astype(str).reset_index(drop=True)
        codes = pd.factorize(texts)[0]
        highest = np.full(groups.max() + 1, -1)
        lowest = np.full(groups.max() + 1, len(codes))
        np.maximum.at(highest, groups, codes)
        np.minimum.at(lowest, groups, codes)
        if (highest > lowest).any():
            name = column.split(".", 1)[1]
            found[name] = texts
            differing[name] = (highest > lowest)[groups]
    return found, differing


def _effect(
    texts: pd.Series, groups: np.ndarray, centred: np.ndarray
) -> tuple[float, float] | None:
    """Returns the p-value of a setting and the share of the variance that it explains.

    Returns:
        ``None`` where there are too few runs to tell.
    """
    total = float(centred @ centred)
    codes, values = pd.factorize(texts)
    num_left = len(texts) - (groups.max() + 1)  # degrees of freedom beside the groups' means
    if total == 0:
        return 1.0, 0.0
    if len(values) <= _MAX_VALUES and num_left > len(values) - 1:
        explained, num_terms = _explained_by_values(codes, len(values), groups, centred)
    else:
        numbers = pd.to_numeric(texts, errors="coerce")
        if numbers.isna().any() or num_left < 3:
            return None
        ranks = _centred(numbers.rank().to_numpy(), groups)
        squares = float(ranks @ ranks)
        explained, num_terms = (float(ranks @ centred) ** 2 / squares, 1) if squares else (0.0, 1)
    num_rest = num_left - num_terms
    if num_terms < 1 or num_rest < 1:
        return None
    rest = max(total - explained, 0.0)
    if rest <= 1e-12 * total:
        return 0.0, 1.0
    ratio = (explained / num_terms) / (rest / num_rest)
    return float(fdtrc(num_terms, num_rest, ratio)), explained / total


def _explained_by_values(
    codes: np.ndarray, num_values: int, groups: np.ndarray, centred: np.ndarray
) -> tuple[float, int]:
    """Returns the sum of squares that the values of a setting explain, and its degrees of freedom.

    Least squares on one indicator a value, each less its mean in the group.
    """
    counts = np.zeros((groups.max() + 1, num_values))
    np.add.at(counts, (groups, codes), 1.0)
    sizes = counts.sum(axis=1)
    gram = np.diag(counts.sum(axis=0)) - (counts / sizes[:, None]).T @ counts
    moments = np.bincount(codes, weights=centred, minlength=num_values)
    solution, _, rank, _ = np.linalg.lstsq(gram, moments, rcond=1e-9)
    return float(moments @ solution), int(rank)


def _listed(texts: pd.Series) -> str:
    values = sorted(texts.unique(), key=_as_number)
    shown = ", ".join(values[:_MAX_NAMED])
    return shown if len(values) <= _MAX_NAMED else f"{shown}, ... ({len(values)} values)"


def _as_number(text: str) -> tuple[bool, float, str]:
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text
