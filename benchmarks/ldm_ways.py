"""The ways of sampling that ``benchmarks.ldm_energy`` compares, and the measuring of their cost."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.models import device_of
from ldm_project.diffusion.noise_schedulers import build_noise_scheduler
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.units import joules_from_kwh

STEPS = 1000  # of the baseline

Sample = Callable[[Sequence[int]], Tensor]  # global indices to images (B, 1, *S) in [-1, 1]


@dataclass(frozen=True)
class Taken:
    """The cost of one image, or of one iteration, in one round."""

    wall_s: float
    cpu_s: float
    energy_joules: float | None


def baseline(ldm: LdmCheckpoint, steps: int = STEPS) -> Sample:
    """Returns sampling by monai-generative's inferer, with all given indices in one batch.

    The model's noise schedule is registered with monai-generative, which does not have it.
    """
    from generative.inferers import LatentDiffusionInferer
    from generative.networks.schedulers import DDPMScheduler
    from generative.networks.schedulers.scheduler import NoiseSchedules

    betas = build_noise_scheduler("ddpm").betas
    if "as_trained" not in NoiseSchedules:
        NoiseSchedules.add(
            "as_trained",
            "of the trained model",
            lambda num_train_timesteps: betas[:num_train_timesteps],
        )
    scheduler = DDPMScheduler(
        num_train_timesteps=STEPS,
        schedule="as_trained",
        prediction_type="v_prediction",
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    inferer = LatentDiffusionInferer(scheduler, scale_factor=1 / ldm.latent_scale)

    @torch.no_grad()
    def sample(indices: Sequence[int]) -> Tensor:
        noise = initial_noise(ldm.spec, indices, seed=0).to(device_of(ldm.unet))
        return inferer.sample(noise, ldm.vqgan, ldm.unet, verbose=False).clamp(-1, 1)

    return sample


def ours(
    ldm: LdmCheckpoint,
    sampler: str,
    steps: int,
    *,
    precision: str,
    has_noise_of_ddpm: bool = False,
) -> Sample:
    """Returns this project's sampling at one setting."""

    def sample(indices: Sequence[int]) -> Tensor:
        noise = initial_noise(ldm.spec, indices, seed=0)
        for step in denoise(
            ldm.unet,
            noise,
            sampler=sampler,
            steps=steps,
            precision=precision,
            has_noise_of_ddpm=has_noise_of_ddpm,
        ):
            latents = step.latents
        return decode_samples(ldm.vqgan, latents, ldm.latent_scale)

    return sample


def wait_for(device: torch.device) -> None:
    """Waits until a device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(meter: Meter, sample: Sample, indices: Sequence[int]) -> tuple[Taken, Tensor]:
    """Returns the mean cost of an image, and the images."""
    window, cpu_s, wall_s = meter.open_window(), time.process_time(), time.perf_counter()
    images = sample(indices)
    wait_for(images.device)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    energy_kwh = meter.close_window(window).energy_kwh
    energy = None if energy_kwh is None else joules_from_kwh(energy_kwh) / len(indices)
    return Taken(wall_s / len(indices), cpu_s / len(indices), energy), images
