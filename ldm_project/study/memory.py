"""The memory that a cell needs, reckoned from the shapes of its networks, and what a device has."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ldm_project.diffusion.acceleration import BF16
from ldm_project.diffusion.flops import META
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan, num_parameters
from ldm_project.diffusion.sharding import TRAINING_BYTES_PER_WEIGHT
from ldm_project.diffusion.tiled_decoding import MAX_TILE_VOXELS
from ldm_project.study.cells import TRAIN, Cell

FP32_BYTES, BF16_BYTES = 4, 2
# A layer's input and output, and what its kernel works in, lie in memory beside each other.
LAYERS_AT_ONCE = 3
# With it the count is 0.8 to 1.4 times the peaks of the paper's trainings on an H100
# (benchmarks/measured/h100); a computer without memory left ends the whole study.
MARGIN = 1.25


@dataclass(frozen=True)
class Memory:
    """Bytes that a cell needs beside each other on one device, and those that are free there."""

    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the cell can be tried."""
        return self.needed_bytes <= self.free_bytes


def memory_of(cell: Cell, spec: ModelSpec, *, device: torch.device, precision: str) -> Memory:
    """Returns the memory that a cell needs on a device, and what is free there.

    On a CPU all processes share the memory; on GPUs each has one of its own.

    Args:
        cell: what is computed.
        spec: of its networks.
        device: that it is computed on.
        precision: of the UNet: ``fp32`` or ``bf16``.
    """
    needed_bytes = needed_by(cell, spec, precision=precision)
    if device.type == "cpu":
        return Memory(needed_bytes * cell.num_processes, psutil.virtual_memory().available)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    reserved_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return Memory(needed_bytes, free_bytes + reserved_bytes)


def needed_by(cell: Cell, spec: ModelSpec, *, precision: str) -> int:
    """Returns the bytes that one process of a cell needs for its weights and activations."""
    with META:
        unet, vqgan = build_unet(spec), build_vqgan(spec)
        latents, timesteps = torch.zeros(1, *spec.latent_shape), torch.zeros(1)
    # Counted in fp32, since torch computes no bf16 without data.
    share = BF16_BYTES / FP32_BYTES if precision == BF16 else 1.0
    if cell.task == TRAIN:
        kept_bytes = _kept_bytes(lambda: unet(latents, timesteps), max(latents.shape[2:]))
        weights_bytes = TRAINING_BYTES_PER_WEIGHT * num_parameters(unet)
        return round(MARGIN * (weights_bytes + share * cell.batch_size * kept_bytes))
    step_bytes = _largest_bytes(unet, lambda: unet(latents, timesteps))
    decode_bytes = _largest_bytes(vqgan, lambda: vqgan.decode(latents))
    # A batch too large to decode is halved, down to one image, which is decoded whole.
    num_together = max(1, min(cell.batch_size, MAX_TILE_VOXELS // math.prod(spec.size)))
    computing_bytes = max(share * cell.batch_size * step_bytes, num_together * decode_bytes)
    weights_bytes = FP32_BYTES * (num_parameters(unet) + num_parameters(vqgan))
    return round(MARGIN * (weights_bytes + LAYERS_AT_ONCE * computing_bytes))


def _kept_bytes(forward: Callable[[], object], max_axis: int) -> int:
    """Returns the bytes of what a forward pass keeps for its backward pass, beside the weights.

    Without data attention keeps its matrix of all pairs of positions; a device computes it in
    parts, so square matrices with longer sides than an image has are left out.
    """
    kept: dict[int, Tensor] = {}  # a tensor that is kept here has an id of its own

    def keep(tensor: Tensor) -> Tensor:
        is_pairs = tensor.ndim > 1 and tensor.shape[-1] == tensor.shape[-2] > max_axis
        if not isinstance(tensor, nn.Parameter) and not is_pairs:
            kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()  # holds what it keeps as long as it lives
        total_bytes = sum(tensor.nbytes for tensor in kept.values())
    del output
    return total_bytes


@torch.inference_mode()
def _largest_bytes(network: nn.Module, forward: Callable[[], object]) -> int:
    """Returns the bytes of the largest tensor that a layer of a network makes."""
    largest_bytes = 0

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest_bytes
        if isinstance(output, Tensor):
            largest_bytes = max(largest_bytes, output.nbytes)

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    forward()
    for hook in hooks:
        hook.remove()
    return largest_bytes
