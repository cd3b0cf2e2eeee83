"""Convolutions of trained networks on a CPU: the same results in fp32 for less CPU time.

oneDNN, which computes them, is fastest with channels last and with weights in an order of its own,
which torch otherwise makes anew in every call. And torch leaves a volume that is alone in its batch
to a convolution that takes up to ten times as long.
"""

import itertools
from typing import Any, TypeAlias, cast

import torch
from monai.networks.blocks.upsample import Upsample
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

MEMORY_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
# Above it, ordering the weights takes no time beside the arithmetic, and a copy much memory.
MAX_PACKED_WEIGHTS = 2**24

Convolution: TypeAlias = nn.Conv2d | nn.Conv3d


class PackedConvolution(nn.Module):
    """A convolution with the weights of another one, which are packed at the first call.

    It computes as the other one does where gradients or another precision are asked for.

    Args:
        convolution: on a CPU; its weights must not change any more.
    """

    def __init__(self, convolution: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias  # as a checkpoint names them
        self._plain = (convolution,)  # in a tuple, so that its weights are not listed twice
        self._packed: _Packed | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(B, C', *S')``, channels last, of images ``(B, C, *S)``."""
        if not _is_plain_fp32(images):
            result: Tensor = self._plain[0](images)
            return result
        if self._packed is None:
            self._packed = _Packed(self.weight, self.bias, images, way=_way(self._plain[0]))
        return self._packed(images)


class FoldedUpsample(nn.Module):
    """Doubles an image by repeating its voxels and convolves it, without the double image.

    Of the 3 voxels along an axis that the convolution reads, 2 repeat the same one, so their
    weights are added up. Each of the 2^d voxels that one becomes has a kernel of 2^d weights for
    itself, in place of 3^d: 2.25 times less arithmetic in 2D, 3.4 times less in 3D.

    Args:
        upsample: MONAI's, on a CPU, as ``is_foldable`` asks; its weights must not change any more.
    """

    def __init__(self, upsample: Upsample) -> None:
        super().__init__()
        self.postconv = cast(Any, upsample).postconv  # as a checkpoint names it
        self._plain = (upsample,)  # in a tuple, so that its weights are not listed twice
        self._packed: _Packed | None = None

    def forward(self, images: Tensor, *_: Tensor) -> Tensor:
        """Returns ``(B, C', *2S)`` of images ``(B, C, *S)``; of a timestep's embedding nothing."""
        if not _is_plain_fp32(images):
            result: Tensor = self._plain[0](images)
            return result
        num_parts = 2 ** (images.ndim - 2)
        if self._packed is None:
            convolution = self.postconv.conv
            weight, bias = folded_kernels(convolution.weight), convolution.bias
            bias = None if bias is None else bias.repeat(num_parts)
            self._packed = _Packed(weight, bias, images, way=_way(convolution))
        together = self._packed(images)
        return _interleaved(together, num_channels=together.shape[1] // num_parts)


class _Packed:
    """A convolution by oneDNN's own order of weights.

    Args:
        weight: ``(C', C, ...)``.
        bias: ``(C',)``.
        images: the first ones; others may have another size.
        way: padding, stride, dilation and number of groups.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, images: Tensor, *, way: tuple[Any, ...]
    ) -> None:
        self._weight = _reordered(weight.detach(), images, way)
        self._bias, self._way, self._format = bias, way, MEMORY_FORMATS[images.ndim - 2]

    def __call__(self, images: Tensor) -> Tensor:
        """Returns ``(B, C', *S')``, channels last, of ``(B, C, *S)``."""
        ordered = images.contiguous(memory_format=self._format)
        convolve = torch.ops.mkldnn._convolution_pointwise
        result: Tensor = convolve(ordered, self._weight, self._bias, *self._way, "none", [], "")
        return result


def _reordered(weight: Tensor, images: Tensor, way: tuple[Any, ...]) -> Tensor:
    """Returns a copy of a weight in oneDNN's order; one without data has no order."""
    if isinstance(weight, FakeTensor):
        return weight.clone()
    functions: Any = torch._C._nn
    reorder = {4: "mkldnn_reorder_conv2d_weight", 5: "mkldnn_reorder_conv3d_weight"}[images.ndim]
    reordered: Tensor = getattr(functions, reorder)(weight.to_mkldnn(), *way, list(images.shape))
    return reordered


def pack_convolutions(network: nn.Module) -> None:
    """Replaces, in place, the convolutions of a trained network by faster ones.

    The names of the weights stay, so the network can be saved. Nothing happens on a GPU, and to
    networks whose weights are many.
    """
    weights = list(network.parameters())
    is_on_cpu = all(weight.device.type == "cpu" for weight in weights)
    if not is_on_cpu or not _has_onednn() or sum(map(Tensor.numel, weights)) > MAX_PACKED_WEIGHTS:
        return
    _replace_in(network)


def _replace_in(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, Upsample) and is_foldable(child):
            setattr(module, name, FoldedUpsample(child))
        elif type(child) in (nn.Conv2d, nn.Conv3d) and is_packable(cast(Convolution, child)):
            setattr(module, name, PackedConvolution(cast(Convolution, child)))
        else:
            _replace_in(child)


def is_packable(convolution: Convolution) -> bool:
    """Returns whether a convolution pads with a number of zeros, which is all that is replaced."""
    return convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)


def is_foldable(upsample: Upsample) -> bool:
    """Returns whether MONAI's block repeats each voxel once along each axis, and then convolves."""
    children = dict(upsample.named_children())
    doubling = children.get("upsample_non_trainable")
    convolution = getattr(children.get("postconv"), "conv", None)
    if len(children) != 2 or not isinstance(convolution, nn.Conv2d | nn.Conv3d):
        return False
    factors = getattr(doubling, "scale_factor", None)
    return (
        getattr(doubling, "mode", None) == "nearest"
        and all(factor == 2 for factor in (factors if isinstance(factors, tuple) else (factors,)))
        and is_packable(convolution)
        and set(convolution.kernel_size) == {3}
        and set(convolution.stride) == set(convolution.dilation) == {1}
        and set(convolution.padding) == {1}
        and convolution.groups == 1
    )


def folded_kernels(weight: Tensor) -> Tensor:
    """Returns the kernels ``(2^d·C', C, 2, ..)`` for repeated voxels, of ``(C', C, 3, ..)``.

    The first C' are for the first of the voxels that each one becomes, along every axis; the last
    axis changes fastest.
    """
    kernels = []
    for offsets in itertools.product((0, 1), repeat=weight.ndim - 2):
        kernel = weight
        for axis, offset in enumerate(offsets, start=2):
            before, at, after = kernel.unbind(axis)
            # the first voxel's neighbours are the one before and its own double; see the class
            pair = (before, at + after) if offset == 0 else (before + at, after)
            kernel = torch.stack(pair, axis)
        kernels.append(kernel)
    return torch.cat(kernels)


def _interleaved(together: Tensor, *, num_channels: int) -> Tensor:
    """Returns ``(B, C, *2S)`` of ``(B, 2^d·C, *S + 1)``, the results of ``folded_kernels``."""
    batch_size, _, *axes = together.shape
    sides = [axis - 1 for axis in axes]
    images = torch.empty(
        (batch_size, num_channels, *(2 * side for side in sides)),
        dtype=together.dtype,
        memory_format=MEMORY_FORMATS[len(sides)],
    )
    all_offsets = itertools.product((0, 1), repeat=len(sides))
    for offsets, part in zip(all_offsets, together.chunk(2 ** len(sides), dim=1), strict=True):
        for axis, (offset, side) in enumerate(zip(offsets, sides, strict=True), start=2):
            part = part.narrow(axis, offset, side)
        places = [slice(None)] * 2 + [slice(offset, None, 2) for offset in offsets]
        images[tuple(places)] = part
    return images


def _has_onednn() -> bool:
    """Returns whether torch has what its own compiler calls for a packed convolution."""
    return hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _is_plain_fp32(images: Tensor) -> bool:
    """Returns whether fp32 is to be computed, without gradients."""
    return (
        images.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _way(convolution: Convolution) -> tuple[Any, ...]:
    """Returns padding, stride, dilation and number of groups, in oneDNN's order."""
    axes = (convolution.padding, convolution.stride, convolution.dilation)
    return (*(list(cast(tuple[int, ...], numbers)) for numbers in axes), convolution.groups)
