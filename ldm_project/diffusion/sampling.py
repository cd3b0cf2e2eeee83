"""From noise to images: one denoising loop for all samplers."""

import math
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
    signal_to_noise_ratios,
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
    has_noise_of_ddpm: bool = False,
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
        has_noise_of_ddpm: lets ``dpmpp_sde`` add what ``ddpm`` at all steps adds over the same
            timesteps, so that their images of one starting noise differ by the solver's error
            alone; it then draws as many numbers as ``ddpm``. Others are as they were.

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
    if has_noise_of_ddpm and sampler == "dpmpp_sde":
        take_step = _step_with_noise_of_ddpm(scheduler, noise, schedule)
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
    return partial(scheduler.step, generator=_generators(noise))


def _generators(noise: Tensor) -> list[torch.Generator]:
    """Returns the generator of the noise that is added to each sample, seeded by its first."""
    return [seeded_generator(sample.cpu().numpy().tobytes()) for sample in noise]


def _step_with_noise_of_ddpm(
    scheduler: Any, noise: Tensor, schedule: TrainedSchedule
) -> Callable[..., Any]:
    """Returns the step of a scheduler that takes its noise as ``variance_noise``."""
    ratios = signal_to_noise_ratios(schedule)
    added = noise_of_ddpm(scheduler.timesteps.tolist(), ratios, noise)

    def take_step(velocity: Tensor, timestep: Tensor, latents: Tensor) -> Any:
        return scheduler.step(velocity, timestep, latents, variance_noise=next(added))

    return take_step


def noise_of_ddpm(
    timesteps: Sequence[int], ratios: Sequence[float], noise: Tensor
) -> Iterator[Tensor]:
    """Yields the noise ``(B, C, *S)`` of std 1 that each step of a stochastic solver adds.

    A longer step adds the sum of what ``ddpm`` at all steps adds within it. With a signal α and
    noise σ, latents times α/σ² move by what the UNet predicts and by a Brownian motion of the ratio
    r = α²/σ²: each step adds √Δr times its noise, also ``ddpm``'s, which is the solver's of order
    one. So these products add up.

    Source: the stochastic equation, exact in its noise, of Lu et al. 2022 (arXiv:2211.01095),
    appendix B.

    Args:
        timesteps: of the solver, falling; the last step, to timestep 0 without noise, adds none.
        ratios: of signal to noise, by timestep of the schedule; they rise towards timestep 0.
        noise: the starting noise, ``(B, C, *S)``, which seeds the rest.
    """
    generators = _generators(noise)
    drawn_at = len(ratios) - 1  # where ddpm begins
    for above, below in zip(timesteps, [*timesteps[1:], None], strict=True):
        if below is None:
            yield torch.zeros_like(noise)
            return
        total = torch.zeros_like(noise)
        while drawn_at > below:
            weight = math.sqrt(ratios[drawn_at - 1] - ratios[drawn_at])
            for sample, generator in zip(total, generators, strict=True):
                drawn = torch.randn(sample.shape, generator=generator)
                if drawn_at <= above:  # what ddpm adds before a solver begins is passed over
                    sample += weight * drawn
            drawn_at -= 1
        yield total / math.sqrt(ratios[below] - ratios[above])
