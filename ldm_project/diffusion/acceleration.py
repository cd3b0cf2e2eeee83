"""Precision, threads and memory layout: makes the networks faster or smaller in memory."""

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    apply_activation_checkpointing,
)

from ldm_project.config import TINY
from ldm_project.diffusion.autoencoders import Autoencoder
from ldm_project.diffusion.cpu_attention import fuse_attention
from ldm_project.diffusion.cpu_convolutions import pack_convolutions
from ldm_project.diffusion.gpu_sampling import (
    ReplayedUnet,
    WholeUnet,
    is_replayable,
    use_channels_last_norms,
)
from ldm_project.diffusion.models import ModelSpec, device_of
from ldm_project.errors import InvalidInputError
from ldm_project.parsing import size_text

BF16, FP32 = "bf16", "fp32"
CPU_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "sve_bf16")


# Below it, and only in bf16 and 3D, oneDNN 3.12 on AMX reads uninitialised memory for a weight's
# gradient (NaN in torch 2.13), and convolves wrongly to an axis of 1 (pytorch/pytorch#169688).
MIN_CPU_BF16_AXIS = 3


def resolve_precision(precision: str | None, device: torch.device, spec: ModelSpec) -> str:
    """Returns ``bf16`` or ``fp32`` for the UNet; ``precision=None`` takes the faster of the two.

    bf16 is slower on a CPU that must emulate it, and for ``tiny``, whose small layers save less
    time than the conversions cost.

    Raises:
        InvalidInputError: bf16 is asked for where a CPU computes it wrongly.
    """
    chosen = _checked(precision, device, spec, spec.coarsest_shape)
    if chosen is not None:
        return chosen
    return BF16 if _has_bf16(device) and (device.type, spec.model_size) != ("cpu", TINY) else FP32


def resolve_vqgan_precision(precision: str | None, device: torch.device, spec: ModelSpec) -> str:
    """Returns ``bf16`` or ``fp32`` for the training of a VQ-GAN, which works on whole images.

    There bf16 takes half the time of fp32 even in ``tiny``.

    Raises:
        InvalidInputError: bf16 is asked for where a CPU computes it wrongly.
    """
    chosen = _checked(precision, device, spec, spec.latent_shape[1:])
    if chosen is not None:
        return chosen
    return BF16 if _has_bf16(device) else FP32


def _checked(
    precision: str | None, device: torch.device, spec: ModelSpec, coarsest_shape: tuple[int, ...]
) -> str | None:
    """Returns the precision that was asked for, or the only right one; ``None`` leaves a choice."""
    if device.type == "cpu" and spec.dims == 3 and min(coarsest_shape) < MIN_CPU_BF16_AXIS:
        if precision == BF16:
            raise InvalidInputError(
                f"precision is {precision!r}, but on a CPU torch computes volumes as small as "
                f"{size_text(spec.size)} wrongly in it; use precision=fp32, or a larger size=."
            )
        return FP32
    return precision


def _has_bf16(device: torch.device) -> bool:
    """Returns whether a device computes bf16 itself, not by emulation."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in CPU_BF16_INSTRUCTIONS)


def limit_threads(model_size: str) -> None:
    """Gives the ``tiny`` networks one thread of the CPU.

    More threads gain nothing there, and on a busy machine two threads that wait for each other are
    several times slower than one.
    """
    if model_size == TINY:
        torch.set_num_threads(1)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Returns the context in which networks compute in a precision: ``fp32`` or ``bf16``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16)


def checkpoint_gradients(unet: nn.Module) -> None:
    """Changes a UNet in place to save memory: the backward pass computes its blocks again."""
    blocks = {
        module
        for name, module in unet.named_modules()
        if name.split(".")[-2:-1] in (["resnets"], ["attentions"])
    }
    apply_activation_checkpointing(unet, check_fn=lambda module: module in blocks)


def prepared(unet: nn.Module, *, precision: str, is_compiled: bool) -> nn.Module:
    """Returns the UNet prepared for sampling in a precision; its weights must not be saved after.

    On a GPU weights stand in that precision with channels last, and a UNet of MONAI's runs as a
    CUDA graph, as a compiled one does too: each prediction then overwrites the previous one, so no
    sampler may keep a prediction.

    Args:
        unet: from a checkpoint; changed in place on a GPU.
        precision: ``fp32`` or ``bf16``.
        is_compiled: whether ``torch.compile`` shall merge its operations.
    """
    is_on_gpu = device_of(unet).type == "cuda"
    if not is_on_gpu:
        return torch.compile(unet) if is_compiled else unet  # type: ignore[return-value]
    channels_last(unet)
    if not is_replayable(unet):
        return _compiled(unet) if is_compiled else unet
    if precision == BF16:
        unet.bfloat16()
    if is_compiled:
        return WholeUnet(_compiled(unet))
    use_channels_last_norms(unet)
    return ReplayedUnet(WholeUnet(unet))


def _compiled(unet: nn.Module) -> nn.Module:
    """Returns a UNet on a GPU compiled to CUDA graphs."""
    return torch.compile(unet, mode="reduce-overhead")  # type: ignore[return-value]


def hasten_on_cpu(unet: nn.Module, vqgan: Autoencoder, *, dims: int) -> None:
    """Replaces, in place, parts of trained networks by ones that take less time of a CPU.

    Results and the names of weights stay; nothing changes on a GPU, with gradients or in bf16. A
    UNet of slices is too small for packed convolutions to gain what calling them takes.
    """
    fuse_attention(unet)
    pack_convolutions(vqgan)
    if dims == 3:
        pack_convolutions(unet)


def channels_last(unet: nn.Module) -> None:
    """Reorders the weights of convolutions, in place, to the layout that tensor cores read."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in unet.parameters():
        if weight.ndim in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.ndim])
