"""Counts the arithmetic of an image from the shapes of the networks alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from ldm_project.diffusion.autoencoders import ResidualKl
from ldm_project.diffusion.models import (
    IMAGE_CHANNELS,
    ModelSpec,
    build_unet,
    build_vqgan,
    num_parameters,
)

FLOP_PER_TFLOP = 1e12
META = torch.device("meta")  # tensors with shapes but no data: any size takes milliseconds


@dataclass(frozen=True)
class Cost:
    """The arithmetic of one image in TFLOP; a multiplication and an addition count as two."""

    step_tflop: float  # one denoising step
    decode_tflop: float  # one decoding of a whole latent to an image

    def sample_tflop(self, steps: int) -> float:
        """Returns the TFLOP of one image: its decoding and its denoising steps."""
        return self.decode_tflop + steps * self.step_tflop


@dataclass(frozen=True)
class Weights:
    """The number of trainable weights of each network."""

    unet: int
    vqgan: int


def cost_of(spec: ModelSpec) -> Cost:
    """Returns the arithmetic of an image; needs neither trained weights nor data."""
    with META:
        unet, vqgan = build_unet(spec).eval(), build_vqgan(spec).eval()
        latents, timesteps = torch.zeros(1, *spec.latent_shape), torch.zeros(1)
    # The argmin for the nearest code is not counted; the distances it needs are under a percent.
    return Cost(
        step_tflop=_tflop(lambda: unet(latents, timesteps)),
        decode_tflop=_tflop(lambda: vqgan.decode(latents)),
    )


def weights_of(spec: ModelSpec) -> Weights:
    """Returns the number of weights of both networks."""
    with META:
        return Weights(num_parameters(build_unet(spec)), num_parameters(build_vqgan(spec)))


def diffusion_iteration_tflop(spec: ModelSpec, batch_size: int) -> float:
    """Returns the TFLOP of one training iteration of the UNet: its forward and backward pass."""
    with META:
        unet = build_unet(spec)
        latents, timesteps = torch.zeros(1, *spec.latent_shape), torch.zeros(1)

    def both_ways() -> None:
        torch.autograd.backward(unet(latents, timesteps).sum())

    return batch_size * _counted(both_ways)


def vqgan_iteration_tflop(spec: ModelSpec, batch_size: int) -> float:
    """Returns the TFLOP of one training iteration of the autoencoder: forward and backward pass.

    The discriminator, which takes part in the last iterations only, is left out.
    """
    with META:
        vqgan = build_vqgan(spec)
        images = torch.zeros(1, IMAGE_CHANNELS, *spec.size)

    def both_ways() -> None:
        if isinstance(vqgan, ResidualKl):  # which draws its latents by both of its heads
            latents = torch.add(*vqgan.posterior(images))
        else:
            latents = vqgan.encode(images)
        torch.autograd.backward(vqgan.decode(latents).sum())

    return batch_size * _counted(both_ways)


@torch.inference_mode()
def _tflop(compute: Callable[[], object]) -> float:
    return _counted(compute)


def _counted(compute: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops() / FLOP_PER_TFLOP
