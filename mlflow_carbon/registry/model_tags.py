"""Emissions on LoggedModels, model versions and registered models."""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.entities.model_registry import ModelVersion

from mlflow_carbon import schema
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.redaction import reason_of

_logger = logging.getLogger("mlflow.carbon")

# What this file writes on models; other carbon.* tags there are left alone.
_OWN_TAGS = {
    schema.TAG_MODEL_CO2E_KG,
    schema.TAG_MODEL_ENERGY_KWH,
    schema.TAG_MODEL_PUE,
    schema.TAG_MODEL_LINEAGE_CO2E_KG,
    schema.TAG_REGION,
    schema.TAG_MODEL_BAND,
    *(schema.under_tag(limit_kg) for limit_kg in schema.BAND_UPPER_BOUNDS_KG.values()),
}


def record_model_emissions(
    client: MlflowClient,
    *,
    run_id: str,
    model_id: str | None = None,
    name: str | None = None,
    version: str | None = None,
    lineage_run_ids: Collection[str] = (),
) -> bool:
    """Puts a metered run's energy and CO2e on the model that it trained.

    The LoggedModel gets the run's totals as metrics, the version the tags of the contract; the
    registered model shows those of its newest version. What the store refuses (a user who may
    only read) is logged once and never raised.

    Args:
        client: of the store that holds the run and the model.
        run_id: the metered run that trained the model; its totals must be written.
        model_id: the LoggedModel, if there is one.
        name: the registered model; ``None`` for a model that is not registered.
        version: its version; needed with ``name``.
        lineage_run_ids: the runs that trained what this model was built from. Each counts once;
            the lineage is left out when one of them has no figure.

    Returns:
        Whether the emissions are on all that was named; False too when nothing was measured.

    Raises:
        InvalidInputError: ``name`` without ``version``, or the other way round.
    """
    if (name is None) != (version is None):
        raise InvalidInputError(
            f"Model name is {name!r} and version {version!r}; give both, or neither."
        )
    is_measured = False
    problems: list[str] = []
    with _noting(problems, f"run {run_id}"):
        run = client.get_run(run_id)
        tags = _model_tags(client, run, lineage_run_ids)
        is_measured = bool(tags)
        if name is not None and version is not None:
            with _noting(problems, f"version {version} of {name!r}"):
                _replace_version_tags(client, client.get_model_version(name, version), tags)
            with _noting(problems, f"registered model {name!r}"):
                show_newest_version(client, name)
        if model_id and is_measured:
            with _noting(problems, f"logged model {model_id}"):
                _log_model_metrics(client, run, model_id)
    if problems:
        _logger.warning("Emissions could not be put on %s.", "; ".join(problems))
    return is_measured and not problems


def show_newest_version(client: MlflowClient, name: str) -> None:
    """Gives a registered model the emission tags of its newest version, and no older ones."""
    quote = '"' if "'" in name else "'"
    newest = client.search_model_versions(
        f"name = {quote}{name}{quote}", max_results=1, order_by=["version_number DESC"]
    )
    wanted = _own_tags(newest[0].tags) if newest else {}
    current = _own_tags(client.get_registered_model(name).tags)
    for key in current.keys() - wanted.keys():
        client.delete_registered_model_tag(name, key)
    for key, value in wanted.items():
        if current.get(key) != value:
            client.set_registered_model_tag(name, key, value)


@contextmanager
def _noting(problems: list[str], what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the store is the user's: whatever it raises, the run goes on
        problems.append(f"{what} ({reason_of(error)})")


def _model_tags(client: MlflowClient, run: Run, lineage_run_ids: Collection[str]) -> dict[str, str]:
    """Returns the tags of the contract; none when the run was not measured."""
    metrics, region = run.data.metrics, run.data.tags.get(schema.TAG_REGION)
    if schema.ENERGY_KWH not in metrics or schema.CO2E_KG not in metrics or region is None:
        return {}
    tags = schema.emission_tags(metrics[schema.CO2E_KG], metrics[schema.ENERGY_KWH], region)
    tags[schema.TAG_MODEL_PUE] = f"{metrics[schema.PUE]:.6g}"
    ancestors = [client.get_run(run_id) for run_id in set(lineage_run_ids) - {run.info.run_id}]
    if ancestors and all(schema.CO2E_KG in ancestor.data.metrics for ancestor in ancestors):
        lineage_kg = sum(item.data.metrics[schema.CO2E_KG] for item in [run, *ancestors])
        tags[schema.TAG_MODEL_LINEAGE_CO2E_KG] = f"{lineage_kg:.6g}"
    return tags


def _own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key in _OWN_TAGS}


def _replace_version_tags(
    client: MlflowClient, version: ModelVersion, tags: Mapping[str, str]
) -> None:
    for key in _own_tags(version.tags).keys() - tags.keys():
        client.delete_model_version_tag(version.name, version.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)


def _log_model_metrics(client: MlflowClient, run: Run, model_id: str) -> None:
    """Copies the run's totals; with the run's own timestamp MLflow stores no second point."""
    run_id = run.info.run_id
    timestamp_ms = client.get_metric_history(run_id, schema.ENERGY_KWH)[-1].timestamp
    metrics = [
        Metric(key, value, timestamp_ms, 0, model_id=model_id)
        for key, value in run.data.metrics.items()
        if key.startswith("carbon/") and not key.startswith(f"{schema.WINDOW_PREFIX}/")
    ]
    client.log_batch(run_id, metrics=metrics)
