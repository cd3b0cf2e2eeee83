"""The verdict rejects samplers that are known to be bad, and passes one that is known to be good.

A real model would need minutes of training. Here the images' own distribution stands in, and the
verdict sees it as it sees samples: by a VQ-GAN's features and by the second judge.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.diffusion.autoencoders import decode, encode
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_vqgan
from ldm_project.diffusion.quality import Features, ImageSet, features_of_encoder, image_set, judge
from ldm_project.diffusion.second_judge import train_second_judge
from ldm_project.diffusion.verdict import shortfalls
from ldm_project.diffusion.vqgan_training import VqganTraining, train_vqgan
from ldm_project.ct.hounsfield import network_from_hu  # noqa: F401

NUM_SAMPLES = 64


@dataclass(frozen=True)
class Jury:
    """Real images, and what judges samples of theirs."""

    vqgan: torch.nn.Module
    features: Features
    training_images: Tensor
    training: ImageSet
    held_out: ImageSet
    reference: Tensor

    def found(self, images: Tensor) -> str:
        """Returns what the verdict has against images, as one text."""
        judged, reference = (image_set(self.features, it) for it in (images, self.reference))
        quality, real = (judge(it, self.training, self.held_out) for it in (judged, self.held_out))
        return "; ".join(
            shortfalls(judged, reference, self.training, quality=quality, real=real)
        )
