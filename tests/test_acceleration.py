"""What is quicker computes the same: precision by device and size, order of weights, compiler."""

import copy

import pytest
import torch
from torch import nn

from ldm_project.diffusion.acceleration import (
    channels_last,
    prepared,
    resolve_precision,
    resolve_vqgan_precision,
)
from ldm_project.diffusion.models import ModelSpec
from ldm_project.errors import InvalidInputError
from tests.fakes.random_networks import SPECS, random_unet


def predict(unet, spec):
    latents = torch.randn(2, *spec.latent_shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return unet(latents, torch.tensor([3, 900]))


CPU = torch.device("cpu")


def test_precision_that_is_asked_for_is_taken():
    assert resolve_precision("bf16", CPU, SPECS[2]) == "bf16"
    assert resolve_precision("fp32", CPU, ModelSpec(2, (64, 64), "large")) == "fp32"


def test_tiny_stays_in_fp32_on_a_cpu():
    assert resolve_precision(None, CPU, SPECS[2]) == "fp32"


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (64, 64, 64)])
def test_larger_networks_take_bf16_where_the_cpu_has_instructions_for_it(size):
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any("bf16" in name and has for name, has in capabilities.items())
    expected = "bf16" if has_bf16 else "fp32"
    assert resolve_precision(None, CPU, ModelSpec(len(size), size, "medium")) == expected


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_vqgan_takes_bf16_even_in_tiny_where_the_cpu_has_instructions_for_it(size):
    spec = ModelSpec(len(size), size, "tiny")
    capabilities = torch.cpu.get_capabilities()
    has_bf16 = any("bf16" in name and has for name, has in capabilities.items())
    assert resolve_vqgan_precision(None, CPU, spec) == ("bf16" if has_bf16 else "fp32")
    assert resolve_vqgan_precision("fp32", CPU, spec) == "fp32"


def test_vqgan_of_volumes_with_latents_too_small_for_bf16_is_kept_from_it():
    assert resolve_vqgan_precision(None, CPU, ModelSpec(3, (8, 16, 16), "tiny")) == "fp32"


# A quarter of 32, halved twice by medium, is 2 at the coarsest level; of tiny's 16, halved once.
@pytest.mark.parametrize(
    "spec", [ModelSpec(3, (64, 64, 32), "medium"), ModelSpec(3, (16, 32, 32), "tiny")]
)
def test_volumes_that_a_cpu_computes_wrongly_in_bf16_are_kept_from_it(spec):
    assert resolve_precision(None, CPU, spec) == "fp32"
    with pytest.raises(InvalidInputError, match=r"volumes as small as .* use precision=fp32"):
        resolve_precision("bf16", CPU, spec)
    assert resolve_precision("bf16", torch.device("cuda"), spec) == "bf16"


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_moves_weights_and_changes_no_prediction(dims):
    spec = SPECS[dims]
    unet = random_unet(spec)
    moved = copy.deepcopy(unet)
    channels_last(moved)
    weight = moved.conv_in.conv.weight
    order = {2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    assert weight.is_contiguous(memory_format=order)
    assert not weight.is_contiguous()
    torch.testing.assert_close(predict(moved, spec), predict(unet, spec), rtol=1e-4, atol=1e-4)


def test_unet_is_left_alone_on_a_cpu_unless_compiled():
    unet = random_unet(SPECS[2])
    assert prepared(unet, precision="bf16", is_compiled=False) is unet


@pytest.mark.slow
def test_compiled_network_computes_the_same():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.SiLU()).eval()
    latents = torch.randn(2, 4, 8, 8)
    compiled = prepared(network, precision="fp32", is_compiled=True)
    assert compiled is not network
    torch.testing.assert_close(compiled(latents), network(latents), rtol=1e-4, atol=1e-4)
