"""Decodes latents image by image, and in overlapping tiles where a decoder allows it."""

import math

import torch
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor

from ldm_project.config import DOWNSAMPLING_FACTOR
from ldm_project.diffusion.autoencoders import (
    Autoencoder,
    PublishedAutoencoder,
    ResidualKl,
    ResidualVqgan,
    decode,
)

# Of one tile of a batch: with 64 channels in fp32 the decoder's largest tensor then has 2 GiB.
MAX_TILE_VOXELS = 2**23
# Of the images that a CPU decodes at once, if they are several: their tensors stay in its cache.
MAX_CPU_BATCH_VOXELS = 2**16


def decode_in_tiles(
    vqgan: Autoencoder, latents: Tensor, *, max_voxels: int = MAX_TILE_VOXELS
) -> Tensor:
    """Returns images ``(B, 1, *S)`` in [-1, 1], equal to ``decode`` of all latents at once.

    A batch is divided until it fits, or holds one image. The strided decoder of version 1 is made
    of convolutions, so a voxel depends only on latents nearby: tiles overlap by that distance,
    without a seam. Residual decoders normalise over the whole image: no tile of it would be right.

    Args:
        vqgan: trained.
        latents: ``(B, C, *S / 4)``.
        max_voxels: of the images decoded at once; exceeded by a residual decoder's single image,
            and where a tile would otherwise be hardly larger than its overlap.
    """
    batch_size, axes = len(latents), latents.shape[2:]
    image_voxels = math.prod(axes) * DOWNSAMPLING_FACTOR ** len(axes)
    num_together = max(1, MAX_CPU_BATCH_VOXELS // image_voxels)
    if latents.device.type == "cpu" and batch_size > num_together:
        parts = torch.split(latents, num_together)
        return torch.cat([decode_in_tiles(vqgan, part, max_voxels=max_voxels) for part in parts])
    if batch_size * image_voxels <= max_voxels:
        return decode(vqgan, latents)
    if batch_size > 1:
        halves = latents.tensor_split(2)
        return torch.cat([decode_in_tiles(vqgan, h, max_voxels=max_voxels) for h in halves])
    if isinstance(vqgan, ResidualVqgan | ResidualKl | PublishedAutoencoder):
        return decode(vqgan, latents)
    overlap = decoder_reach(vqgan)
    length = max(axes)
    if length <= 4 * overlap:
        return decode(vqgan, latents)
    axis = 2 + axes.index(length)
    middle = length // 2
    first = decode_in_tiles(vqgan, latents.narrow(axis, 0, middle + overlap), max_voxels=max_voxels)
    start = middle - overlap
    second = decode_in_tiles(
        vqgan, latents.narrow(axis, start, length - start), max_voxels=max_voxels
    )
    num_first, num_skipped = middle * DOWNSAMPLING_FACTOR, overlap * DOWNSAMPLING_FACTOR
    rest = second.narrow(axis, num_skipped, second.shape[axis] - num_skipped)
    return torch.cat([first.narrow(axis, 0, num_first), rest], dim=axis)


def decoder_reach(vqgan: VQVAE) -> int:
    """Returns the distance in latents, along each axis, up to which latents affect a voxel.

    At each level, every residual layer has two 3×3 convolutions, and the upsampling reaches one
    position further. Each level is finer by the strides before it. One 3×3 convolution comes first.
    """
    decoder = vqgan.decoder
    reach, latents_per_position = 1.0, 1.0
    for stride, *_ in decoder.upsample_parameters:
        reach += latents_per_position * (2 * decoder.num_res_layers + 1)
        latents_per_position /= stride
    return math.ceil(reach)
