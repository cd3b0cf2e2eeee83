"""The latents that a training learns from: read from the cache, or encoded if missing there."""

import math
from itertools import islice
from pathlib import Path

import mlflow

from ldm_project.array_files import is_whole
from ldm_project.cache import cache_folder
from ldm_project.config import MAX_SLICE_EPOCHS, MIN_KEPT_SLICES
from ldm_project.ct.crops import digest_of
from ldm_project.ct.data import CtScans, batches
from ldm_project.diffusion.autoencoders import OwnAutoencoder
from ldm_project.diffusion.checkpoints import VqganCheckpoint
from ldm_project.diffusion.latents import keep_latents
from ldm_project.diffusion.models import device_of
from ldm_project.diffusion.weights_digest import weights_digest
from ldm_project.settings import TrainSettings

FORMAT_VERSION = 1  # raise it whenever images are drawn or encoded in another way
TAG_LATENTS = "ldm.latents"  # whether the run's energy has their encoding in it
ENCODED, CACHED = "encoded", "cached"


def encoded_file(settings: TrainSettings, vqgan: VqganCheckpoint, scans: CtScans) -> Path:
    """Returns the file of a training's latents: of every volume, or of slices of some epochs.

    If the file is missing or damaged, the latents are encoded first; a tag of the active run says
    whether they were.

    Raises:
        CacheError: the file cannot be written.
    """
    path = latents_file(settings, vqgan.vqgan, scans)
    is_encoded = is_whole(path)
    mlflow.set_tag(TAG_LATENTS, CACHED if is_encoded else ENCODED)
    if not is_encoded:
        batch_size, num_batches = _batches_to_encode(settings, scans)
        images = islice(batches(scans, batch_size=batch_size), num_batches)
        shape = (num_batches * batch_size, *vqgan.spec.latent_shape)
        keep_latents(path, vqgan.vqgan, images, shape=shape)
    return path


def latents_file(settings: TrainSettings, vqgan: OwnAutoencoder, scans: CtScans) -> Path:
    """Returns the file of a training's latents, named by a digest of all that determines them."""
    key = digest_of(
        f"{FORMAT_VERSION} {weights_digest(vqgan)} {settings.backend} {device_of(vqgan).type} "
        f"{scans.identity} {_batches_to_encode(settings, scans)}"
    )
    return cache_folder() / "latents" / f"{key}.npy"


def _batches_to_encode(settings: TrainSettings, scans: CtScans) -> tuple[int, int]:
    """Returns the batch size, and the number of batches for all volumes or the kept slices."""
    batch_size = settings.batch_size
    num_epochs = 1
    if settings.dims == 2:
        num_needed = settings.iterations * batch_size
        max_epochs = max(MAX_SLICE_EPOCHS, math.ceil(MIN_KEPT_SLICES / scans.num_scans))
        num_epochs = min(max_epochs, math.ceil(num_needed / scans.num_scans))
    return batch_size, math.ceil(num_epochs * scans.num_scans / batch_size)
