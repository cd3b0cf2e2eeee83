"""Puts emissions on models: when a run ends, when a model is registered later, or all anew."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric, Run
from mlflow.entities.model_registry import ModelVersion

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.registry.footprints import Footprint, read_footprint
from mlflow_carbon.registry.inference import (
    SampleCost,
    is_inference_tag,
    note_used_models,
    sample_costs,
    sample_costs_by_model,
)
from mlflow_carbon.registry.lineage import version_lineage
from mlflow_carbon.registry.model_tags import show_version, tag_version, version_tags
from mlflow_carbon.registry.model_uris import (
    MODELS_SCHEME,
    find_version,
    parse_model_uri,
    versions_of,
)
from mlflow_carbon.store.access import (
    PERMISSION_DENIED,
    may_hide_runs,
    store_errors,
    write_twice_if_raced,
)
from mlflow_carbon.store.listing import all_logged_models, all_registered_models, all_versions
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

_logger = logging.getLogger("mlflow.carbon")

_FEW = 10  # models that are asked for one by one
CostsOf = Callable[[str], list[SampleCost]]


@dataclass(frozen=True)
class TaggedModel:
    """The outcome for one registered model; ``problems`` is empty if all went well."""

    name: str
    num_versions: int
    num_changed: int
    problems: tuple[str, ...]


def record_run_models(client: MlflowClient, run_id: str) -> bool:
    """Puts a metered run's energy and CO2e on the models that it logged or registered.

    LoggedModels get the run's totals as metrics, versions and registered models the tags of the
    contract. The models that the run used get the emissions of one sample. If the store refuses
    (the user may only read, say), one warning is logged and nothing raised.

    Args:
        client: of the store that holds the run and its models.
        run_id: the metered run; its totals must be written.

    Returns:
        Whether everything has been written.
    """
    problems: list[str] = []
    with _noting(problems, f"the models of run {run_id}"):
        run = client.get_run(run_id)
        footprint = read_footprint(run)
        if footprint is not None:
            _log_model_metrics(client, footprint, problems)
        versions = all_versions(client, f"run_id = '{run_id}'")
        for model_id in note_used_models(client, run):
            versions += _versions_of_logged_model(client, model_id)
        _tag(client, versions, problems)
    _warn(problems)
    return not problems


def record_models_of_runs(
    client: MlflowClient, run_ids: Sequence[str], experiment_ids: Sequence[str]
) -> bool:
    """Puts emissions on the models of many metered runs; runs without models cost no further call.

    Args:
        client: of the store that holds the runs and their models.
        run_ids: the metered runs; their totals must be written, and none may count samples.
        experiment_ids: the experiments of these runs.

    Returns:
        Whether everything has been written.
    """
    problems: list[str] = []
    with_models: list[str] = []
    with _noting(problems, f"the models of {len(run_ids)} runs"):
        with_models = _runs_with_models(client, run_ids, experiment_ids)
    _warn(problems)
    num_refused = sum(not record_run_models(client, run_id) for run_id in with_models)
    return not problems and num_refused == 0


def record_version(client: MlflowClient, version: ModelVersion) -> bool:
    """Puts emissions on a version that was registered after its run had been metered.

    Returns:
        Whether the emissions are there; a refusal by the registry is logged, never raised.
    """
    problems: list[str] = []
    _tag(client, [version], problems)
    _warn(problems)
    return not problems


def tag_models(
    client: MlflowClient, names: Iterable[str], *, show: str | None = None
) -> Iterator[TaggedModel]:
    """Writes the tags of registered models and all their versions anew, and yields each.

    Args:
        client: of the store that holds the runs and the models.
        names: of registered models.
        show: whose tags the models show from now on, see ``model_tags.show_version``.
    """
    listed = list(names)
    costs_of: CostsOf
    if len(listed) > _FEW:  # then one pass over the runs that used models is less work
        with store_errors(client):
            by_model = sample_costs_by_model(client)

        def costs_of(model_id: str) -> list[SampleCost]:
            return by_model.get(model_id, [])

    else:
        costs_of = partial(sample_costs, client)
    for name in listed:
        problems: list[str] = []
        versions: list[ModelVersion] = []
        num_changed = 0
        with _noting(problems, f"model {name!r}"):
            versions = versions_of(client, name)
            num_changed = sum(
                _tag_version(client, version, problems, costs_of) for version in versions
            )
            unchanged = None if num_changed else versions
            num_changed += show_version(client, name, show=show, versions=unchanged)
        yield TaggedModel(name, len(versions), num_changed, tuple(problems))


def registered_names(client: MlflowClient) -> list[str]:
    """Returns the names of all registered models.

    Raises:
        TrackingStoreError: the registry cannot be read.
    """
    with store_errors(client):
        return [model.name for model in all_registered_models(client)]


def _runs_with_models(
    client: MlflowClient, run_ids: Sequence[str], experiment_ids: Sequence[str]
) -> list[str]:
    """Returns the runs that have logged a model or that a version names, in order."""
    listed = ", ".join(f"'{run_id}'" for run_id in run_ids)
    found = {version.run_id for version in all_versions(client, f"run_id IN ({listed})")}
    models = all_logged_models(client, experiment_ids, f"source_run_id IN ({listed})")
    found |= {model.source_run_id for model in models}
    return [run_id for run_id in run_ids if run_id in found]


def _tag(client: MlflowClient, versions: Iterable[ModelVersion], problems: list[str]) -> None:
    """Tags versions, then their registered models, except a model whose version was refused."""
    by_place = {(version.name, version.version): version for version in versions}
    refused = set()
    for version in by_place.values():
        num_before = len(problems)
        _tag_version(client, version, problems)
        if len(problems) > num_before:
            refused.add(version.name)
    for name in sorted({name for name, _ in by_place} - refused):
        with _noting(problems, f"registered model {name!r}"):
            show_version(client, name)


def _tag_version(
    client: MlflowClient,
    version: ModelVersion,
    problems: list[str],
    costs_of: CostsOf | None = None,
) -> bool:
    """Tags a version; returns whether anything changed.

    Args:
        client: of the store and the registry.
        version: to tag.
        problems: gets one more if the version cannot be tagged.
        costs_of: returns what a sample of a logged model emits; by default it asks.
    """
    costs_of = costs_of or partial(sample_costs, client)
    is_changed = False
    with _noting(problems, f"version {version.version} of {version.name!r}"):
        lineage = version_lineage(client, version)
        run = lineage.runs.get(version.run_id or "")
        if version.run_id and run is None:  # the present tags may be right: keep them
            raise TrackingStoreError("; ".join(lineage.problems))
        model_id = _logged_model_of(client, version)
        tags = version_tags(
            None if run is None else read_footprint(run),
            lineage,
            [] if model_id is None else costs_of(model_id),
        )
        if may_hide_runs(client):  # runs may be hidden, so keep the figure
            kept = {key: text for key, text in version.tags.items() if is_inference_tag(key)}
            tags = kept | tags
        is_changed |= tag_version(client, version, tags)
    return is_changed


def _logged_model_of(client: MlflowClient, version: ModelVersion) -> str | None:
    """Returns the id of the logged model that a version was made or copied from, if any."""
    seen: set[str] = set()
    source = version.source or ""
    while source.startswith(MODELS_SCHEME) and source not in seen:
        seen.add(source)
        uri = parse_model_uri(source)
        if uri.model_id is not None:
            return uri.model_id
        source = find_version(client, uri).source or ""
    return None


def _versions_of_logged_model(client: MlflowClient, model_id: str) -> list[ModelVersion]:
    source_run_id = client.get_logged_model(model_id).source_run_id
    if not source_run_id:
        return []
    versions = all_versions(client, f"run_id = '{source_run_id}'")
    return [version for version in versions if _logged_model_of(client, version) == model_id]


def _log_model_metrics(client: MlflowClient, footprint: Footprint, problems: list[str]) -> None:
    """Puts the CO2e of a run on its LoggedModels, one figure each.

    A point on a model can never be removed, and a filter finds the model by any of its points. So
    a model of an earlier part of a resumed run keeps its first figure.

    The points have the run's own time stamp, so that MLflow stores no second point on the run.
    """
    run = footprint.run
    models = all_logged_models(
        client, [run.info.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    if not models:
        return
    start_ms, timestamp_ms = _last_part_ms(client, run)
    for model in models:
        if model.creation_timestamp < start_ms and _has_figure(model):
            continue
        with _noting(problems, f"logged model {model.model_id}"):
            point = Metric(
                keys.CO2E_KG, footprint.co2e_kg, timestamp_ms, 0, model_id=model.model_id
            )
            # In a tuple: what MLflow copies to a model is a list, and is left out.
            write_twice_if_raced(partial(client.log_batch, run.info.run_id, metrics=(point,)))


def _last_part_ms(client: MlflowClient, run: Run) -> tuple[float, int]:
    """Returns the start and end of a run's last metered part, in ms."""
    record = RunRecord.read(run)
    if record.total_end_ms is not None:
        return record.part_start_ms or 0, record.total_end_ms
    durations = sorted(
        client.get_metric_history(run.info.run_id, keys.DURATION_S), key=_point_order
    )
    energies = client.get_metric_history(run.info.run_id, keys.ENERGY_KWH)
    end_ms = max(energies, key=_point_order).timestamp
    earlier_s = durations[-2].value if len(durations) > 1 else 0.0  # durations are added up
    length_s = durations[-1].value - earlier_s if durations else 0.0
    return end_ms - length_s * MILLISECONDS_PER_SECOND, end_ms


def _point_order(point: Metric) -> tuple[int, int, float]:
    """Returns the sort key by which MLflow takes a point as the latest."""
    return point.step, point.timestamp, point.value


def _has_figure(model: LoggedModel) -> bool:
    return any(point.key == keys.CO2E_KG for point in model.metrics or ())


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the store is the user's: whatever it raises, the run goes on
        is_forbidden = getattr(error, "error_code", None) == PERMISSION_DENIED
        problems.append(f"{what} ({'permission denied' if is_forbidden else reason_of(error)})")


def _warn(problems: list[str]) -> None:
    if problems:
        _logger.warning("Emissions could not be put on %s.", "; ".join(problems))
