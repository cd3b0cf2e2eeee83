"""A model's full footprint: its own training and the training of all models it is built from."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.contract import keys
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.registry.footprints import Footprint, read_footprint, why_unmeasured
from mlflow_carbon.registry.model_uris import MODELS_SCHEME, find_version, parse_model_uri

RUNS_SCHEME = "runs:/"


@dataclass(frozen=True)
class Lineage:
    """The trainings that a model rests on, its own among them, each counted once.

    Attributes:
        footprints: of the trainings, except those contained in another training's energy.
        runs: all trainings that were found, measured or not, by their ids.
        problems: reasons why the sum is not known; empty if it is.
    """

    footprints: tuple[Footprint, ...]
    runs: Mapping[str, Run]
    problems: tuple[str, ...]

    @property
    def num_runs(self) -> int:
        """Number of trainings found, measured or not."""
        return len(self.runs)

    def priced_kg(
        self, price_kg: Callable[[Footprint], float] = Footprint.priced_kg
    ) -> float | None:
        """Returns the emissions of all trainings in kg; ``None`` if one of them has no figure.

        Args:
            price_kg: returns the emissions of one training, by default as recorded; may raise.
        """
        return None if self.problems else math.fsum(map(price_kg, self.footprints))


def version_lineage(client: MlflowClient, version: ModelVersion) -> Lineage:
    """Returns the trainings that a model version rests on."""
    start = _named(version.tags)
    if version.run_id:
        start.add(f"{RUNS_SCHEME}{version.run_id}")
    source = version.source or ""
    if source.startswith(MODELS_SCHEME):
        start.add(source)
    return read_lineage(client, start)


def read_lineage(client: MlflowClient, start: Iterable[str]) -> Lineage:
    """Follows a model's origins to any depth; circles do no harm.

    Origins are a run's model inputs (``mlflow.log_input``), and the models named in the tag
    ``carbon.parent_model`` of a run, logged model or version.

    Args:
        client: of the store and registry.
        start: ``runs:/<id>`` and ``models:/...`` of the model itself.
    """
    waiting = list(start)
    seen: set[str] = set()
    runs: dict[str, Run] = {}
    problems: list[str] = []
    while waiting:
        reference = waiting.pop()
        if reference in seen:
            continue
        seen.add(reference)
        try:
            run, origins = _follow(client, reference)
        except MlflowException as error:
            problems.append(f"{reference} cannot be read: {reason_of(error)}")
            continue
        if run is not None:
            runs[run.info.run_id] = run
        waiting += sorted(origins)
    found = {run_id: read_footprint(run) for run_id, run in runs.items()}
    problems += [why_unmeasured(runs[run_id]) for run_id, value in found.items() if value is None]
    measured = {run_id: value for run_id, value in found.items() if value is not None}
    counted = [
        footprint
        for footprint in measured.values()
        if not _is_inside(client, footprint.run, measured)
    ]
    return Lineage(tuple(counted), runs, tuple(sorted(problems)))


def _follow(client: MlflowClient, reference: str) -> tuple[Run | None, set[str]]:
    """Returns the run that a reference leads to, if any, and the references of its origins.

    Raises:
        MlflowException: there is no such run or model, or it may not be read.
    """
    if reference.startswith(RUNS_SCHEME):
        run = client.get_run(reference.removeprefix(RUNS_SCHEME).split("/")[0])
        inputs = run.inputs.model_inputs if run.inputs else []
        return run, _named(run.data.tags) | {f"{MODELS_SCHEME}{item.model_id}" for item in inputs}
    uri = parse_model_uri(reference)
    if uri.model_id is not None:
        model = client.get_logged_model(uri.model_id)
        return None, _named(model.tags) | _run_reference(reference, model.source_run_id)
    version = find_version(client, uri)
    return None, _named(version.tags) | _run_reference(reference, version.run_id)


def _named(tags: Mapping[str, str]) -> set[str]:
    """Returns the references in the tag in which users name a model's origins."""
    names = tags.get(keys.TAG_PARENT_MODEL, "").split(",")
    return {name.strip() for name in names if name.strip()}


def _run_reference(reference: str, run_id: str | None) -> set[str]:
    if not run_id:
        raise MlflowException(f"{reference} names no run that trained it")
    return {f"{RUNS_SCHEME}{run_id}"}


def _is_inside(client: MlflowClient, run: Run, counted: Collection[str]) -> bool:
    """Returns whether a run is nested in a counted run, whose energy contains its own."""
    seen = {run.info.run_id}
    parent_run_id = run.data.tags.get(MLFLOW_PARENT_RUN_ID)
    while parent_run_id is not None and parent_run_id not in seen:
        if parent_run_id in counted:
            return True
        seen.add(parent_run_id)
        try:
            parent = client.get_run(parent_run_id)
        except MlflowException:  # a deleted run, of which nothing is counted
            return False
        parent_run_id = parent.data.tags.get(MLFLOW_PARENT_RUN_ID)
    return False
