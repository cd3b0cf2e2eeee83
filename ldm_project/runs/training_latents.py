"""The latents that a training learns from: kept in the cache since an earlier one, or encoded."""

import math
from collections.abc import Iterator
from itertools import islice

import mlflow
from torch import Tensor

from ldm_project.cache import cache_folder
from ldm_project.config import MAX_SLICE_EPOCHS, TrainConfig, resolve_training_batch_size
from ldm_project.ct.data import CtScans, batches, digest_of
from ldm_project.diffusion.checkpoints import VqganCheckpoint
from ldm_project.diffusion.latents import Latents, keep_latents, kept_latents, weights_digest
from ldm_project.diffusion.models import device_of

FORMAT_VERSION = 1  # of what follows; another one where images are drawn or encoded otherwise
TAG_LATENTS = "ldm.latents"  # whether the run's energy has their encoding in it
ENCODED, CACHED = "encoded", "cached"


def training_latents(config: TrainConfig, vqgan: VqganCheckpoint, scans: CtScans) -> Latents:
    """Returns the latents of every volume, or of slices of some epochs; tags the active run.

    Raises:
        CacheError: they cannot be kept.
    """
    batch_size = resolve_training_batch_size(config)
    num_batches = _num_batches(config, batch_size, scans.num_scans)
    device = device_of(vqgan.vqgan).type
    # all that decides their bits
    key = digest_of(
        f"{FORMAT_VERSION} {weights_digest(vqgan.vqgan)} {config.backend} {device} "
        f"{scans.identity} {batch_size} {num_batches}"
    )
    path = cache_folder() / "latents" / f"{key}.npy"
    latents = kept_latents(path)
    mlflow.set_tag(TAG_LATENTS, ENCODED if latents is None else CACHED)
    if latents is not None:
        return latents
    images: Iterator[Tensor] = islice(batches(scans, batch_size=batch_size), num_batches)
    shape = (num_batches * batch_size, *vqgan.spec.latent_shape)
    return keep_latents(path, vqgan.vqgan, images, shape=shape)


def _num_batches(config: TrainConfig, batch_size: int, num_scans: int) -> int:
    """Returns how many batches are encoded: of every volume once, of slices for some epochs."""
    num_epochs = 1
    if config.dims == 2:
        num_needed = config.iterations * batch_size
        num_epochs = min(MAX_SLICE_EPOCHS, math.ceil(num_needed / num_scans))
    return math.ceil(num_epochs * num_scans / batch_size)
