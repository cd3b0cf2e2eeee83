"""Fused attention: equal to MONAI's block, under the same names, and in fp32 without gradients."""

import pytest
import torch
from monai.networks.blocks.spatialattention import SpatialAttentionBlock

from ldm_project.diffusion.cpu_attention import FusedAttention, fuse_attention, is_fusable
from ldm_project.diffusion.models import ModelSpec, build_unet


def block(dims=2, **options):
    torch.manual_seed(2)
    options = {"num_head_channels": 8, "include_fc": False, "use_flash_attention": True} | options
    return SpatialAttentionBlock(dims, 16, norm_num_groups=4, **options).eval()


@pytest.mark.parametrize("size", [(8, 8), (3, 5), (4, 4, 4), (24, 24)])  # the last one has too many
@pytest.mark.parametrize("batch_size", [1, 3])
def test_fused_attention_computes_what_the_block_does(size, batch_size):
    plain = block(len(size))
    images = 3 * torch.randn(batch_size, 16, *size)
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    with torch.inference_mode():
        fused = FusedAttention(plain)
        torch.testing.assert_close(fused(images), plain(images), rtol=1e-5, atol=1e-5)
        last = images.contiguous(memory_format=formats[images.ndim])
        torch.testing.assert_close(fused(last), plain(images), rtol=1e-5, atol=1e-5)


def test_blocks_that_do_more_are_left_alone():
    assert is_fusable(block())
    assert not is_fusable(block(include_fc=True))
    assert not is_fusable(block(attention_dtype=torch.float32))


def test_all_attention_of_a_unet_is_fused_under_the_same_names():
    unet = build_unet(ModelSpec(2, (64, 64), "tiny")).eval()
    names = list(unet.state_dict())
    fuse_attention(unet)
    assert list(unet.state_dict()) == names
    assert sum(isinstance(module, FusedAttention) for module in unet.modules()) == 4
    assert not any(isinstance(module, SpatialAttentionBlock) for module in unet.modules())


def test_fused_attention_still_has_gradients():
    plain, images = block(), torch.randn(1, 16, 4, 4)
    fused = FusedAttention(plain)(images)
    fused.sum().backward()
    assert plain.attn.to_v.weight.grad is not None
    torch.testing.assert_close(fused, plain(images))
