"""Foretells the peak memory of a training and of a sampling, and what a device has left for it."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ldm_project.diffusion.acceleration import (
    BF16,
    autocast,
    checkpoint_gradients,
    hasten_on_cpu,
)
from ldm_project.diffusion.gpu_sampling import (
    WholeUnet,
    is_replayable,
    use_channels_last_norms,
)
from ldm_project.diffusion.live_bytes import (
    KEPT_HEAP_BYTES,
    MAX_HEAP_BYTES,
    Used,
    Workspace,
    counted,
)
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.sampling import decode_samples

BYTES_PER_GB = 1e9
CPU, CUDA = "cpu", "cuda"

# What the libraries take as soon as they compute: on a GPU the workspaces of cuBLAS, which made the
# difference of 69 to 76 MB in nearly every measured denoising step on an H100; on a CPU the code
# that oneDNN makes for each shape, and pages of the libraries that are first read then.
LIBRARY_BYTES = {CPU: 25e6, CUDA: 70e6}
# Of the activations' bytes on a CPU, lost to holes in the heap, from the peaks of the small and
# tiny networks in benchmarks/measured/memory.jsonl. A training keeps activations between those that
# it frees; a GPU's torch hands out its memory itself, and its peaks are of tensors alone.
TRAINING_HOLE_FRACTION, SAMPLING_HOLE_FRACTION = 0.6, 0.5
# Adam's two moments and the moving average of the weights, beside the weights and their gradients.
STATES_PER_WEIGHT = 3
# Up to it, torch convolves one fp32 image on a CPU by itself, as a product of matrices, and leaves
# the others to oneDNN: use_mkldnn in aten/src/ATen/native/Convolution.cpp, torch 2.13.
MAX_OWN_CONVOLUTION_ELEMENTS = 20480
PACKED_CONVOLUTION = "_convolution_pointwise"  # reads and writes tensors as they are
LOST_COLUMNS_FRACTION = 0.65  # of those matrices in a training; measured as the holes are


@dataclass(frozen=True)
class Work:
    """A training iteration or a sampling, as far as its memory depends on it.

    Attributes:
        batch_size: images of an iteration of one process, or sampled together.
        precision: of the UNet: ``fp32`` or ``bf16``.
        device_type: ``cpu`` or ``cuda``.
        backend: of the networks.
        checkpoints_gradients: whether a training computes blocks twice to save memory.
        is_shared: whether several processes train together.
    """

    batch_size: int
    precision: str
    device_type: str
    backend: str = "core"
    checkpoints_gradients: bool = False
    is_shared: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes that work needs beside each other on one device, and those that are free there."""

    needed_bytes: int
    free_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the work can be tried."""
        return self.needed_bytes <= self.free_bytes

    @property
    def shortage(self) -> str:
        """What is needed and what is free, in words; "" if the work fits."""
        if self.fits:
            return ""
        needed_gb, free_gb = self.needed_bytes / BYTES_PER_GB, self.free_bytes / BYTES_PER_GB
        return f"needs about {needed_gb:.3g} GB of memory, {free_gb:.3g} GB are free"


def free_bytes_of(device: torch.device) -> int:
    """Returns the bytes that a process can still take on a device, with those that torch keeps."""
    if device.type == CPU:
        return int(psutil.virtual_memory().available)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return free_bytes + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


@cache  # a study asks for each shape several times, and counting takes seconds
def training_bytes(spec: ModelSpec, work: Work) -> int:
    """Returns the peak of a process's memory in an iteration after the first, in bytes.

    The gradients of the iteration before live until the backward pass begins, and the optimiser's
    moments from the first iteration on.
    """
    workspace = _workspace(work, is_training=True)
    with counted(workspace, **_heap(work, TRAINING_HOLE_FRACTION)) as live, _norms(work):
        unet = build_unet(spec, backend=work.backend)
        if work.checkpoints_gradients:
            checkpoint_gradients(unet)
        weights_bytes = sum(weight.nbytes for weight in unet.parameters())
        for weight in unet.parameters():
            weight.grad = torch.empty_like(weight)
        live.begin()
        latents, timesteps = _batch(spec, work)
        with autocast(latents.device, work.precision):
            velocity = unet(latents, timesteps)
        loss = F.l1_loss(velocity.float(), latents)
        unet.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        peak_bytes = live.peak
    # Processes exchange their gradients from a copy.
    num_states = STATES_PER_WEIGHT + work.is_shared
    return round(peak_bytes + num_states * weights_bytes + LIBRARY_BYTES[work.device_type])


@cache
@torch.inference_mode()
def sampling_bytes(spec: ModelSpec, work: Work) -> int:
    """Returns the peak of the memory in which a batch is denoised and decoded, in bytes.

    On a GPU weights arrive in fp32, and what a recorded UNet computes in is kept for the next step.
    """
    workspace = _workspace(work, is_training=False)
    with counted(workspace, **_heap(work, SAMPLING_HOLE_FRACTION)) as live:
        unet = build_unet(spec, backend=work.backend)
        vqgan = build_vqgan(spec, backend=work.backend).eval().requires_grad_(False)
        arriving_bytes = _arriving_bytes(unet, vqgan) if work.device_type == CUDA else 0
        unet = _for_sampling(unet, work)
        if work.device_type == CPU and work.backend == "core":  # as checkpoints are loaded
            hasten_on_cpu(unet, vqgan, dims=spec.dims)
        live.begin()
        latents, timesteps = _batch(spec, work)
        before_bytes = live.now
        with autocast(latents.device, work.precision):
            unet(latents, timesteps)
        denoising_bytes = live.peak
        live.begin()
        decode_samples(vqgan, latents, 1.0)
        is_recorded = work.device_type == CUDA and isinstance(unet, WholeUnet)
        kept_bytes = denoising_bytes - before_bytes if is_recorded else 0
        peak_bytes = max(arriving_bytes, denoising_bytes, live.peak + kept_bytes)
    return round(peak_bytes + LIBRARY_BYTES[work.device_type])


def _arriving_bytes(*networks: nn.Module) -> int:
    """Returns the bytes of all weights, and of the largest one while it changes its precision."""
    each = [weight.nbytes for network in networks for weight in network.parameters()]
    return sum(each) + max(each)


def _for_sampling(unet: nn.Module, work: Work) -> nn.Module:
    """Returns a UNet as it samples: on a GPU in the precision of its weights throughout."""
    unet = unet.eval().requires_grad_(False)
    if work.device_type == CUDA and is_replayable(unet):
        use_channels_last_norms(unet)
        if work.precision == BF16:
            for weight in unet.parameters():
                weight.data = weight.data.bfloat16()  # unet.bfloat16() cannot change counted ones
        return WholeUnet(unet)
    return unet


def _batch(spec: ModelSpec, work: Work) -> tuple[Tensor, Tensor]:
    """Returns latents ``(B, C, *S)`` and timesteps ``(B,)``."""
    return torch.zeros(work.batch_size, *spec.latent_shape), torch.zeros(work.batch_size)


class _NormsInFullPrecision(TorchFunctionMode):
    """Gives group normalisation fp32 inputs, as autocast does on a GPU and not on a CPU."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.group_norm, F.group_norm):
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def _norms(work: Work) -> AbstractContextManager[object]:
    is_widened = work.device_type == CUDA and work.precision == BF16
    return _NormsInFullPrecision() if is_widened else nullcontext()


def _heap(work: Work, hole_fraction: float) -> dict[str, Any]:
    """Returns what glibc's heap takes beside tensors; on a GPU torch hands out the memory."""
    if work.device_type != CPU:
        return {}
    return {"hole_fraction": hole_fraction, "kept_bytes": KEPT_HEAP_BYTES}


def _workspace(work: Work, *, is_training: bool) -> Workspace:
    if work.device_type == CUDA:
        return _gpu_workspace
    return partial(_cpu_workspace, is_training=is_training)


def _gpu_workspace(name: str, inputs: list[Tensor], _outputs: list[Tensor]) -> Used:
    """Returns the memory that cuDNN takes for fp32 volumes: that of a copy in another order.

    Measured on an H200; images of two axes, and bf16, took nothing of note.
    """
    is_copied = "conv" in name and inputs[0].ndim == 5 and inputs[0].dtype == torch.float32
    return Used(inputs[0].nbytes if is_copied else 0)


def _cpu_workspace(
    name: str, inputs: list[Tensor], outputs: list[Tensor], *, is_training: bool
) -> Used:
    """Returns the memory of a convolution's copies: its tensors in another order, or columns.

    oneDNN copies its tensors into the order that it computes in, unless its weights are packed;
    torch's own convolution copies each neighbourhood of an input into a column of a matrix. In a
    training an activation is placed in the hole that the matrix leaves, so that no later matrix has
    room in it.
    """
    if "conv" not in name or name == PACKED_CONVOLUTION:
        return Used()
    # a backward pass has the gradients of the outputs before the images
    first = 1 if name == "convolution_backward" else 0
    images, weights = inputs[first : first + 2]
    is_alone = images.dtype == torch.float32 and len(images) == 1
    if not is_alone or math.prod(images.shape[:4]) > MAX_OWN_CONVOLUTION_ELEMENTS:
        if first:
            return Used(sum(tensor.nbytes for tensor in (*inputs, *outputs)))
        # first a copy of the images, then one of the results
        return Used(max(images.nbytes, outputs[0].nbytes) + weights.nbytes)
    columns_bytes = math.prod(images.shape[2:]) * weights[0].numel() * images.element_size()
    is_lost = is_training and columns_bytes < MAX_HEAP_BYTES
    return Used(columns_bytes, round(LOST_COLUMNS_FRACTION * columns_bytes) if is_lost else 0)
