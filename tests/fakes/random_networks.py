"""Untrained networks that predict something: MONAI's own begin with a last layer of zeros."""

import torch
from torch import nn

from ldm_project.diffusion.models import ModelSpec, build_unet

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}


def random_unet(spec):
    """Returns a UNet of random weights, the same for the same spec."""
    torch.manual_seed(0)
    unet = build_unet(spec).eval().requires_grad_(False)
    nn.init.normal_(unet.out[2].conv.weight, std=0.1)
    return unet
