"""Which runs can be compared, and which column of the frame a group key means."""

import difflib
from collections.abc import Mapping, Sequence

import pandas as pd

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX
from mlflow_carbon.store.stored_runs import RESOLVED_PREFIX

EXPERIMENT = "experiment"  # a key that is neither a parameter nor a tag
METHOD = keys.method_tag("").rstrip(".")  # how all components were measured, as one key
PER_UNIT = ("energy_kwh", "energy_kwh_per_unit", "unit")  # what energy per unit rests on
_OWN_COLUMNS = {EXPERIMENT: "experiment", METHOD: "methods"}


def usable_runs(
    runs: pd.DataFrame,
    columns: Mapping[str, str],
    assumed: Sequence[str],
    *,
    measured: Sequence[str] = PER_UNIT,
) -> tuple[pd.DataFrame, list[str]]:
    """Returns the runs that can be compared, and a sentence for each reason to leave one out.

    Args:
        runs: as ``store.read_runs`` returns them.
        columns: the column of each group key.
        assumed: the columns of Eq. 1 that are taken from the runs.
        measured: the columns of what is compared.
    """
    what = "energy per unit" if "energy_kwh_per_unit" in measured else "energy"
    faults = {
        "whose energy contains that of child runs": runs["scope"] == keys.SCOPE_PARENT,
        f"without {what}": runs[list(measured)].isna().any(axis=1),
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
    return runs if is_usable.all() else runs[is_usable], sentences


def tag_names(names: Sequence[str]) -> list[str]:
    """Returns the tags that group keys may mean, as ``column_of`` takes them."""
    return [name.removeprefix(TAG_COLUMN_PREFIX) for name in names]


def column_of(runs: pd.DataFrame, name: str, *, reserved: Sequence[str] = ()) -> str:
    """Returns the column of a group key.

    Args:
        runs: as ``store.read_runs`` returns them.
        name: ``experiment`` for MLflow's experiment, ``carbon.method`` for how all components were
            measured, else a parameter or else a tag of that name; ``params.NAME`` and
            ``tags.NAME`` say which.
        reserved: names that the comparison has itself.

    Raises:
        InvalidInputError: no run has one of that name, or the comparison has such a column itself.
    """
    if name in _OWN_COLUMNS:
        return _OWN_COLUMNS[name]
    if name in reserved:
        raise InvalidInputError(
            f"Cannot group by {name!r}: the comparison has a column of that name. "
            f"Use {PARAM_COLUMN_PREFIX}{name} or {TAG_COLUMN_PREFIX}{name}."
        )
    prefixes = (PARAM_COLUMN_PREFIX, TAG_COLUMN_PREFIX)
    bare = name.removeprefix(PARAM_COLUMN_PREFIX).removeprefix(RESOLVED_PREFIX)
    names = (PARAM_COLUMN_PREFIX + name, TAG_COLUMN_PREFIX + name, name, PARAM_COLUMN_PREFIX + bare)
    for column in names:
        if column in runs and column.startswith(prefixes):
            return column
    known = [column.split(".", 1)[1] for column in runs if column.startswith(prefixes)]
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
    raise InvalidInputError(
        f"No run has a parameter or tag {name!r}. Nearest: {', '.join(nearest)}.",
        arguments=["group_by"],
    )
