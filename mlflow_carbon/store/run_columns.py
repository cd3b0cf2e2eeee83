"""Runs gathered column by column, as a hundred thousand rows of their own would not fit."""

import shlex
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from mlflow.entities import SourceType
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE
from numpy.typing import NDArray

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_description import words_of_methods
from mlflow_carbon.contract.run_summary import PerTags, RunSummary
from mlflow_carbon.store.stored_runs import RESOLVED_PREFIX, StoredRun, Wanted

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

_OWN_COLUMNS = ("run_id", "run_name")  # texts that no two runs share
_SHARED_COLUMNS = ("experiment", "scope", "methods", *_TAG_BY_COLUMN)
TEXT_COLUMNS = (*_OWN_COLUMNS, *_SHARED_COLUMNS)
NUMBER_COLUMNS = RunSummary._fields
_NUM_ROWS_KEPT = 1000
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
        self._rows: list[tuple[str | None, ...]] = []  # of the newest runs
        self._summaries: list[RunSummary] = []  # of the same runs
        self._numbers: list[NDArray[np.float64]] = []  # (runs, columns) each
        self._own: list[tuple[Mapping[str, str], Mapping[str, str]]] = []  # their params and tags
        self._names: list[pd.DataFrame] = []  # (runs, own columns) each: packed, not objects
        self._texts: dict[str, list[str | None]] = {name: [] for name in _SHARED_COLUMNS}
        self._params: dict[str, list[str | None]] = {}
        self._tags: dict[str, list[str | None]] = {}
        self._num_turned = 0  # runs that are in the columns
        self._same: dict[str, str] = {}
        self._of_tags = PerTags(self._read_tags)
        self._num_runs = 0

    def __len__(self) -> int:
        return self._num_runs

    def has_all(self, names: Collection[str]) -> bool:
        """Returns whether each name is a column's, or some run's parameter or tag."""
        self._turn()
        return all(
            name in TEXT_COLUMNS or name in self._params or name in self._tags for name in names
        )

    def add(self, run: StoredRun, summary: RunSummary) -> None:
        """Takes one more run, and the figures that are in its metrics and tags."""
        texts, tags, is_project = self._of_tags.of(run.tags)
        experiment_id = self._same.setdefault(run.experiment_id, run.experiment_id)
        self._rows.append((run.run_id, run.name, experiment_id, *texts))
        self._summaries.append(summary)
        params = self._wanted.params_of(run.params)
        if is_project:
            params = {name: unquoted(text) for name, text in params.items()}
        if run.figure_tags:
            tags = {**tags, **self._wanted.tags_of(run.figure_tags)}
        self._own.append((params, tags))
        self._num_runs += 1
        if len(self._rows) == _NUM_ROWS_KEPT:
            self._turn()

    def _turn(self) -> None:
        """Makes columns of the rows that are kept."""
        if not self._rows:
            return
        own = dict(zip(TEXT_COLUMNS, map(list, zip(*self._rows, strict=True)), strict=True))
        self._names.append(pd.DataFrame({name: own.pop(name) for name in _OWN_COLUMNS}))
        for name, texts in own.items():
            self._texts[name].extend(texts)
        self._numbers.append(np.array(self._summaries, dtype=np.float64))  # None is NaN
        params, tags = zip(*self._own, strict=True)
        self._extend(self._params, params)
        self._extend(self._tags, tags)
        self._num_turned += len(self._rows)
        self._rows, self._summaries, self._own = [], [], []

    def _extend(
        self, columns: dict[str, list[str | None]], named: Sequence[Mapping[str, str]]
    ) -> None:
        """Adds the texts of some runs to their columns."""
        same = self._same
        kinds = {id(texts): texts for texts in named}.values()  # runs may share their texts
        for name in {name for texts in kinds for name in texts} - columns.keys():
            columns[name] = [None] * self._num_turned
        for name, column in columns.items():
            found = (texts.get(name) for texts in named)
            column.extend(None if text is None else same.setdefault(text, text) for text in found)

    def _read_tags(
        self, tags: Mapping[str, str]
    ) -> tuple[tuple[str | None, ...], Mapping[str, str], bool]:
        """Returns the texts of the tags' own columns, the tags wanted, and if `mlflow run` ran."""
        found = (tags.get(keys.TAG_SCOPE), methods(tags), *map(tags.get, _TAG_BY_COLUMN.values()))
        texts = tuple(text if text is None else self._same.setdefault(text, text) for text in found)
        return texts, self._wanted.tags_of(tags), tags.get(MLFLOW_SOURCE_TYPE) == _PROJECT

    def frame(
        self, experiment_names_by_id: Mapping[str, str], parent_run_ids: Collection[str | None]
    ) -> pd.DataFrame:
        """Returns the runs as a frame, and forgets them.

        A parameter that was left at ``auto`` is what it became, where the run says so.

        Args:
            experiment_names_by_id: the name of each experiment.
            parent_run_ids: of all runs that have metered children.
        """
        self._turn()
        _resolve(self._params)
        texts = self._texts
        names = pd.concat(self._names or [pd.DataFrame(columns=_OWN_COLUMNS)], ignore_index=True)
        columns: dict[str, pd.Series] = dict(names.items())
        texts["experiment"] = [experiment_names_by_id[id_ or ""] for id_ in texts["experiment"]]
        texts["scope"] = [
            keys.SCOPE_PARENT
            if scope == keys.SCOPE_PARENT or run_id in parent_run_ids
            else keys.SCOPE_RUN
            for scope, run_id in zip(texts["scope"], columns["run_id"], strict=True)
        ]
        for name in _SHARED_COLUMNS:
            columns[name] = pd.Series(texts.pop(name))
        numbers = np.concatenate(self._numbers) if self._numbers else np.empty((0, 0))
        for position, name in enumerate(NUMBER_COLUMNS):
            columns[name] = pd.Series(numbers[:, position])
        prefixed = ((PARAM_COLUMN_PREFIX, self._params), (TAG_COLUMN_PREFIX, self._tags))
        for prefix, by_name in prefixed:
            for name in sorted(by_name):
                columns[prefix + name] = pd.Series(by_name.pop(name))
        return pd.DataFrame(columns)


def _resolve(params: dict[str, list[str | None]]) -> None:
    """Puts ``resolved.NAME`` in place of NAME wherever a run has it: one name for one thing."""
    for name in [name for name in params if name.startswith(RESOLVED_PREFIX)]:
        given = params.get(bare := name.removeprefix(RESOLVED_PREFIX))
        if given is not None:
            pairs = zip(params.pop(name), given, strict=True)
            params[bare] = [old if became is None else became for became, old in pairs]


def methods(tags: Mapping[str, str]) -> str:
    """Names the method that measured each component's energy: ``cpu=tdp,gpu=sampled``."""
    found = {
        key.removeprefix(_METHOD_TAG_PREFIX): value
        for key, value in tags.items()
        if key.startswith(_METHOD_TAG_PREFIX)
    }
    return ",".join(f"{component}={found[component]}" for component in sorted(found))


def words_of(methods_text: str) -> str:
    """Returns what ``methods`` returned as a person would say it; an estimate is not measured."""
    pairs = (pair.partition("=") for pair in methods_text.split(",") if pair)
    return words_of_methods({component: method for component, _, method in pairs})


def unquoted(value: str) -> str:
    """Removes the shell's quotes, with which ``mlflow run`` logs a parameter."""
    if not value.startswith("'"):
        return value
    try:
        words = shlex.split(value)
    except ValueError:
        return value
    return words[0] if len(words) == 1 else value
