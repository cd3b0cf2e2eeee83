"""The noise in a latent at each timestep, and the schedulers that remove it.

There are two kinds of process: diffusion, where noise follows a cosine, and rectified flow, where
latents move to noise in a straight line. A UNet is trained for one kind and sampled by its
schedulers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor

from ldm_project.config import NUM_TRAIN_TIMESTEPS, SAMPLERS, SAMPLERS_BY_OBJECTIVE
from ldm_project.errors import InvalidInputError


@dataclass(frozen=True)
class EulerStep:
    """Latents after a step, under the attribute name that diffusers uses."""

    prev_sample: Tensor


class RectifiedFlowScheduler:
    """Euler's method along the straight lines from noise to data.

    Source: Liu et al. 2022 (arXiv:2209.03003), eq. 1, with time counted from data (0) to noise (1).

    Args:
        shift: above 1, steps are shorter near noise, as models of large latents are sampled.
            Source: Esser et al. 2024 (arXiv:2403.03206), eq. 23.
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.timesteps = torch.empty(0)
        self._shift = shift
        self._times = torch.empty(0)

    def set_timesteps(self, steps: int, device: torch.device) -> None:
        """Divides the path from pure noise to data into steps, which are equal without a shift."""
        times = torch.arange(steps, 0, -1, device=device) / steps
        if self._shift != 1.0:
            times = self._shift * times / (1 + (self._shift - 1) * times)
        self._times = torch.cat([times, torch.zeros(1, device=device)])
        self.timesteps = timestep_of(times)

    def step(self, velocity: Tensor, timestep: Tensor, latents: Tensor) -> EulerStep:
        """Returns the latents one step closer to data; ``velocity`` points towards noise."""
        if self._shift == 1.0:
            return EulerStep(latents - velocity / len(self.timesteps))
        index = int((self.timesteps == timestep).nonzero())
        return EulerStep(latents - velocity * (self._times[index] - self._times[index + 1]))


STOCHASTIC = "sde-dpmsolver++"  # of DPMSolverMultistepScheduler

NoiseScheduler = (
    DDPMScheduler | DPMSolverMultistepScheduler | UniPCMultistepScheduler | RectifiedFlowScheduler
)

# Cosine: Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17. The UNet predicts the velocity
# (Salimans & Ho 2022, arXiv:2202.00512, eq. D.1), which stays bounded at pure noise. Trailing
# spacing starts at pure noise: Lin et al. 2023 (arXiv:2305.08891), Table 2.
NOISE_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": NUM_TRAIN_TIMESTEPS,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}


@dataclass(frozen=True)
class TrainedSchedule:
    """The noise that a UNet was trained with.

    Attributes:
        arguments: of diffusers' schedulers, for a diffusion.
        shift: of the times, for a rectified flow.
    """

    arguments: Mapping[str, Any]
    shift: float = 1.0

    @property
    def num_train_timesteps(self) -> int:
        """The most steps that the UNet can be sampled with."""
        return int(self.arguments["num_train_timesteps"])


OWN_SCHEDULE = TrainedSchedule(NOISE_SCHEDULE)


def build_noise_scheduler(sampler: str, schedule: TrainedSchedule = OWN_SCHEDULE) -> NoiseScheduler:
    """Returns a new scheduler, from diffusers: MONAI's are wrong for fewer than 1000 steps.

    Raises:
        InvalidInputError: no such sampler.
    """
    if sampler == "ddpm":
        return DDPMScheduler(clip_sample=False, **schedule.arguments)
    if sampler == "ddim":
        # DDIM is DPM-Solver++ of order one (Lu et al. 2022, arXiv:2211.01095, section 4);
        # diffusers' DDIMScheduler rounds its stride, which is wrong if steps do not divide 1000.
        return DPMSolverMultistepScheduler(solver_order=1, **schedule.arguments)
    if sampler == "dpmpp":
        return DPMSolverMultistepScheduler(solver_order=2, **schedule.arguments)
    if sampler == "dpmpp_sde":
        # The same solver of the stochastic equation (Lu et al. 2022, appendix B): the noise that
        # each step adds takes with it the errors of the steps before.
        return DPMSolverMultistepScheduler(
            solver_order=2, algorithm_type=STOCHASTIC, **schedule.arguments
        )
    if sampler == "unipc":
        return UniPCMultistepScheduler(solver_order=2, **schedule.arguments)
    if sampler == "rflow":
        return RectifiedFlowScheduler(schedule.shift)
    raise InvalidInputError(f"sampler is {sampler!r}; use one of {', '.join(SAMPLERS)}.")


def check_sampler(sampler: str, objective: str) -> None:
    """Checks that a sampler suits the UNet's training objective: ``diffusion`` or ``rflow``.

    Raises:
        InvalidInputError: the sampler is for the other objective, and would produce noise.
    """
    suited = SAMPLERS_BY_OBJECTIVE[objective]
    if sampler not in suited:
        raise InvalidInputError(
            f"sampler is {sampler!r} but the model is trained with objective={objective}; "
            f"use one of {', '.join(suited)}."
        )


def adds_noise(scheduler: NoiseScheduler) -> bool:
    """Returns whether each step of a scheduler but the last adds noise of its own."""
    if isinstance(scheduler, DPMSolverMultistepScheduler):
        return bool(scheduler.config["algorithm_type"] == STOCHASTIC)
    return isinstance(scheduler, DDPMScheduler)


def signal_to_noise_ratios(schedule: TrainedSchedule = OWN_SCHEDULE) -> list[float]:
    """Returns the variance of the signal over that of the noise, by timestep of a diffusion."""
    kept = DDPMScheduler(**schedule.arguments).alphas_cumprod.double()
    ratios: list[float] = (kept / (1 - kept)).tolist()
    return ratios


def set_denoising_steps(scheduler: NoiseScheduler, steps: int, device: torch.device) -> None:
    """Spreads a number of denoising steps over the trained timesteps, noisiest first.

    For 62 of the counts from 1 to 1000 (61 and 201 among them) a rounding error in diffusers adds
    an extra step at timestep -1, which is removed here.
    """
    scheduler.set_timesteps(steps, device=device)
    if len(scheduler.timesteps) == steps:
        return
    scheduler.timesteps = scheduler.timesteps[:steps]
    if isinstance(scheduler, DPMSolverMultistepScheduler | UniPCMultistepScheduler):
        # One noise level per step, then zero noise.
        scheduler.sigmas = torch.cat([scheduler.sigmas[:steps], scheduler.sigmas[-1:]])


def noised(clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns latents with noise added, and their velocity, which the UNet learns.

    ``clean`` and ``noise`` are ``(B, C, *S)``, ``timesteps`` ``(B,)`` from 0 to 999.
    """
    alphas_cumprod = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.to(clean.device)
    kept = alphas_cumprod[timesteps].view(-1, *[1] * (clean.ndim - 1))
    signal, spread = kept.sqrt(), (1.0 - kept).sqrt()
    return signal * clean + spread * noise, signal * noise - spread * clean


def flowed(clean: Tensor, noise: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns latents moved straight towards noise, and their velocity, which the UNet learns.

    ``clean`` and ``noise`` are ``(B, C, *S)``, ``timesteps`` ``(B,)`` from 0 to 999.
    """
    time = time_of(timesteps).view(-1, *[1] * (clean.ndim - 1))
    return (1.0 - time) * clean + time * noise, noise - clean


def time_of(timesteps: Tensor) -> Tensor:
    """Returns the noise fraction of rectified flow at timesteps 0 to 999: 0.001 to 1."""
    return (timesteps + 1) / NUM_TRAIN_TIMESTEPS


def timestep_of(time: Tensor) -> Tensor:
    """Returns the timestep, possibly fractional, at which a latent has this noise fraction."""
    return time * NUM_TRAIN_TIMESTEPS - 1
