"""Training loops of the VQ-GAN and of the diffusion UNet, one record per iteration."""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.nets.vqvae import VQVAE
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import LambdaLR

from ldm_project.config import NUM_TRAIN_TIMESTEPS
from ldm_project.diffusion.models import device_of, encode, standardise_latents, start_codebook
from ldm_project.diffusion.noise_schedulers import noised
from ldm_project.errors import InvalidInputError

VQGAN_LEARNING_RATE = 4e-3
DISCRIMINATOR_LEARNING_RATE = 1e-3
DIFFUSION_LEARNING_RATE = 3e-3
ADAM_BETAS = (0.9, 0.99)
RAMP_ITERATIONS = 20  # over which the learning rate rises to its full value
MAX_GRADIENT_NORM = 1.0

# Fractions of the iterations after which the quantiser, then the discriminator, joins in.
QUANTISER_START_FRACTION = 0.5
ADVERSARIAL_START_FRACTION = 0.8
ADVERSARIAL_WEIGHT = 0.01
NUM_CODEBOOK_BATCHES = 8  # whose encoder outputs the codebook starts from


@dataclass(frozen=True)
class VqganStep:
    """Terms of the VQ-GAN's objective in one iteration (from 1), weighted as they are summed.

    A term that has not joined the objective yet is 0. ``discriminator_loss`` is the
    discriminator's own objective.
    """

    iteration: int
    reconstruction_loss: float
    quantisation_loss: float
    adversarial_loss: float
    discriminator_loss: float


@dataclass(frozen=True)
class DiffusionStep:
    """Mean absolute error of the predicted velocity in one iteration (from 1)."""

    iteration: int
    loss: float


@dataclass(frozen=True)
class Latents:
    """Latents ``(N, C, *S)`` of a training set, divided by ``scale``, their standard deviation."""

    values: Tensor
    scale: float


def train_vqgan(
    vqgan: VQVAE,
    discriminator: nn.Module,
    batches: Iterator[Tensor],
    *,
    iterations: int,
    learning_rate: float = VQGAN_LEARNING_RATE,
) -> Iterator[VqganStep]:
    """Trains both networks in place: a plain autoencoder, then quantised, then adversarial too.

    Args:
        vqgan: from ``build_vqgan``.
        discriminator: from ``build_discriminator``.
        batches: endless images ``(B, 1, *S)`` in [-1, 1].
        iterations: how many batches to train on.
        learning_rate: of the VQ-GAN.

    Raises:
        InvalidInputError: the loss became infinite or NaN.
    """
    quantiser_start = int(iterations * QUANTISER_START_FRACTION)
    adversarial_start = int(iterations * ADVERSARIAL_START_FRACTION)
    device = device_of(vqgan)
    optimiser = _Optimiser(vqgan.train(), learning_rate, iterations)
    adversary = _Optimiser(
        discriminator.to(device).train(),
        DISCRIMINATOR_LEARNING_RATE,
        iterations - adversarial_start,
    )
    recent_latents: deque[Tensor] = deque(maxlen=NUM_CODEBOOK_BATCHES)
    for iteration in range(1, iterations + 1):
        images = next(batches).to(device)
        latents = vqgan.encode(images)
        quantisation_loss = adversarial_loss = discriminator_loss = latents.new_zeros(())
        if iteration <= quantiser_start + 1:
            recent_latents.append(latents.detach())
        if iteration == quantiser_start + 1:
            start_codebook(vqgan, standardise_latents(vqgan, torch.cat(tuple(recent_latents))))
            latents = vqgan.encode(images)
        if iteration > quantiser_start:
            latents, quantisation_loss = vqgan.quantize(latents)
        reconstructed = vqgan.decode(latents)
        reconstruction_loss = F.l1_loss(reconstructed, images)
        if iteration > adversarial_start:
            judged = discriminator(reconstructed)[-1]
            adversarial_loss = ADVERSARIAL_WEIGHT * F.mse_loss(judged, torch.ones_like(judged))
        loss = reconstruction_loss + quantisation_loss + adversarial_loss
        _check_loss(loss, "VQ-GAN", iteration, learning_rate)
        optimiser.step(loss)
        if iteration > adversarial_start:
            discriminator_loss = _discriminator_loss(
                discriminator, real=images, fake=reconstructed.detach()
            )
            adversary.step(discriminator_loss)
        yield VqganStep(
            iteration,
            reconstruction_loss.item(),
            quantisation_loss.item(),
            adversarial_loss.item(),
            discriminator_loss.item(),
        )
    vqgan.eval()


@torch.inference_mode()
def encode_latents(vqgan: VQVAE, images: Iterable[Tensor]) -> Latents:
    """Returns the scaled latents of a training set, encoded once by a frozen VQ-GAN.

    They are the encoder's continuous outputs: sampling moves its results to the codebook, which
    takes out what small errors the UNet leaves.

    Args:
        vqgan: trained.
        images: batches ``(B, 1, *S)`` in [-1, 1].
    """
    latents = torch.cat([encode(vqgan, batch) for batch in images])
    scale = latents.std().item()
    return Latents(latents / scale, scale)


def train_diffusion(
    unet: nn.Module,
    latents: Latents,
    *,
    iterations: int,
    batch_size: int,
    seed: int,
    learning_rate: float = DIFFUSION_LEARNING_RATE,
) -> Iterator[DiffusionStep]:
    """Trains the UNet in place to predict velocities, by mean absolute error.

    Args:
        unet: from ``build_unet``.
        latents: of the training set.
        iterations: how many batches to train on.
        batch_size: latents per batch, drawn with replacement.
        seed: of the batches, their timesteps and their noise.
        learning_rate: of the UNet.

    Raises:
        InvalidInputError: the loss became infinite or NaN.
    """
    generator = torch.Generator().manual_seed(seed)
    device = device_of(unet)
    optimiser = _Optimiser(unet.train(), learning_rate, iterations)
    for iteration in range(1, iterations + 1):
        chosen = torch.randint(len(latents.values), (batch_size,), generator=generator)
        clean = latents.values[chosen.to(latents.values.device)].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = spread_timesteps(batch_size, generator).to(device)
        noisy, velocity = noised(clean, noise, timesteps)
        loss = F.l1_loss(unet(noisy, timesteps), velocity)
        _check_loss(loss, "diffusion UNet", iteration, learning_rate)
        optimiser.step(loss)
        yield DiffusionStep(iteration, loss.item())
    unet.eval()


def spread_timesteps(batch_size: int, generator: torch.Generator) -> Tensor:
    """Returns random timesteps ``(B,)``, one from each of B equal parts of the schedule.

    Each timestep is as likely as under independent draws, but no batch is all noise or all image:
    small batches train far more steadily.
    """
    positions = torch.arange(batch_size) + torch.rand(batch_size, generator=generator)
    return (positions / batch_size * NUM_TRAIN_TIMESTEPS).long().clamp(max=NUM_TRAIN_TIMESTEPS - 1)


class _Optimiser:
    """Adam whose learning rate rises for a few steps and falls to zero along a cosine."""

    def __init__(self, network: nn.Module, learning_rate: float, iterations: int) -> None:
        self._parameters = [weight for weight in network.parameters() if weight.requires_grad]
        self._adam = Adam(self._parameters, lr=learning_rate, betas=ADAM_BETAS, fused=True)
        self._schedule = LambdaLR(self._adam, lambda step: learning_rate_factor(step, iterations))

    def step(self, loss: Tensor) -> None:
        """Moves the weights down the gradient of a loss."""
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self._adam.step()
        self._schedule.step()


def learning_rate_factor(step: int, iterations: int) -> float:
    """Returns the fraction of the full learning rate at a step (from 0) of a training."""
    ramp = min(1.0, (step + 1) / RAMP_ITERATIONS)
    return ramp * 0.5 * (1.0 + math.cos(math.pi * min(1.0, step / iterations)))


def _discriminator_loss(discriminator: nn.Module, *, real: Tensor, fake: Tensor) -> Tensor:
    """Returns the least-squares loss of telling real images (1) from reconstructed ones (0)."""
    judged_real = discriminator(real)[-1]
    judged_fake = discriminator(fake)[-1]
    return 0.5 * (
        F.mse_loss(judged_real, torch.ones_like(judged_real))
        + F.mse_loss(judged_fake, torch.zeros_like(judged_fake))
    )


def _check_loss(loss: Tensor, name: str, iteration: int, learning_rate: float) -> None:
    if not torch.isfinite(loss):
        raise InvalidInputError(
            f"The loss of the {name} became {loss.item()} in iteration {iteration}. Lower the "
            f"learning rate ({learning_rate:g}), and check the images for values that are not "
            f"finite."
        )
