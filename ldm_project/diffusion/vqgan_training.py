"""The training of a VQ-GAN, plain, then quantised, then also adversarial; or of its kl twin."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm_project.diffusion.acceleration import FP32, autocast
from ldm_project.diffusion.autoencoders import (
    OwnAutoencoder,
    ResidualKl,
    Vqgan,
    encode,
    quantise,
    restart_unused_codes,
    standardise_latents,
    start_codebook,
)
from ldm_project.diffusion.models import device_of
from ldm_project.diffusion.optimisation import Optimiser, check_loss
from ldm_project.diffusion.seeding import seeded_generator

VQGAN_LEARNING_RATE_BY_DIMS = {2: 2e-3, 3: 1.5e-3}  # at 2e-3, volumes diverge now and then
DISCRIMINATOR_LEARNING_RATE = 1e-3

# Fractions of the iterations after which the quantiser, then the discriminator, joins in.
QUANTISER_START_FRACTION = 0.4
ADVERSARIAL_START_FRACTION = 0.8
ADVERSARIAL_WEIGHT = 0.01
# Weight of the spectral loss, which starts with the quantiser: an L1 loss alone leaves out fine
# structure and noise. Over three seeds, it halves the KID of reconstructions at the same L1. If it
# starts at the first iteration, one training of three never reconstructs the image.
SPECTRAL_WEIGHT = 1.0
# Weight of the histogram loss, which starts with the quantiser: L1 alone draws values to the median
# of what a blurred voxel may be, so that tissues run into each other.
HISTOGRAM_WEIGHT = 0.5
NUM_CODEBOOK_BATCHES = 8  # whose encoder outputs the codebook starts from
# Weight of the divergence of kl latents from the standard normal distribution: "∼10^-6" in Rombach
# et al. 2022 (arXiv:2112.10752), section G, and 1e-6 in MONAI's tutorials of AutoencoderKL.
KL_WEIGHT = 1e-6
RESTART_EVERY = 20  # iterations between two moves of unused codes, until the discriminator joins


@dataclass(frozen=True)
class VqganStep:
    """Terms of the autoencoder's objective in one iteration (from 1), weighted as they are summed.

    A term that has not joined the objective yet is ``None``, and so is, for good, the
    ``quantisation_loss`` of ``kl`` and the ``kl_loss`` of ``vq``. ``discriminator_loss`` is the
    discriminator's own objective.
    """

    iteration: int
    reconstruction_loss: float
    spectral_loss: float | None
    histogram_loss: float | None
    quantisation_loss: float | None
    adversarial_loss: float | None
    discriminator_loss: float | None
    kl_loss: float | None = None


class VqganTraining:
    """An autoencoder in training, its discriminator, and the iterations done so far.

    Args:
        vqgan: from ``build_vqgan``; trained in place.
        discriminator: from ``build_discriminator``; trained in place.
        iterations: how many batches to train on in all.
        learning_rate: of the VQ-GAN.
        spectral_weight: of the squared difference between the spectra's amplitudes.
        precision: of the encoder and the decoder, ``fp32`` or ``bf16``; codes and losses stay
            in full precision.
        seed: of the latents that ``kl`` draws.
    """

    def __init__(
        self,
        vqgan: OwnAutoencoder,
        discriminator: nn.Module,
        *,
        iterations: int,
        learning_rate: float = VQGAN_LEARNING_RATE_BY_DIMS[2],
        spectral_weight: float = SPECTRAL_WEIGHT,
        precision: str = FP32,
        seed: int = 0,
    ) -> None:
        self.vqgan = vqgan
        self.discriminator = discriminator.to(device_of(vqgan))
        self.iterations = iterations
        self.learning_rate = learning_rate
        self.spectral_weight = spectral_weight
        self.precision = precision
        self.seed = seed
        self.iteration = 0  # number of the last finished iteration
        self.optimiser = Optimiser(vqgan, learning_rate, iterations)
        self.adversary = Optimiser(
            discriminator, DISCRIMINATOR_LEARNING_RATE, iterations - self.adversarial_start
        )
        self.recent_latents: deque[Tensor] = deque(maxlen=NUM_CODEBOOK_BATCHES)

    @property
    def quantiser_start(self) -> int:
        """The last iteration without the quantiser and the losses that join with it."""
        return int(self.iterations * QUANTISER_START_FRACTION)

    @property
    def adversarial_start(self) -> int:
        """The last iteration without the discriminator."""
        return int(self.iterations * ADVERSARIAL_START_FRACTION)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the training needs to continue as if it had never stopped."""
        return {
            "iteration": self.iteration,
            "vqgan": self.vqgan.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "adversary": self.adversary.state_dict(),
            "recent_latents": list(self.recent_latents),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from ``state_dict``."""
        self.vqgan.load_state_dict(state["vqgan"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.adversary.load_state_dict(state["adversary"])
        self.recent_latents.extend(
            latents.to(device_of(self.vqgan)) for latents in state["recent_latents"]
        )
        self.iteration = state["iteration"]


def train_vqgan(training: VqganTraining, batches: Iterator[Tensor]) -> Iterator[VqganStep]:
    """Trains from the next iteration to the last one; yields one record per iteration.

    Args:
        training: updated in place.
        batches: images ``(B, 1, *S)`` in [-1, 1], beginning with the next iteration's.

    Raises:
        InvalidInputError: the loss became infinite or NaN.
    """
    vqgan = training.vqgan.train()
    training.discriminator.train()
    for iteration in range(training.iteration + 1, training.iterations + 1):
        images = next(batches).to(device_of(vqgan))
        step = _train_on(training, images, iteration)
        training.iteration = iteration
        yield step
    vqgan.eval()


@torch.inference_mode()
def reconstructed(training: VqganTraining, images: Tensor) -> Tensor:
    """Returns images ``(B, 1, *S)`` in [-1, 1], encoded, quantised (once codes exist), decoded."""
    vqgan = training.vqgan
    latents = encode(vqgan, images)
    if not isinstance(vqgan, ResidualKl) and training.iteration > training.quantiser_start:
        latents = quantise(vqgan, latents)
    return vqgan.decode(latents).clamp(-1.0, 1.0)


def _train_on(training: VqganTraining, images: Tensor, iteration: int) -> VqganStep:
    vqgan = training.vqgan
    discriminator_loss: Tensor | None = None
    if isinstance(vqgan, ResidualKl):
        latents, joined = _drawn_latents(training, vqgan, images, iteration)
    else:
        latents, joined = _quantised_latents(training, vqgan, images, iteration)
    with autocast(latents.device, training.precision):
        reconstructed = vqgan.decode(latents)
    reconstructed = reconstructed.float()
    joined["reconstruction_loss"] = F.l1_loss(reconstructed, images)
    if iteration > training.quantiser_start:
        spectral_loss = _spectral_loss(reconstructed, images)
        joined["spectral_loss"] = training.spectral_weight * spectral_loss
        joined["histogram_loss"] = HISTOGRAM_WEIGHT * _histogram_loss(reconstructed, images)
    if iteration > training.adversarial_start:
        judged = training.discriminator(reconstructed)[-1]
        adversarial_loss = F.mse_loss(judged, torch.ones_like(judged))
        joined["adversarial_loss"] = ADVERSARIAL_WEIGHT * adversarial_loss
    loss = _sum(joined)
    title = "KL autoencoder" if isinstance(vqgan, ResidualKl) else "VQ-GAN"
    check_loss(loss, title, iteration, training.learning_rate)
    training.optimiser.step(loss)
    if iteration > training.adversarial_start:
        discriminator_loss = _discriminator_loss(
            training.discriminator, real=images, fake=reconstructed.detach()
        )
        training.adversary.step(discriminator_loss)
    return VqganStep(
        iteration,
        reconstruction_loss=joined["reconstruction_loss"].item(),
        spectral_loss=_number(joined.get("spectral_loss")),
        histogram_loss=_number(joined.get("histogram_loss")),
        quantisation_loss=_number(joined.get("quantisation_loss")),
        adversarial_loss=_number(joined.get("adversarial_loss")),
        discriminator_loss=_number(discriminator_loss),
        kl_loss=_number(joined.get("kl_loss")),
    )


def _quantised_latents(
    training: VqganTraining, vqgan: Vqgan, images: Tensor, iteration: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the latents to decode, quantised once the quantiser has joined, and its loss."""
    latents = _encoded(training, vqgan, images)
    if iteration <= training.quantiser_start + 1:
        training.recent_latents.append(latents.detach())
    if iteration == training.quantiser_start + 1:
        recent = torch.cat(tuple(training.recent_latents))
        start_codebook(vqgan, standardise_latents(vqgan, recent))
        latents = _encoded(training, vqgan, images)
    if iteration <= training.quantiser_start:
        return latents, {}
    if iteration <= training.adversarial_start and iteration % RESTART_EVERY == 0:
        generator = seeded_generator(f"restart {iteration}".encode())
        restart_unused_codes(vqgan, latents, generator)
    quantised, loss = vqgan.quantize(latents)
    return quantised, {"quantisation_loss": loss}


def _drawn_latents(
    training: VqganTraining, autoencoder: ResidualKl, images: Tensor, iteration: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns latents drawn from their distribution, and the loss that keeps it near the normal.

    The loss is the divergence of an image's latents, summed over them.

    Source: Kingma & Welling 2014 (arXiv:1312.6114), equation 10.
    """
    with autocast(images.device, training.precision):
        mean, log_variance = autoencoder.posterior(images)
    mean, log_variance = mean.float(), log_variance.float()
    generator = seeded_generator(f"kl latents {training.seed} {iteration}".encode())
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum() / len(images)
    return mean + (0.5 * log_variance).exp() * noise, {"kl_loss": KL_WEIGHT * divergence}


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    """Returns the sum of the terms in a fixed order, since its last bits depend on the order."""
    order = (
        "reconstruction_loss",
        "spectral_loss",
        "histogram_loss",
        "quantisation_loss",
        "kl_loss",
        "adversarial_loss",
    )
    first, *others = (terms[name] for name in order if name in terms)
    return sum(others, first)


def _number(loss: Tensor | None) -> float | None:
    return None if loss is None else loss.item()


def _encoded(training: VqganTraining, vqgan: Vqgan, images: Tensor) -> Tensor:
    with autocast(images.device, training.precision):
        latents: Tensor = vqgan.encode(images)
    return latents.float()


def _spectral_loss(reconstructed: Tensor, images: Tensor) -> Tensor:
    """Returns the mean squared difference between the amplitudes of images ``(B, 1, *S)``.

    MONAI's ``JukeboxLoss`` is the same, but its gradient is NaN where an amplitude is exactly 0.

    Source: Dhariwal et al. 2020 (Jukebox), section 3.3.
    """
    return F.mse_loss(_amplitudes(reconstructed), _amplitudes(images))


def _amplitudes(images: Tensor) -> Tensor:
    """Returns the absolute Fourier coefficients of images ``(B, 1, *S)``, of the same shape."""
    axes = tuple(range(1, images.ndim))
    return torch.fft.fftn(images, dim=axes, norm="ortho").abs()


def _histogram_loss(reconstructed: Tensor, images: Tensor) -> Tensor:
    """Returns the Wasserstein-1 distance of the batches' values, of all their voxels in order."""
    return F.l1_loss(reconstructed.flatten().sort().values, images.flatten().sort().values)


def _discriminator_loss(discriminator: nn.Module, *, real: Tensor, fake: Tensor) -> Tensor:
    """Returns the least-squares loss of telling real images (1) from reconstructed ones (0)."""
    judged_real = discriminator(real)[-1]
    judged_fake = discriminator(fake)[-1]
    return 0.5 * (
        F.mse_loss(judged_real, torch.ones_like(judged_real))
        + F.mse_loss(judged_fake, torch.zeros_like(judged_fake))
    )
