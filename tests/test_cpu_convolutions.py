"""Packed convolutions: equal to the plain ones, by every road, and never in a precision's way."""

import pytest
import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.blocks.upsample import Upsample
from torch import nn

from ldm_project.diffusion.acceleration import hasten_on_cpu
from ldm_project.diffusion.cpu_attention import FusedAttention
from ldm_project.diffusion.cpu_convolutions import (
    FoldedUpsample,
    PackedConvolution,
    folded_kernels,
    is_foldable,
    pack_convolutions,
)
from ldm_project.diffusion.models import ModelSpec, build_unet, build_vqgan
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise

SPECS = {2: ModelSpec(2, (64, 64), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}


def random_networks(spec, seed=0):
    """Returns the two networks of a model, with a UNet that does not predict zero."""
    torch.manual_seed(seed)
    unet = build_unet(spec)
    for convolution in (m.conv2.conv for m in unet.modules() if hasattr(m, "conv2")):
        nn.init.normal_(convolution.weight, std=0.05)  # MONAI starts them at zero
    nn.init.normal_(unet.out[2].conv.weight, std=0.1)
    return unet.eval().requires_grad_(False), build_vqgan(spec).eval().requires_grad_(False)


def sampled(spec, unet, vqgan, **options):
    steps = denoise(
        unet, initial_noise(spec, range(3), seed=7), sampler="unipc", steps=4, **options
    )
    for step in steps:
        latents = step.latents
    return decode_samples(vqgan, latents, 1.0)


def doubling(dims, *, kernel_size=3, mode="nearest"):
    convolution = Convolution(
        dims, 3, 5, strides=1, kernel_size=kernel_size, padding=kernel_size // 2, conv_only=True
    )
    return Upsample(
        dims,
        3,
        3,
        scale_factor=2.0,
        mode="nontrainable",
        interp_mode=mode,
        align_corners=None,
        post_conv=convolution,
    ).requires_grad_(False)


@pytest.mark.parametrize("dims", [2, 3])
def test_folded_kernels_are_sums_of_the_weights_that_read_one_voxel(dims):
    kernels = folded_kernels(torch.ones(1, 1, *[3] * dims))
    assert kernels.shape == (2**dims, 1, *[2] * dims)
    # first voxel along an axis: (1, 1 + 1); second: (1 + 1, 1); the axes multiply
    along = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert torch.equal(kernels[1, 0].flatten()[:2], torch.tensor([2.0, 1.0]))  # last axis, second
    expected = along
    for _ in range(dims - 1):
        expected = torch.einsum("ia,jb->ijab", expected.flatten(1), along).reshape(
            -1, expected[0].numel() * 2
        )
    assert torch.equal(kernels.flatten(1), expected)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (8, 4, 6)])
@pytest.mark.parametrize("dims", [2, 3])
def test_folded_upsampling_is_repeating_and_convolving(dims, size):
    torch.manual_seed(1)
    upsample, images = doubling(dims), torch.randn(2, 3, *size[:dims])
    with torch.inference_mode():
        torch.testing.assert_close(
            FoldedUpsample(upsample)(images), upsample(images), rtol=1e-5, atol=1e-5
        )


def test_only_the_doubling_that_the_kernels_are_for_is_folded():
    assert is_foldable(doubling(2))
    assert not is_foldable(doubling(2, kernel_size=5))
    assert not is_foldable(doubling(2, mode="bilinear"))
    assert not is_foldable(Upsample(2, 3, 3, scale_factor=2, mode="deconv"))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=False),
        nn.Conv2d(4, 6, 1),
        nn.Conv3d(4, 6, 3, padding=1),
        nn.Conv3d(4, 6, (3, 1, 2), padding=(1, 0, 1), groups=2),
        nn.Conv3d(4, 1, 3, dilation=2),
    ],
)
def test_packed_convolution_computes_the_same_in_batches_of_any_size(convolution, batch_size):
    convolution.requires_grad_(False)
    packed = PackedConvolution(convolution)
    dims = convolution.weight.ndim - 2
    with torch.inference_mode():
        for side in (9, 6):  # the second size meets weights packed for the first
            images = torch.randn(batch_size, 4, *[side] * dims)
            torch.testing.assert_close(packed(images), convolution(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dims", [2, 3])
def test_samples_of_hastened_networks_are_those_of_plain_ones(dims, seed):
    spec = SPECS[dims]
    plain = sampled(spec, *random_networks(spec, seed))
    unet, vqgan = random_networks(spec, seed)
    hasten_on_cpu(unet, vqgan, dims=dims)
    assert sum(isinstance(module, FusedAttention) for module in unet.modules()) == 4
    assert any(isinstance(module, PackedConvolution) for module in unet.modules()) == (dims == 3)
    assert sum(isinstance(module, FoldedUpsample) for module in vqgan.modules()) == 2
    found = sampled(spec, unet, vqgan)
    # one latent in hundreds may lie between two codes; the mean is of the images' range of 2
    assert (found - plain).abs().mean() < 1e-4
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-3)


def test_packed_networks_keep_the_names_of_their_weights():
    for network in random_networks(SPECS[2]):
        before = {name: weight.clone() for name, weight in network.state_dict().items()}
        pack_convolutions(network)
        after = network.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_packed_network_computes_bf16_as_the_plain_one_does():
    spec = SPECS[2]
    plain = sampled(spec, *random_networks(spec), precision="bf16")
    unet, vqgan = random_networks(spec)
    hasten_on_cpu(unet, build_vqgan(spec), dims=2)
    pack_convolutions(unet)
    assert torch.equal(sampled(spec, unet, vqgan, precision="bf16"), plain)


def test_packed_network_still_has_gradients():
    convolution = nn.Conv2d(2, 3, 3)
    images = torch.randn(1, 2, 5, 5, requires_grad=True)
    PackedConvolution(convolution)(images).sum().backward()
    assert images.grad is not None
    assert convolution.weight.grad is not None


def test_networks_with_many_weights_are_left_alone():
    network = nn.Sequential(nn.Conv2d(4096, 4100, 1, device="meta").to_empty(device="cpu"))
    pack_convolutions(network)
    assert type(network[0]) is nn.Conv2d
