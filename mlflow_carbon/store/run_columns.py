"""Runs gathered column by column, as a hundred thousand rows of their own would not fit."""

import math
import shlex
from array import array
from collections.abc import Collection, Mapping

import pandas as pd
from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.store.stored_runs import StoredRun, Wanted

PARAM_COLUMN_PREFIX = "params."
TAG_COLUMN_PREFIX = "tags."

_TAG_BY_COLUMN = {
    "parent_run_id": MLFLOW_PARENT_RUN_ID,
    "region": keys.TAG_REGION,
    "period": keys.TAG_PERIOD,
    "intensity_set": keys.TAG_INTENSITY_SET,
    "intensity_basis": keys.TAG_INTENSITY_BASIS,
    "unit": keys.TAG_UNIT,
    "attribution": keys.TAG_ATTRIBUTION,
}

TEXT_COLUMNS = ("run_id", "run_name", "experiment", "scope", "methods", *_TAG_BY_COLUMN)
NUMBER_COLUMNS = (
    "energy_kwh",
    "duration_s",
    "co2e_g",
    "coverage_fraction",
    "pue",
    "intensity_g_per_kwh",
    "num_units",
    "num_windows",
    "num_distinct_readings",
    "energy_kwh_per_unit",
    "energy_kwh_per_unit_std_within",
)
_METHOD_TAG_PREFIX = keys.method_tag("")
_PROJECT = SourceType.to_string(SourceType.PROJECT)


class RunColumns:
    """The columns of a frame of runs while it grows; equal texts are kept once."""

    def __init__(self, wanted: Wanted) -> None:
        """Starts without runs.

        Args:
            wanted: the parameters and tags that get a column.
        """
        self._wanted = wanted
        self._numbers = {name: array("d") for name in NUMBER_COLUMNS}
        self._texts: dict[str, list[str | None]] = {name: [] for name in TEXT_COLUMNS}
        self._params: dict[str, list[str | None]] = {}
        self._tags: dict[str, list[str | None]] = {}
        self._same: dict[str, str] = {}
        self._num_runs = 0

    def __len__(self) -> int:
        return self._num_runs

    def has_all(self, names: Collection[str]) -> bool:
        """Returns whether some run has a parameter or a tag of each name."""
        return all(name in self._params or name in self._tags for name in names)

    def add(self, run: StoredRun, record: RunRecord) -> None:
        """Takes one more run, and the record that is in its metrics and tags."""
        tags, same = run.tags, self._same
        texts = {
            "run_id": run.run_id,
            "run_name": run.name,
            "experiment": run.experiment_id,
            "scope": tags.get(keys.TAG_SCOPE),
            "methods": methods(tags),
        }
        for column, tag in _TAG_BY_COLUMN.items():
            texts[column] = tags.get(tag)
        for name, text in texts.items():
            self._texts[name].append(None if text is None else same.setdefault(text, text))
        for numbers, value in zip(self._numbers.values(), _numbers(record), strict=True):
            numbers.append(math.nan if value is None else value)
        is_project = tags.get(MLFLOW_SOURCE_TYPE) == _PROJECT
        for name, text in _picked(run.params, self._wanted.params):
            self._append(self._params, name, unquoted(text) if is_project else text)
        for name, text in _picked(tags, self._wanted.tags):
            self._append(self._tags, name, text)
        self._num_runs += 1

    def frame(
        self, experiment_names_by_id: Mapping[str, str], parent_run_ids: Collection[str | None]
    ) -> pd.DataFrame:
        """Returns the runs as a frame.

        Args:
            experiment_names_by_id: the name of each experiment.
            parent_run_ids: of all runs that have metered children.
        """
        texts = dict(self._texts)
        texts["experiment"] = [experiment_names_by_id[id_ or ""] for id_ in texts["experiment"]]
        texts["scope"] = [
            keys.SCOPE_PARENT
            if scope == keys.SCOPE_PARENT or run_id in parent_run_ids
            else keys.SCOPE_RUN
            for scope, run_id in zip(texts["scope"], texts["run_id"], strict=True)
        ]
        columns: dict[str, pd.Series] = {}
        for name, listed in texts.items():
            columns[name] = pd.Series(listed)
        for name, numbers in self._numbers.items():
            columns[name] = pd.Series(numbers, dtype="float64")
        prefixed = ((PARAM_COLUMN_PREFIX, self._params), (TAG_COLUMN_PREFIX, self._tags))
        for prefix, by_name in prefixed:
            for name in sorted(by_name):
                listed = by_name[name]
                listed.extend([None] * (self._num_runs - len(listed)))
                columns[prefix + name] = pd.Series(listed)
        return pd.DataFrame(columns)

    def _append(self, columns: dict[str, list[str | None]], name: str, text: str) -> None:
        column = columns.setdefault(name, [])
        column.extend([None] * (self._num_runs - len(column)))
        column.append(self._same.setdefault(text, text))


def _picked(
    texts: Mapping[str, str], wanted: Collection[str] | None
) -> Collection[tuple[str, str]]:
    if wanted is None:
        return texts.items()
    return [(name, texts[name]) for name in wanted if name in texts]


def _numbers(record: RunRecord) -> tuple[float | None, ...]:
    """Returns a run's values of ``NUMBER_COLUMNS``."""
    total = record.total or Total(None)
    per_unit = record.energy_per_unit.get(record.unit or "")
    return (
        total.energy_kwh,
        total.duration_s,
        record.co2e_g,
        total.coverage_fraction,
        record.pue,
        None if record.intensity is None else record.intensity.g_per_kwh,
        record.num_units,
        record.num_windows,
        record.num_distinct_readings,
        None if per_unit is None else per_unit.energy_kwh,
        None if per_unit is None else per_unit.std_kwh,
    )


def methods(tags: Mapping[str, str]) -> str:
    """Names the method that measured each component's energy: ``cpu=tdp,gpu=sampled``."""
    found = {
        key.removeprefix(_METHOD_TAG_PREFIX): value
        for key, value in tags.items()
        if key.startswith(_METHOD_TAG_PREFIX)
    }
    return ",".join(f"{component}={found[component]}" for component in sorted(found))


def unquoted(value: str) -> str:
    """Removes the shell's quotes, with which ``mlflow run`` logs a parameter."""
    if not value.startswith("'"):
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if len(words) == 1 else value
