"""A run as a store holds it, whoever reads it, and which of its names a reader wants."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import (
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
)

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_summary import FIGURE_TAGS

RESOLVED_PREFIX = "resolved."  # before the name of a parameter: what `auto` or a preset became
# Tags of MLflow that a comparison needs of every run.
OTHER_TAGS = (MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE)
# Tags that MLflow or this package writes begin so. Of these a comparison needs few, and many differ
# from run to run, as names, descriptions and lists of models do.
PROGRAM_PREFIXES = ("mlflow.", keys.TAG_PREFIX)
_COMPARED_TAGS = (
    keys.TAG_SHARED,
    keys.TAG_HARDWARE,
    MLFLOW_PROJECT_ENTRY_POINT,
    MLFLOW_SOURCE_NAME,
)
# Tags of the contract, or beginnings of them, that say nothing of a run's summary.
ASIDE_TAGS = (
    keys.TAG_LAUNCH,
    keys.TAG_NOTE,
    keys.TAG_FORECAST_INTERVAL_G,
    keys.TAG_OTHER_LOAD,
    keys.TAG_MODEL_INPUT_IDS,
    keys.TAG_TRIGGERED_BY_RUN_ID,
    keys.TAG_ERROR,
)
ASIDE_PREFIX = keys.windows_tag("")


Progress = Callable[[int, int | None], None]  # takes runs read, and runs to read where known


class StoredRun(NamedTuple):
    """One metered run: its latest metrics, its parameters and its tags.

    All metrics of the contract are there, and the tags that its summary is made of; of the others
    at least those wanted. The tags of ``FIGURE_TAGS`` are apart in ``figure_tags``, so that runs of
    a kind can share the rest.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    figure_tags: Mapping[str, str] = {}  # read only
    start_ms: int | None = None
    end_ms: int | None = None

    @classmethod
    def of(cls, run: Run) -> "StoredRun":
        """Returns a run that MLflow has read."""
        info, data = run.info, run.data
        # sqlite keeps bytes in a column of texts; they say nothing
        tags = {key: text for key, text in data.tags.items() if isinstance(text, str)}
        figure_tags = {key: tags.pop(key) for key in FIGURE_TAGS if key in tags}
        return cls(
            info.run_id,
            info.run_name or "",
            info.experiment_id,
            info.status,
            data.metrics,
            data.params,
            tags,
            figure_tags,
            info.start_time,
            info.end_time,
        )


@dataclass(frozen=True)
class Scope:
    """Which runs are read.

    Attributes:
        experiment_ids: where to look.
        since_ms: only runs that started then or later.
        has_unmetered: whether to read runs without any measurement, too.
    """

    experiment_ids: Sequence[str]
    since_ms: int | None = None
    has_unmetered: bool = False


@dataclass(frozen=True)
class Wanted:
    """The parameters and tags that become columns; ``None`` wants all of them.

    Attributes:
        params: names of parameters.
        tags: names of tags.
        program_tags: names of tags that programs write, where ``tags`` wants all: so all tags of
            the user, and of the others these.
    """

    params: Collection[str] | None = None
    tags: Collection[str] | None = None
    program_tags: Collection[str] | None = None

    @classmethod
    def of(cls, names: Collection[str] | None) -> "Wanted":
        """Returns the columns that these names may mean, and those of warnings."""
        if names is None:
            return cls()
        resolved = (f"{RESOLVED_PREFIX}{name}" for name in names)
        return cls({*names, *resolved}, {*names, keys.TAG_SHARED})

    @classmethod
    def for_groups(cls, names: Collection[str]) -> "Wanted":
        """Returns the columns for a comparison by these tags, which needs all parameters."""
        return cls(program_tags={*_COMPARED_TAGS, *names})

    def tags_of(self, tags: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the tags that become columns."""
        if self.tags is not None:
            return {name: tags[name] for name in self.tags if name in tags}
        named = self.program_tags
        if named is None:
            return tags
        return {
            name: text
            for name, text in tags.items()
            if name in named or not name.startswith(PROGRAM_PREFIXES)
        }

    def params_of(self, params: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the parameters that become columns."""
        if self.params is None:
            return params
        return {name: params[name] for name in self.params if name in params}
