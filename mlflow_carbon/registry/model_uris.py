"""Finds the model that a ``models:/`` URI names, using only the caller's client.

MLflow's own helpers for this open a client of the environment's store.
"""

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from mlflow_carbon.store.listing import all_versions

MODELS_SCHEME = "models:/"
_LATEST = "latest"


@dataclass(frozen=True)
class ModelUri:
    """The parts of a URI: a logged model's id, or a name with a version, alias or stage.

    Attributes:
        model_id: of a logged model: ``models:/m-0123``.
        name: of a registered model.
        version: number of the version: ``models:/name/3``.
        alias: ``models:/name@alias``.
        stage: ``models:/name/Production``; ``latest`` for the newest version.
    """

    model_id: str | None = None
    name: str = ""
    version: str | None = None
    alias: str | None = None
    stage: str | None = None


def parse_model_uri(uri: str) -> ModelUri:
    """Returns the parts of a model's URI.

    Raises:
        MlflowException: the text is no URI of a model.
    """
    parts = uri.removeprefix(MODELS_SCHEME).lstrip("/").split("/")
    is_model = uri.startswith(MODELS_SCHEME) and all(part.strip() for part in parts)
    if not is_model or len(parts) > 2:  # a name and a version or stage
        raise MlflowException(f"{uri!r} is no URI of a model", INVALID_PARAMETER_VALUE)
    if len(parts) == 1:
        name, at, alias = parts[0].rpartition("@")
        return ModelUri(name=name, alias=alias) if at and name and alias else ModelUri(parts[0])
    name, suffix = parts
    if suffix.isdecimal():
        return ModelUri(name=name, version=suffix)
    return ModelUri(name=name, stage=suffix)


def find_version(client: MlflowClient, uri: ModelUri) -> ModelVersion:
    """Returns the version of a registered model.

    Raises:
        MlflowException: there is no such version, or it may not be read.
    """
    if uri.version is not None:
        return client.get_model_version(uri.name, uri.version)
    if uri.alias is not None:
        return client.get_model_version_by_alias(uri.name, uri.alias)
    stage = (uri.stage or _LATEST).lower()
    fitting = [
        version
        for version in versions_of(client, uri.name)
        if stage in (_LATEST, (version.current_stage or "").lower())
    ]
    if not fitting:
        raise MlflowException(
            f"Model {uri.name!r} has no version in stage {uri.stage!r}", RESOURCE_DOES_NOT_EXIST
        )
    return max(fitting, key=lambda version: int(version.version))


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Returns all versions of a registered model."""
    quote = '"' if "'" in name else "'"
    return all_versions(client, f"name = {quote}{name}{quote}")
