"""A run as a store holds it, whoever reads it, and which of its names a reader wants."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_summary import FIGURE_TAGS

# Tags of MLflow that a comparison needs of every run.
OTHER_TAGS = (MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_TYPE)


Progress = Callable[[int, int | None], None]  # takes runs read, and runs to read where known


class StoredRun(NamedTuple):
    """One metered run: its latest metrics, its parameters and its tags.

    All metrics and tags of the contract are there; of the others at least those wanted. The tags
    of ``FIGURE_TAGS`` are apart in ``figure_tags``, so that runs of a kind can share the rest.
    """

    run_id: str
    name: str
    experiment_id: str
    status: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    figure_tags: Mapping[str, str] = {}  # read only

    @classmethod
    def of(cls, run: Run) -> "StoredRun":
        """Returns a run that MLflow has read."""
        info, data = run.info, run.data
        tags = dict(data.tags)
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
        )


@dataclass(frozen=True)
class Wanted:
    """The parameters and tags that become columns; ``None`` wants all of them."""

    params: Collection[str] | None = None
    tags: Collection[str] | None = None

    @classmethod
    def of(cls, names: Collection[str] | None) -> "Wanted":
        """Returns what names of a parameter or a tag may mean, and what a comparison warns of."""
        return cls() if names is None else cls(names, {*names, keys.TAG_SHARED})
