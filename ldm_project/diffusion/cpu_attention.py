"""Attention among few positions on a CPU: the three projections at once, and no copies."""

import math
from typing import Any, cast

import torch
from monai.networks.blocks.spatialattention import SpatialAttentionBlock
from torch import Tensor, nn

# Up to it the matrix of all pairs of positions stays in the cache; above, torch's kernel is faster.
MAX_POSITIONS = 256


class FusedAttention(nn.Module):
    """Self-attention over all positions, with the weights of MONAI's block.

    It computes as the block does where gradients or another precision are asked for.

    Args:
        block: MONAI's, on a CPU, as ``is_fusable`` asks; its weights must not change any more.
    """

    def __init__(self, block: SpatialAttentionBlock) -> None:
        super().__init__()
        self.norm, self.attn = block.norm, block.attn  # as a checkpoint names them
        self._plain = (block,)  # in a tuple, so that its weights are not listed twice
        self._together: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Returns ``(B, C, *S)`` of images ``(B, C, *S)``."""
        batch_size, num_channels, *axes = images.shape
        is_plain = images.dtype == torch.float32 and not (
            torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
        )
        if not is_plain or math.prod(axes) > MAX_POSITIONS:
            result: Tensor = self._plain[0](images)
            return result
        if self._together is None:
            self._together = _together(self.attn)
        weight, bias = self._together
        positions = self.norm(images).reshape(batch_size, num_channels, -1)
        projected = torch.baddbmm(bias, weight.expand(batch_size, -1, -1), positions)
        # (B·heads, C / heads, N) each: channels of a head lie beside each other
        queries, keys, values = (
            part.reshape(batch_size * self.attn.num_heads, -1, positions.shape[-1])
            for part in projected.chunk(3, dim=1)
        )
        shares = torch.bmm(queries.transpose(1, 2), keys).softmax(dim=-1)
        attended = torch.bmm(values, shares.transpose(1, 2))
        return attended.reshape(images.shape) + images


def fuse_attention(network: nn.Module) -> None:
    """Replaces, in place, the attention of a trained network on a CPU; its weights' names stay."""
    if any(weight.device.type != "cpu" for weight in network.parameters()):
        return
    for name, child in list(network.named_children()):
        if isinstance(child, SpatialAttentionBlock) and is_fusable(child):
            setattr(network, name, FusedAttention(child))
        else:
            fuse_attention(child)


def is_fusable(block: SpatialAttentionBlock) -> bool:
    """Returns whether MONAI's block only projects, attends and adds."""
    attention: Any = block.attn
    return not (
        attention.include_fc
        or attention.use_combined_linear
        or attention.causal
        or attention.dropout_rate
        or attention.attention_dtype is not None
        or attention.rel_positional_embedding is not None
    )


def _together(attention: nn.Module) -> tuple[Tensor, Tensor]:
    """Returns weights ``(1, 3C, C)`` and biases ``(1, 3C, 1)`` for queries, keys and values."""
    layers = [getattr(attention, f"to_{name}") for name in "qkv"]
    scales = (cast(Any, attention).scale, 1.0, 1.0)  # queries are scaled once, before the product
    weights, biases = (
        torch.cat(
            [getattr(layer, name) * scale for layer, scale in zip(layers, scales, strict=True)]
        )
        for name in ("weight", "bias")
    )
    return weights[None], biases[None, :, None]
