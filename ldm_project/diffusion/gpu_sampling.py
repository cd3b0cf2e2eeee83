"""Denoising on a GPU with few launches and copies: bf16, channels last, CUDA graphs."""

import warnings
from dataclasses import dataclass
from typing import cast

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch import Tensor, nn


class ChannelsLastNorm(nn.Module):
    """Group normalisation that keeps channels last; sums are in fp32 whatever the images are.

    torch's own brings images into another order first, and those after it back: a third of the time
    of a denoising step.

    Args:
        norm: whose weights and groups it takes.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias  # as a checkpoint names them

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(B, C, *S)`` of images ``(B, C, *S)``, in their precision."""
        batch_size, num_channels, *axes = images.shape
        each = tuple(range(2, images.ndim))
        means = images.mean(each, dtype=torch.float32)
        lengths = torch.linalg.vector_norm(images, dim=each, dtype=torch.float32)
        squares = lengths.square() / images[0, 0].numel()
        mean, square = (self._of_groups(values) for values in (means, squares))
        factors = torch.rsqrt(square - mean.square() + self.eps) * self.weight.float()
        shifts = self.bias.float() - mean * factors
        shape = (batch_size, num_channels, *(1 for _ in axes))
        factors, shifts = (it.to(images.dtype).view(shape) for it in (factors, shifts))
        return torch.addcmul(shifts, images, factors)

    def _of_groups(self, values: Tensor) -> Tensor:
        """Returns the mean over a channel's group for each channel, ``(B, C)`` both."""
        batch_size, num_channels = values.shape
        group_size = num_channels // self.num_groups
        means = values.view(batch_size, self.num_groups, group_size).mean(2, keepdim=True)
        return means.expand(-1, -1, group_size).reshape(values.shape)


@dataclass(frozen=True)
class Recording:
    """A prediction of one shape as a CUDA graph, with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    latents: Tensor
    timesteps: Tensor
    velocity: Tensor


class WholeUnet(nn.Module):
    """A UNet that computes in the precision of its weights throughout, without autocast.

    Autocast brings each image into fp32 for a normalisation and back for a convolution.

    Args:
        unet: MONAI's, on a GPU.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self._dtype = next(unet.parameters()).dtype

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the velocity of latents, both ``(B, C, *S)``, at timesteps ``(B,)``."""
        with torch.autocast(latents.device.type, enabled=False):
            return cast(Tensor, self.unet(latents.to(self._dtype), timesteps))


class ReplayedUnet(nn.Module):
    """A UNet whose kernels are launched all at once, from the second prediction of a shape on.

    Each prediction overwrites the one before, so no sampler may keep one. Where the kernels cannot
    be recorded it says so once, and computes as the UNet does.

    Args:
        unet: on a GPU, which its ``forward`` never waits for; its weights must not change any more.
    """

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self._recordings: dict[torch.Size, Recording | None] = {}
        self._is_recordable = True

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Returns the velocity of latents, both ``(B, C, *S)``, at timesteps ``(B,)``."""
        recording = self._recording(latents, timesteps)
        if recording is None:
            return cast(Tensor, self.unet(latents, timesteps))
        recording.latents.copy_(latents)
        recording.timesteps.copy_(timesteps)
        recording.graph.replay()
        return recording.velocity

    def _recording(self, latents: Tensor, timesteps: Tensor) -> Recording | None:
        """Returns the recording for a shape; ``None`` the first time, or if none can be made."""
        shape = latents.shape
        if shape not in self._recordings:  # libraries choose their kernels in the first prediction
            self._recordings[shape] = None
        elif self._recordings[shape] is None and self._is_recordable:
            try:
                self._recordings[shape] = self._recorded(latents, timesteps)
            except RuntimeError as error:
                self._is_recordable = False
                warnings.warn(
                    f"The UNet's work on the GPU cannot be recorded ({error}), so sampling takes "
                    "longer; its images are the same.",
                    stacklevel=3,
                )
        return self._recordings[shape]

    def _recorded(self, latents: Tensor, timesteps: Tensor) -> Recording:
        torch.cuda.empty_cache()  # a graph has memory of its own
        latents, timesteps = latents.clone(), timesteps.clone()
        graph = torch.cuda.CUDAGraph()
        # other threads may use the GPU meanwhile
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            velocity = self.unet(latents, timesteps)
        return Recording(graph, latents, timesteps, velocity)


def is_replayable(unet: nn.Module) -> bool:
    """Returns whether a UNet can become a CUDA graph: MONAI's never waits for the GPU."""
    return isinstance(unet, DiffusionModelUNet)


def use_channels_last_norms(network: nn.Module) -> None:
    """Replaces, in place, the group normalisations of a network; its weights' names stay."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.GroupNorm):
            setattr(network, name, ChannelsLastNorm(child))
        else:
            use_channels_last_norms(child)
