"""From noise to images: one denoising loop for all samplers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ldm_project.diffusion.acceleration import FP32, autocast
from ldm_project.diffusion.autoencoders import Autoencoder
from ldm_project.diffusion.models import ModelSpec, device_of
from ldm_project.diffusion.noise_schedulers import (
    OWN_SCHEDULE,
    TrainedSchedule,
    adds_noise,
    build_noise_scheduler,
    set_denoising_steps,
)
from ldm_project.diffusion.seeding import seeded_generator
from ldm_project.diffusion.tiled_decoding import decode_in_tiles
from ldm_project.errors import InvalidInputError


@dataclass(frozen=True)
class DenoisingStep:
    """Latents ``(B, C, *S)`` after step ``step`` (from 1) of ``num_steps``, scaled to std 1."""

    step: int
    num_steps: int
    latents: Tensor


def initial_noise(spec: ModelSpec, indices: Sequence[int], *, seed: int) -> Tensor:
    """Returns normal noise ``(B, C, *S)``, one latent per global sample index.

    A sample's noise depends on its index and the seed alone, so neither the batch size nor the
    number of processes changes an image.
    """
    return torch.stack(
        [
            torch.randn(spec.latent_shape, generator=seeded_generator(f"{seed} {index}".encode()))
            for index in indices
        ]
    )


@torch.inference_mode()
def denoise(
    unet: nn.Module,
    noise: Tensor,
    *,
    sampler: str,
    steps: int,
    precision: str = FP32,
    schedule: TrainedSchedule = OWN_SCHEDULE,
) -> Iterator[DenoisingStep]:
    """Yields the latents after each denoising step; the last latents are the finished samples.

    Args:
        unet: predicts the velocity of latents ``(B, C, *S)`` at timesteps ``(B,)``.
        noise: the starting noise, ``(B, C, *S)``; it also seeds the noise that ``ddpm`` and
            ``dpmpp_sde`` add.
        sampler: ``ddpm``, ``ddim``, ``dpmpp``, ``dpmpp_sde`` or ``unipc``, or ``rflow`` for a
            rectified flow.
        steps: 1 to 1000.
        precision: ``fp32`` or ``bf16``, of the UNet alone: latents stay in full precision.
        schedule: that the UNet was trained with.

    Raises:
        InvalidInputError: no such sampler, or too few or too many steps.
    """
    scheduler = build_noise_scheduler(sampler, schedule)
    most = schedule.num_train_timesteps
    if not 1 <= steps <= most:
        raise InvalidInputError(
            f"steps is {steps}; give 1 to {most}, the number the model is trained for."
        )
    latents = noise.to(device_of(unet))
    set_denoising_steps(scheduler, steps, latents.device)
    take_step = _step_function(scheduler, noise)
    for step, timestep in enumerate(scheduler.timesteps, start=1):
        with autocast(latents.device, precision):
            velocity = unet(latents, timestep.expand(len(latents)))
        latents = take_step(velocity.float(), timestep, latents).prev_sample
        yield DenoisingStep(step, steps, latents)


@torch.inference_mode()
def decode_samples(vqgan: Autoencoder, latents: Tensor, scale: float) -> Tensor:
    """Returns images ``(B, 1, *S)`` in [-1, 1], decoded from latents divided by ``scale``."""
    return decode_in_tiles(vqgan, latents * scale)


def _step_function(scheduler: Any, noise: Tensor) -> Callable[..., Any]:
    """Returns the scheduler's step; noise that it adds is seeded by the starting noise."""
    if not adds_noise(scheduler):
        return cast("Callable[..., Any]", scheduler.step)
    generators = [seeded_generator(sample.cpu().numpy().tobytes()) for sample in noise]
    return partial(scheduler.step, generator=generators)
