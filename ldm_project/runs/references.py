"""Which trained model a command uses: a folder, a registered version, or the newest that fits."""

from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ldm_project.config import AUTO, RFLOW, RunConfig, TrainConfig
from ldm_project.diffusion.models import ModelSpec
from ldm_project.errors import CheckpointError
from ldm_project.settings import resolve_size, size_text

CHECKPOINT_FOLDER = "checkpoint"
TAG_DATA_DIGEST = "ldm.data_digest"
MODELS_SCHEME = "models:/"


@dataclass(frozen=True)
class ModelReference:
    """A trained model, where its checkpoint lies here, and the run and version it came from."""

    uri: str
    checkpoint: Path
    run_id: str | None = None
    model_id: str | None = None


def registered_name(kind: str, config: RunConfig) -> str:
    """Returns the registry's name of a model of this kind and size, ``ldm-ct-2d-64-tiny``."""
    axes = resolve_size(config.size, config.dims, config.model_size)
    size = str(axes[0]) if len(set(axes)) == 1 else size_text(axes)
    is_rflow = kind == "ldm" and isinstance(config, TrainConfig) and config.objective == RFLOW
    suffix = f"-{RFLOW}" if is_rflow else ""
    return f"{kind}-ct-{config.dims}d-{size}-{config.model_size}{suffix}"


def find_model(
    asked_for: str, kind: str, config: RunConfig, *, data_digest: str | None
) -> ModelReference | None:
    """Returns the model a command was told to use, or the newest registered one that fits.

    Args:
        asked_for: a checkpoint folder, ``models:/name/version`` (or alias), or ``auto``.
        kind: ``vqgan`` or ``ldm``.
        config: names dims, size and model size of the newest.
        data_digest: the newest must have been trained on this data; ``None`` for any.

    Returns:
        ``None`` only for ``auto``, when no registered version fits.

    Raises:
        CheckpointError: what was asked for is not there.
    """
    if asked_for == AUTO:
        version = _newest_version(registered_name(kind, config), data_digest)
        return None if version is None else _download(f"models:/{version.name}/{version.version}")
    if asked_for.startswith(MODELS_SCHEME):
        return _download(asked_for)
    folder = Path(asked_for)
    if not folder.is_dir():
        raise CheckpointError(
            f"No {kind} checkpoint folder {asked_for!r}. Give a folder, models:/name/version, "
            f"or auto."
        )
    return ModelReference(uri=asked_for, checkpoint=folder)


def run_id_of(uri: str) -> str:
    """Returns the id of the run that logged a registered model."""
    run_id: str = mlflow.models.get_model_info(uri).run_id
    return run_id


def note_used_model(run_id: str, reference: ModelReference) -> None:
    """Logs a model as the run's input: what it cost counts for what is built from it."""
    if reference.model_id is not None:
        MlflowClient().log_inputs(run_id, models=[LoggedModelInput(reference.model_id)])


def check_size(spec: ModelSpec, config: RunConfig, reference: ModelReference) -> None:
    """Checks that a checkpoint makes images of the size asked for.

    Raises:
        CheckpointError: it makes others.
    """
    size = resolve_size(config.size, config.dims, config.model_size)
    if spec.dims != config.dims or tuple(spec.size) != size:
        raise CheckpointError(
            f"Model {reference.uri!r} makes {size_text(spec.size)} images, not {size_text(size)}. "
            f"Pass dims={spec.dims} and size={size_text(spec.size)}, or another model."
        )


def _newest_version(name: str, data_digest: str | None) -> ModelVersion | None:
    versions = MlflowClient().search_model_versions(f"name = '{name}'")
    fitting = [
        version
        for version in versions
        if version.status == "READY"
        and (data_digest is None or version.tags.get(TAG_DATA_DIGEST) == data_digest)
    ]
    return max(fitting, key=lambda version: int(version.version), default=None)


def _download(uri: str) -> ModelReference:
    """Returns the reference with its files on this machine (in place, where they are already)."""
    try:
        info = mlflow.models.get_model_info(uri)
        folder = mlflow.artifacts.download_artifacts(artifact_uri=uri)
    except (MlflowException, OSError) as error:
        raise CheckpointError(
            f"Model {uri!r} cannot be read: {error}. `mlflow-carbon models` lists what there is."
        ) from error
    checkpoint = Path(folder) / "artifacts" / CHECKPOINT_FOLDER
    if not checkpoint.is_dir():
        raise CheckpointError(
            f"Model {uri!r} holds no checkpoint of this project. "
            f"Give one that `mlflow run . -e train` registered."
        )
    return ModelReference(
        uri=uri, checkpoint=checkpoint, run_id=info.run_id, model_id=info.model_id
    )
