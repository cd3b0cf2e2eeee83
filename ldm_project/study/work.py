"""The work of a cell: untrained networks of its shape train or sample, one part at a time.

The energy of a network depends on its shape and not on its weights, so nothing is trained before.
"""

import gc
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ldm_project.diffusion.acceleration import (
    hasten_on_cpu,
    limit_threads,
    prepared,
    resolve_precision,
)
from ldm_project.diffusion.autoencoders import OwnAutoencoder
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.latents import Latents
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.study.cells import TRAIN, Cell

WARMUP_STEPS = 5  # of a sample before the first window: memory and kernels are then chosen
NUM_LATENTS = 8  # random ones that a training draws from
UNIT_SCALE = 1.0  # random latents have a standard deviation of 1


@dataclass(frozen=True, kw_only=True)
class Place:
    """How a cell is computed: what is equal for all cells of a study.

    Attributes:
        device: of the networks.
        precision: of the UNet, ``fp32`` or ``bf16``.
        sampler: noise scheduler of a synthesis.
        seed: of networks, latents and noise.
    """

    device: torch.device
    precision: str
    sampler: str
    seed: int


def spec_of_cell(cell: Cell) -> ModelSpec:
    """Returns the spec of a cell's networks."""
    return ModelSpec(cell.dims, cell.size, cell.model_size)


def work_of(cell: Cell, place: Place, processes: Processes = ALONE) -> Iterator[int]:
    """Builds a cell's networks; yields the units of each part of its work once that is done.

    A part is an iteration or a batch of samples, those of the warm-up first. Every process that
    shares the cell takes its share of each part.

    Raises:
        InvalidInputError: the device computes these networks wrongly in the precision asked for.
    """
    resolve_precision(place.precision, place.device, spec_of_cell(cell))
    torch.manual_seed(place.seed)
    parts = _training if cell.task == TRAIN else _synthesis
    return parts(cell, place, processes)


def _training(cell: Cell, place: Place, processes: Processes) -> Iterator[int]:
    spec = spec_of_cell(cell)
    training = DiffusionTraining(
        build_unet(spec).to(place.device), iterations=cell.num_units, precision=place.precision
    )
    latents = Latents(torch.randn(NUM_LATENTS, *spec.latent_shape), UNIT_SCALE)
    steps = train_diffusion(
        training,
        latents,
        batch_size=cell.batch_size * cell.num_processes,
        seed=place.seed,
        processes=processes,
    )
    return (1 for _ in steps)


def _synthesis(cell: Cell, place: Place, _: Processes) -> Iterator[int]:
    spec = spec_of_cell(cell)
    unet = build_unet(spec).to(place.device).eval().requires_grad_(False)
    vqgan = build_vqgan(spec).to(place.device).eval().requires_grad_(False)
    hasten_on_cpu(unet, vqgan, dims=spec.dims)
    return _sampled(
        cell, place, prepared(unet, precision=place.precision, is_compiled=False), vqgan
    )


def _sampled(cell: Cell, place: Place, unet: nn.Module, vqgan: OwnAutoencoder) -> Iterator[int]:
    """Yields the number of images after each batch that was denoised and decoded."""
    assert cell.steps is not None  # a synthesis has steps
    spec = spec_of_cell(cell)
    num_warmup_units = cell.num_warmup_windows * cell.units_per_window
    for first in range(0, num_warmup_units + cell.num_units, cell.batch_size):
        steps = cell.steps if first >= num_warmup_units else min(cell.steps, WARMUP_STEPS)
        indices = range(first, first + cell.batch_size)
        latents = initial_noise(spec, indices, seed=place.seed)
        for step in denoise(
            unet, latents, sampler=place.sampler, steps=steps, precision=place.precision
        ):
            latents = step.latents
        decode_samples(vqgan, latents, UNIT_SCALE).cpu()
        yield cell.batch_size


def use_threads_of(model_sizes: tuple[str, ...]) -> None:
    """Gives all cells of a study the same number of threads: one if any of them has tiny networks.

    Cells that had different numbers would differ in more than their networks.
    """
    for model_size in model_sizes:
        limit_threads(model_size)


def free_memory() -> None:
    """Gives back what the networks of the cell before held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
