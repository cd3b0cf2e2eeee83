"""One model version, named by its URI, with the footprint of its training and lineage."""

import re
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from mlflow_carbon.errors import InvalidInputError, TrackingStoreError
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.registry.footprints import Footprint, read_footprint, why_unmeasured
from mlflow_carbon.registry.lineage import Lineage, version_lineage
from mlflow_carbon.registry.model_uris import find_version, parse_model_uri
from mlflow_carbon.store.access import store_errors

_VERSION_URI = re.compile(r"models:/[^/]+?(/[^/]+|@[^/@]+)")
_NO_SUCH_VERSION = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True)
class ModelFootprint:
    """The known emissions of a model version.

    Attributes:
        uri: as it was asked for.
        version: in the registry.
        own: of its own training; ``None`` where that is not known.
        reason: why it is not known; ``None`` where it is.
        lineage: its own training and all before it.
    """

    uri: str
    version: ModelVersion
    own: Footprint | None
    reason: str | None
    lineage: Lineage

    @property
    def title(self) -> str:
        """The version as people know it; an alias with the version that it stands for."""
        plain = f"models:/{self.version.name}/{self.version.version}"
        return plain if self.uri == plain else f"{self.uri} (version {self.version.version})"


def read_model_footprint(client: MlflowClient, uri: str) -> ModelFootprint:
    """Reads the footprint of ``models:/name/3`` or ``models:/name@alias``.

    Raises:
        InvalidInputError: the text is no such URI.
        TrackingStoreError: there is no such version, or the registry cannot be read.
    """
    version = _find_version(client, uri)
    with store_errors(client):
        lineage = version_lineage(client, version)
    if not version.run_id:
        return ModelFootprint(uri, version, None, "it names no run that trained it", lineage)
    run = lineage.runs.get(version.run_id)
    if run is None:
        return ModelFootprint(uri, version, None, "; ".join(lineage.problems), lineage)
    own = read_footprint(run)
    return ModelFootprint(uri, version, own, why_unmeasured(run) if own is None else None, lineage)


def _find_version(client: MlflowClient, uri: str) -> ModelVersion:
    if _VERSION_URI.fullmatch(uri) is None:
        raise InvalidInputError(
            f"{uri!r} names no model version; give models:/name/3 or models:/name@alias."
        )
    try:
        return find_version(client, parse_model_uri(uri))
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_VERSION:
            with store_errors(client):
                raise
        raise TrackingStoreError(
            f"No model version {uri!r}: {reason_of(error).rstrip('.')}. Give models:/name/3 or "
            "models:/name@alias; `mlflow-carbon models` lists what there is."
        ) from error
