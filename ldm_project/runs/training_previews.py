"""Previews of a training on its way: pictures, and the loss on scans held out."""

from dataclasses import replace
from itertools import islice

import mlflow
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_project.config import SAMPLER_OF_FEW_STEPS
from ldm_project.ct.data import CtScans
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.ct.images import PREVIEW_COLUMNS, contact_sheet
from ldm_project.diffusion.checkpoints import LdmCheckpoint
from ldm_project.diffusion.diffusion_training import DiffusionTraining, validation_loss
from ldm_project.diffusion.latents import encode_latents
from ldm_project.diffusion.models import ModelSpec
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.diffusion.vqgan_training import VqganTraining, reconstructed
from ldm_project.parsing import num_fitting

VALIDATION_LOSS = "validation_loss"
MAX_VALIDATED = 16  # held-out images
NUM_SHOWN_BY_DIMS = {2: PREVIEW_COLUMNS, 3: 1}
PREVIEW_STEPS = 10


class VqganPreview:
    """Shows held-out images above their reconstructions by the VQ-GAN."""

    def __init__(self, training: VqganTraining, spec: ModelSpec, held_out: CtScans) -> None:
        self._training = training
        self._images = _first_images(held_out)
        self._num_together = num_fitting(spec.latent_shape[1:])

    def log(self, iteration: int) -> None:
        """Logs the mean absolute error of held-out images, and some of them as a picture."""
        parts = torch.split(self._images, self._num_together)
        decoded = torch.cat([reconstructed(self._training, part).cpu() for part in parts])
        num_shown = NUM_SHOWN_BY_DIMS[self._images.ndim - 2]
        shown = torch.cat([self._images[:num_shown], decoded[:num_shown]])
        _log(F.l1_loss(decoded, self._images).item(), "reconstructions", shown, iteration)


class LdmPreview:
    """Shows a few samples of the UNet in training, always from the same noise.

    Args:
        training: of the UNet.
        ldm: with the VQ-GAN that decodes its latents.
        held_out: scans that are not trained on.
        seed: of the samples.
    """

    def __init__(
        self, training: DiffusionTraining, ldm: LdmCheckpoint, held_out: CtScans, seed: int
    ) -> None:
        self._training = training
        self._ldm = ldm
        images = torch.split(_first_images(held_out), num_fitting(ldm.spec.latent_shape[1:]))
        unseen = encode_latents(ldm.vqgan, images)
        self._held_out = replace(unseen, scale=ldm.latent_scale)
        self._noise = initial_noise(ldm.spec, range(NUM_SHOWN_BY_DIMS[ldm.spec.dims]), seed=seed)

    def log(self, iteration: int) -> None:
        """Logs the loss on held-out latents, and samples as a picture."""
        *_, final = denoise(
            self._training.averaged_unet,
            self._noise,
            sampler=SAMPLER_OF_FEW_STEPS[self._training.objective],
            steps=PREVIEW_STEPS,
            precision=self._training.precision,
        )
        samples = decode_samples(self._ldm.vqgan, final.latents, self._ldm.latent_scale).cpu()
        _log(validation_loss(self._training, self._held_out), "samples", samples, iteration)


def _log(loss: float, key: str, images: Tensor, iteration: int) -> None:
    mlflow.log_metric(VALIDATION_LOSS, loss, step=iteration)
    sheet = contact_sheet(hu_from_network(images))
    mlflow.log_image(sheet, key=key, step=iteration, synchronous=True)


def _first_images(scans: CtScans) -> Tensor:
    """Returns images ``(N, 1, *S)`` in [-1, 1] of the first scans."""
    return torch.stack(list(islice(scans.images(epoch=0), MAX_VALIDATED)))
