"""Both backends are one model: the same weights give the same output, in 2D and 3D."""

import pytest
import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

from ldm_project.config import PRESETS
from ldm_project.errors import InvalidInputError
from ldm_project.models import (
    ModelSpec,
    build_discriminator,
    build_unet,
    build_vqgan,
    canonical_state,
    decode,
    encode,
    load_canonical_state,
    num_parameters,
    resolve_device,
)

SPECS = {2: ModelSpec(2, (32, 32), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}

pytestmark = pytest.mark.filterwarnings("ignore:.*autocast:FutureWarning")


def randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Fills every weight: layers that start at zero would hide a difference."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("source", ["core", "generative"])
def test_unets_of_both_backends_agree_on_the_same_weights(dims, source):
    spec = SPECS[dims]
    other = "generative" if source == "core" else "core"
    first = randomised(build_unet(spec, backend=source))
    second = build_unet(spec, backend=other).eval()
    load_canonical_state(second, canonical_state(first))
    latents = torch.randn(2, *spec.latent_shape)
    timesteps = torch.tensor([3, 900])
    with torch.inference_mode():
        assert torch.allclose(first(latents, timesteps), second(latents, timesteps), atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_vqgans_of_both_backends_agree_on_the_same_weights(dims):
    spec = SPECS[dims]
    first = randomised(build_vqgan(spec, backend="core"))
    second = build_vqgan(spec, backend="generative").eval()
    load_canonical_state(second, canonical_state(first))
    images = torch.rand(2, 1, *spec.size) * 2 - 1
    with torch.inference_mode():
        assert torch.allclose(encode(first, images), encode(second, images), atol=1e-5)
        latents = encode(first, images)
        assert torch.allclose(decode(first, latents), decode(second, latents), atol=1e-5)


def test_old_weights_in_a_core_unet_with_output_projection_are_silently_wrong():
    # Why build_unet passes include_fc=False. Should MONAI mend this, that argument may go.
    spec = SPECS[2]
    old = randomised(build_unet(spec, backend="generative"))
    widths = spec.widths
    core = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=widths.latent_channels,
        out_channels=widths.latent_channels,
        num_res_blocks=widths.unet_num_res_blocks,
        channels=widths.unet_channels,
        attention_levels=widths.unet_attention_levels,
        num_head_channels=widths.unet_num_head_channels,
        norm_num_groups=8,
        include_fc=True,
    ).eval()
    core.load_old_state_dict(dict(old.state_dict()))
    latents, timesteps = torch.randn(1, *spec.latent_shape), torch.tensor([500])
    with torch.inference_mode():
        assert not torch.allclose(core(latents, timesteps), old(latents, timesteps), atol=1e-2)


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes_are_those_of_the_spec(dims):
    spec = SPECS[dims]
    vqgan = build_vqgan(spec).eval()
    images = torch.rand(2, 1, *spec.size)
    with torch.inference_mode():
        latents = encode(vqgan, images)
        assert latents.shape == (2, *spec.latent_shape)
        assert decode(vqgan, latents).shape == images.shape
        assert decode(vqgan, 100 * latents).abs().max() <= 1
        assert build_discriminator(spec)(images)[-1].shape[:2] == (2, 1)


def test_latents_are_a_quarter_of_the_image_on_each_axis():
    assert SPECS[2].latent_shape == (4, 8, 8)
    assert ModelSpec(3, (256, 256, 192), "medium").latent_shape == (8, 64, 64, 48)


def test_weights_of_another_size_are_refused():
    small = ModelSpec(2, (32, 32), "small")
    with pytest.raises(ValueError, match=r"weights are missing or unknown|has shape"):
        load_canonical_state(build_unet(small), canonical_state(build_unet(SPECS[2])))


@pytest.mark.parametrize("dims", [2, 3])
def test_larger_presets_have_more_parameters(dims):
    size = (64,) * dims
    with torch.device("meta"):
        counts = [num_parameters(build_unet(ModelSpec(dims, size, name))) for name in PRESETS]
    assert counts == sorted(counts)
    assert len(set(counts)) == len(counts)


def test_spec_survives_json():
    for spec in SPECS.values():
        assert ModelSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("build", [build_vqgan, build_unet])
def test_unknown_backend_is_refused(build):
    with pytest.raises(InvalidInputError, match="backend is 'jax'; use one of core, generative"):
        build(SPECS[2], backend="jax")


def test_device_that_is_not_there_is_refused():
    with pytest.raises(InvalidInputError, match="use auto, cpu"):
        resolve_device("toaster")
    with pytest.raises(InvalidInputError, match="torch sees"):
        resolve_device("cuda:99")
    assert resolve_device("cpu").type == "cpu"
