"""Finds the model that a command uses: a folder, a registered version, or the newest that fits."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from ldm_project.config import KL, RFLOW
from ldm_project.diffusion.models import ModelSpec
from ldm_project.errors import CheckpointError
from ldm_project.parsing import size_text
from ldm_project.settings import RunSettings, TrainSettings

CHECKPOINT_FOLDER = "checkpoint"
TAG_DATA_DIGEST = "ldm.data_digest"
METADATA_DIGESTS = "ldm.weights_digests"  # in a model's metadata: by network
MODELS_SCHEME = "models:/"


@dataclass(frozen=True)
class ModelReference:
    """A trained model: its local checkpoint, and the run and the version that it came from.

    ``digests`` are those of its networks' weights when it was registered, where they were noted.
    """

    uri: str
    checkpoint: Path
    run_id: str | None = None
    model_id: str | None = None
    digests: Mapping[str, str] | None = None


def vqgan_name(settings: RunSettings) -> str:
    """Returns the name of a registered autoencoder, ``vqgan-ct-2d-64-tiny`` or ``kl-ct-…``."""
    return f"{'kl' if settings.autoencoder == KL else 'vqgan'}-ct-{_size_name(settings)}"


def ldm_name(settings: TrainSettings) -> str:
    """Returns the name of a registered LDM, ``ldm-ct-2d-64-tiny``, ``-kl`` and ``-rflow`` added."""
    others = ((settings.autoencoder, KL), (settings.objective, RFLOW))
    suffixes = "".join(f"-{other}" for chosen, other in others if chosen == other)
    return f"ldm-ct-{_size_name(settings)}{suffixes}"


def find_model(
    asked_for: str | None, kind: str, name: str, *, data_digest: str | None
) -> ModelReference | None:
    """Returns the model that a command was told to use, or the newest registered one that fits.

    Args:
        asked_for: a checkpoint folder or ``models:/name/version`` (or alias); ``None`` looks for
            the newest version.
        kind: ``vqgan`` or ``ldm``.
        name: under which the newest version is registered.
        data_digest: the data that the newest version must have been trained on; ``None`` for any.

    Returns:
        ``None`` only if ``asked_for`` is ``None`` and no registered version fits.

    Raises:
        CheckpointError: the model that was asked for does not exist.
    """
    if asked_for is not None:
        return model_at(asked_for, kind)
    version = _newest_version(name, data_digest)
    return None if version is None else _download(f"models:/{version.name}/{version.version}")


def model_at(asked_for: str, kind: str) -> ModelReference:
    """Returns the model of a checkpoint folder or of ``models:/name/version`` (or alias).

    Raises:
        CheckpointError: there is no such model.
    """
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
    """Logs a model as the run's input, so that its cost counts for the models built from it."""
    if reference.model_id is not None:
        MlflowClient().log_inputs(run_id, models=[LoggedModelInput(reference.model_id)])


def check_fit(spec: ModelSpec, settings: RunSettings, reference: ModelReference) -> None:
    """Checks that a checkpoint makes images of the size, by the autoencoder, asked for.

    Raises:
        CheckpointError: the checkpoint makes images of another size, or by another autoencoder.
    """
    if spec.autoencoder != settings.autoencoder:
        raise CheckpointError(
            f"Model {reference.uri!r} has the autoencoder {spec.autoencoder}, not "
            f"{settings.autoencoder}; pass autoencoder={spec.autoencoder}, or another model."
        )
    size = settings.size
    if spec.dims != settings.dims or tuple(spec.size) != size:
        raise CheckpointError(
            f"Model {reference.uri!r} makes {size_text(spec.size)} images, not {size_text(size)}. "
            f"Pass dims={spec.dims} and size={size_text(spec.size)}, or another model."
        )


def _size_name(settings: RunSettings) -> str:
    axes = settings.size
    size = str(axes[0]) if len(set(axes)) == 1 else size_text(axes)
    return f"{settings.dims}d-{size}-{settings.model_size}"


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
        uri=uri,
        checkpoint=checkpoint,
        run_id=info.run_id,
        model_id=info.model_id,
        digests=(info.metadata or {}).get(METADATA_DIGESTS),
    )
