"""What makes a UNet quicker on a GPU computes the same: its norm, its precision, its recording."""

import copy

import pytest
import torch
from torch import nn

from ldm_project.diffusion.acceleration import autocast, prepared
from ldm_project.diffusion.gpu_sampling import (
    ChannelsLastNorm,
    ReplayedUnet,
    WholeUnet,
    is_replayable,
    use_channels_last_norms,
)
from ldm_project.diffusion.sampling import denoise, initial_noise
from tests.fakes.random_networks import SPECS, random_unet

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


def error_of(tensor, reference):
    return float((tensor.float() - reference).norm() / reference.norm())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("num_groups", [1, 4, 16])
def test_norm_is_that_of_torch_and_keeps_channels_last(dims, num_groups):
    torch.manual_seed(0)
    norm = nn.GroupNorm(num_groups, 16).requires_grad_(False)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    images = 3 + 2 * torch.randn(3, 16, *(6, 5, 4)[:dims])
    images[1] *= 10  # each image has sums of its own
    images = images.contiguous(memory_format=FORMATS[dims])
    normalised = ChannelsLastNorm(norm)(images)
    torch.testing.assert_close(normalised, norm(images), rtol=1e-4, atol=1e-4)
    assert normalised.is_contiguous(memory_format=FORMATS[dims])
    halved = ChannelsLastNorm(norm)(images.bfloat16())
    assert halved.dtype == torch.bfloat16
    assert error_of(halved, norm(images)) < 0.01


def test_norms_of_a_network_are_replaced_and_weights_keep_their_names():
    unet = random_unet(SPECS[2])
    names = list(unet.state_dict())
    use_channels_last_norms(unet)
    assert list(unet.state_dict()) == names
    assert not any(isinstance(module, nn.GroupNorm) for module in unet.modules())


@pytest.mark.parametrize("dims", [2, 3])
def test_half_precision_throughout_errs_no_more_than_autocast(dims):
    spec, cpu = SPECS[dims], torch.device("cpu")
    unet = random_unet(spec)
    latents, timesteps = torch.randn(2, *spec.latent_shape), torch.tensor([3, 900])
    with torch.inference_mode():
        exact = unet(latents, timesteps)
        with autocast(cpu, "bf16"):
            cast = unet(latents, timesteps)
        halved = copy.deepcopy(unet).bfloat16()
        use_channels_last_norms(halved)
        with autocast(cpu, "bf16"):  # which it leaves
            whole = WholeUnet(halved)(latents, timesteps)
    assert whole.dtype == torch.bfloat16
    assert 0 < error_of(whole, exact) < max(0.02, 1.5 * error_of(cast, exact))


def test_only_monais_unet_is_replayed():
    assert is_replayable(random_unet(SPECS[2]))
    assert not is_replayable(nn.Conv2d(1, 1, 1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can record")
def test_what_cannot_be_recorded_is_computed_and_said_once():
    spec = SPECS[2]
    unet = random_unet(spec)
    noise = initial_noise(spec, range(2), seed=0)
    *_, plain = denoise(unet, noise, sampler="ddim", steps=4)
    with pytest.warns(UserWarning, match="cannot be recorded") as told:
        *_, replayed = denoise(ReplayedUnet(WholeUnet(unet)), noise, sampler="ddim", steps=4)
    assert sum("recorded" in str(each.message) for each in told) == 1
    torch.testing.assert_close(replayed.latents, plain.latents)


@on_a_gpu
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_unet_samples_what_the_plain_one_samples(dims, precision):
    spec = SPECS[dims]
    unet = random_unet(spec).to("cuda")
    quick = prepared(copy.deepcopy(unet), precision=precision, is_compiled=False)
    assert isinstance(quick, ReplayedUnet)
    samples = {}
    for name, network in (("plain", unet), ("quick", quick)):
        for num_images in (2, 1, 2):  # another shape is recorded apart, and both are kept
            noise = initial_noise(spec, range(num_images), seed=0)
            steps = denoise(network, noise, sampler="ddpm", steps=20, precision=precision)
            *_, last = [step.latents for step in steps]
            samples.setdefault(name, []).append(last)
    for plain, recorded in zip(samples["plain"], samples["quick"], strict=True):
        assert error_of(recorded, plain) < (0.05 if precision == "bf16" else 0.01)
    torch.testing.assert_close(samples["quick"][0], samples["quick"][2])
