"""Latents of a training set: encoded once by a frozen VQ-GAN, in memory or in a file."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ldm_project.array_files import open_array, write_array
from ldm_project.config import DOWNSAMPLING_FACTOR
from ldm_project.diffusion.autoencoders import Autoencoder, encode
from ldm_project.parsing import num_fitting


@dataclass(frozen=True)
class Latents:
    """Latents ``(N, C, *S)`` of a training set on the CPU, and their divisor ``scale``.

    Latents are the encoder's continuous outputs. With a VQ-GAN, sampling moves its results to the
    nearest codes, which removes the UNet's small errors.
    """

    values: Tensor
    scale: float

    def scaled(self, indices: Tensor, device: torch.device) -> Tensor:
        """Returns some of the latents, divided by the scale, on a device."""
        return self.values[indices].to(device) / self.scale


def encode_latents(vqgan: Autoencoder, images: Iterable[Tensor]) -> Latents:
    """Returns the latents of a training set; their scale is their standard deviation.

    Args:
        vqgan: trained.
        images: batches ``(B, 1, *S)`` in [-1, 1].
    """
    return _with_scale(torch.cat([_encoded(vqgan, batch) for batch in images]))


def keep_latents(
    path: Path, vqgan: Autoencoder, images: Iterable[Tensor], *, shape: tuple[int, ...]
) -> None:
    """Writes the latents of a training set to a file, so that training need not load them all.

    Args:
        path: of the file.
        vqgan: trained.
        images: batches ``(B, 1, *S)`` in [-1, 1].
        shape: of all latents together, ``(N, C, *S)``.

    Raises:
        CacheError: the file cannot be written.
    """
    parts = (_encoded(vqgan, batch).numpy() for batch in images)
    write_array(path, parts, shape=shape, dtype=np.float32)


def open_latents(path: Path) -> Latents:
    """Returns the latents in a complete file; only the latents in use are in memory."""
    return _with_scale(torch.from_numpy(open_array(path)))


@torch.inference_mode()
def _encoded(vqgan: Autoencoder, images: Tensor) -> Tensor:
    """Returns the latents of a batch on the CPU; large images are encoded one by one."""
    num_together = num_fitting([axis // DOWNSAMPLING_FACTOR for axis in images.shape[2:]])
    return torch.cat([encode(vqgan, part).cpu() for part in torch.split(images, num_together)])


def _with_scale(values: Tensor) -> Latents:
    return Latents(values, values.std().item())
