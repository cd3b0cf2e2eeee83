"""A latent diffusion model whose every quantity is known: its images are Gaussian around anatomy.

The images vary along the principal axes of phantoms, so the best prediction of noise has a closed
form, and any number of true images can be drawn.
"""

import math

import torch
from torch import Tensor, nn

from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.diffusion.sampling import denoise
from ldm_project.diffusion.seeding import seeded_generator
from tests.fakes import reference_samplers as reference

NUM_AXES = 48


class KnownUnet(nn.Module):
    """Predicts the velocity, exactly, of coordinates with known variances."""

    def __init__(self, variances: Tensor, *, predicts: str = "v") -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))  # a network has a device
        self.variances = variances
        self.predicts = predicts
        self.levels = reference.cosine_levels()

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        level = self.levels[int(timesteps[0])]
        alpha, sigma = float(level.alpha), float(level.sigma)
        spread = alpha**2 * self.variances + sigma**2
        data, noise = alpha * self.variances / spread * latents, sigma / spread * latents
        return noise if self.predicts == "noise" else alpha * noise - sigma * data


class KnownModel:
    """Images of one size: true ones, and ones sampled in the project's own loop."""

    def __init__(self, size: tuple[int, ...]) -> None:
        images = torch.stack(list(open_scans(DataSpec("phantom", size)).images(0)))
        self.size = size
        self.mean = images.mean(dim=0)
        _, spreads, axes = torch.linalg.svd((images - self.mean).flatten(1), full_matrices=False)
        self.axes = axes[:NUM_AXES]
        stds = spreads[:NUM_AXES] / math.sqrt(len(images) - 1)
        self.scale = stds.square().mean().sqrt()
        self.variances = (stds / self.scale).square()

    def true_images(self, num: int, *, seed: int) -> Tensor:
        """Returns images ``(num, 1, *size)`` of the distribution itself."""
        noise = torch.randn(num, NUM_AXES, generator=seeded_generator(f"true {seed}".encode()))
        return self.decoded(noise * self.variances.sqrt())

    def noise(self, num: int) -> Tensor:
        """Returns the starting noise, equal for every sampler."""
        return torch.randn(num, NUM_AXES, generator=seeded_generator(b"start"))

    def sampled(self, num: int, sampler: str, steps: int, *, predicts: str = "v") -> Tensor:
        """Returns images that one of the project's samplers makes."""
        unet = KnownUnet(self.variances, predicts=predicts)
        for step in denoise(unet, self.noise(num), sampler=sampler, steps=steps):
            latents = step.latents
        return self.decoded(latents)

    @torch.inference_mode()
    def sampled_by(self, num: int, scheduler) -> Tensor:
        """Returns images that another scheduler makes, whose steps are set already."""
        unet, latents = KnownUnet(self.variances), self.noise(num)
        for timestep in scheduler.timesteps:
            stepped = scheduler.step(unet(latents, timestep.expand(num)), timestep, latents)
            latents = stepped[0] if isinstance(stepped, tuple) else stepped.prev_sample
        return self.decoded(latents)

    def decoded(self, coordinates: Tensor) -> Tensor:
        """Returns the images at coordinates ``(N, NUM_AXES)``."""
        images = (coordinates * self.scale) @ self.axes
        return (self.mean + images.unflatten(1, (1, *self.size))).clamp(-1.0, 1.0)
