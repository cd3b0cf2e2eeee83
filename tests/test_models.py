"""Networks: both backends are one model, latents are standardised, codes lie where latents are."""

import json

import pytest
import torch
from generative.networks.nets.diffusion_model_unet import (
    DiffusionModelUNet as GenerativeUNet,
)
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

from ldm_project.config import BACKENDS
from ldm_project.diffusion.autoencoders import (
    decode,
    encode,
    quantise,
    standardise_latents,
    start_codebook,
    vectors_of,
)
from ldm_project.diffusion.models import (
    ModelSpec,
    build_discriminator,
    build_unet,
    build_vqgan,
    canonical_state,
    load_canonical_state,
    num_parameters,
    resolve_device,
)
from ldm_project.errors import InvalidInputError
from ldm_project.presets import PRESETS

SPECS = {2: ModelSpec(2, (64, 64), "tiny"), 3: ModelSpec(3, (16, 16, 16), "tiny")}
OTHER_BACKEND = {"core": "generative", "generative": "core"}


@pytest.fixture(params=(2, 3), ids=("2d", "3d"))
def spec(request):
    return SPECS[request.param]


def random_latents(spec, num=2):
    return torch.randn(num, *spec.latent_shape, generator=torch.Generator().manual_seed(1))


def randomised(network):
    """Fills a network with weights that let every part reach the output."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_unet_of_either_backend_computes_the_same_from_the_same_weights(spec, backend):
    ours = randomised(build_unet(spec, backend=backend))
    other = build_unet(spec, backend=OTHER_BACKEND[backend]).eval()
    load_canonical_state(other, canonical_state(ours))
    latents, timesteps = random_latents(spec), torch.tensor([3, 900])
    with torch.inference_mode():
        predicted = ours(latents, timesteps)
        assert predicted.abs().mean() > 0.01  # the comparison sees something
        torch.testing.assert_close(other(latents, timesteps), predicted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_vqgan_of_either_backend_computes_the_same_from_the_same_weights(spec, backend):
    ours = randomised(build_vqgan(spec, backend=backend))
    other = build_vqgan(spec, backend=OTHER_BACKEND[backend]).eval()
    load_canonical_state(other, canonical_state(ours))
    images = torch.rand(2, 1, *spec.size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        latents = encode(ours, images)
        torch.testing.assert_close(encode(other, images), latents)
        torch.testing.assert_close(decode(other, latents), decode(ours, latents))


def test_weights_survive_the_way_to_the_other_backend_and_back(spec):
    core = build_unet(spec)
    generative = build_unet(spec, backend="generative")
    load_canonical_state(generative, canonical_state(core))
    returned = canonical_state(generative)
    assert returned.keys() == core.state_dict().keys()
    assert all(torch.equal(returned[name], weight) for name, weight in core.state_dict().items())


def test_core_unet_with_its_default_output_projection_is_silently_wrong():
    """Why ``build_unet`` passes ``include_fc=False``: MONAI's own conversion does not notice."""
    widths = {
        "spatial_dims": 2,
        "in_channels": 8,
        "out_channels": 8,
        "num_res_blocks": 1,
        "attention_levels": (False, True),
        "norm_num_groups": 8,
        "num_head_channels": 32,
    }
    generative = randomised(GenerativeUNet(num_channels=(32, 64), **widths))
    latents, timesteps = random_latents(SPECS[2]), torch.tensor([3, 900])
    errors = {}
    for include_fc in (True, False):
        core = DiffusionModelUNet(channels=(32, 64), include_fc=include_fc, **widths).eval()
        core.load_old_state_dict(generative.state_dict())
        with torch.inference_mode():
            difference = core(latents, timesteps) - generative(latents, timesteps)
        errors[include_fc] = difference.abs().max().item()
    assert errors[False] < 1e-3 < errors[True]


def test_weights_of_other_dimensions_are_refused():
    with pytest.raises(ValueError, match=r"conv_in\.conv\.weight has shape \(32, 8, 3, 3, 3\)"):
        load_canonical_state(build_unet(SPECS[2]), canonical_state(build_unet(SPECS[3])))


def test_missing_weights_are_refused():
    state = canonical_state(build_unet(SPECS[2]))
    del state["conv_in.conv.bias"]
    with pytest.raises(ValueError, match=r"1 weights are missing or unknown, conv_in\.conv\.bias"):
        load_canonical_state(build_unet(SPECS[2]), state)


def test_latents_are_a_quarter_of_the_image_along_each_axis(spec):
    latents = encode(build_vqgan(spec), torch.zeros(2, 1, *spec.size))
    assert tuple(latents.shape[1:]) == spec.latent_shape
    assert spec.latent_shape[1:] == tuple(axis // 4 for axis in spec.size)
    assert decode(build_vqgan(spec), latents).shape == (2, 1, *spec.size)


@pytest.mark.slow
@pytest.mark.parametrize("model_size", [name for name in PRESETS if name != "tiny"])
@pytest.mark.parametrize("dims", [2, 3])
def test_networks_of_every_preset_fit_together(dims, model_size):
    spec = ModelSpec(dims, (64,) * dims, model_size)
    with torch.device("meta"):  # shapes only: the large ones would fill the memory
        latents = build_vqgan(spec).encode(torch.zeros(1, 1, *spec.size))
        predicted = build_unet(spec)(latents, torch.zeros(1))
        judged = build_discriminator(spec)(torch.zeros(1, 1, *spec.size))[-1]
    assert latents.shape[1:] == spec.latent_shape
    assert predicted.shape == latents.shape
    assert judged.numel() > 1  # one verdict per patch


@pytest.mark.slow
def test_larger_presets_have_more_weights():
    with torch.device("meta"):
        numbers = [num_parameters(build_unet(ModelSpec(2, (64, 64), size))) for size in PRESETS]
    assert numbers == sorted(set(numbers))


def test_decoding_is_limited_to_the_range_of_images(spec):
    vqgan = build_vqgan(spec)
    with torch.no_grad():
        vqgan.decoder.blocks[-1].conv.bias.fill_(7.0)
    assert decode(vqgan, random_latents(spec)).unique().tolist() == [1.0]


def test_quantising_gives_the_nearest_code_and_leaves_the_codebook_alone(spec):
    vqgan = build_vqgan(spec).train()  # in training mode MONAI's own quantiser moves its codes
    codes = vqgan.quantizer.quantizer.embedding.weight.clone()
    latents = random_latents(spec, num=1)
    quantised = quantise(vqgan, latents)[0].flatten(start_dim=1)[:, 0]
    for group in range(4):  # of two channels each
        vector = latents[0].flatten(start_dim=1)[2 * group : 2 * group + 2, 0]
        nearest = codes[(codes - vector).square().sum(dim=1).argmin()]
        torch.testing.assert_close(quantised[2 * group : 2 * group + 2], nearest)
    assert torch.equal(vqgan.quantizer.quantizer.embedding.weight, codes)


def num_used_codes(vqgan, latents):
    return len(vectors_of(vqgan, quantise(vqgan, latents)).unique(dim=0))


@pytest.mark.slow
def test_codebook_started_from_latents_is_used_and_a_random_one_is_not(spec):
    vqgan = build_vqgan(spec)
    latents = 5.0 + 0.1 * random_latents(spec, num=8)
    num_used_at_random = num_used_codes(vqgan, latents)
    start_codebook(vqgan, latents)
    assert num_used_at_random < 100
    assert num_used_codes(vqgan, latents) > 500  # of 512


def test_codebook_starts_even_when_there_are_fewer_vectors_than_codes():
    vqgan = build_vqgan(ModelSpec(2, (8, 8), "tiny"))
    latents = torch.randn(1, 8, 2, 2)
    start_codebook(vqgan, latents)
    torch.testing.assert_close(quantise(vqgan, latents), latents)


def test_standardised_latents_are_what_the_encoder_then_gives(spec):
    vqgan = randomised(build_vqgan(spec))
    # Zero padding is no latent of the scale before, so the border would differ.
    vqgan.decoder.blocks[0].conv.padding_mode = "replicate"
    images = torch.rand(4, 1, *spec.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = vqgan.encode(images)
        decoded = vqgan.decode(before)
        standardised = standardise_latents(vqgan, before)
        after = vqgan.encode(images)
    axes = (0, *range(2, after.ndim))
    torch.testing.assert_close(after, standardised, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(after.mean(axes), torch.zeros(8), atol=1e-3, rtol=0)
    torch.testing.assert_close(after.std(axes), torch.ones(8), atol=1e-3, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(vqgan.decode(after), decoded, rtol=1e-3, atol=1e-3)


def test_spec_survives_json(spec):
    assert ModelSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


def test_spec_refuses_a_size_that_cannot_be_halved():
    with pytest.raises(InvalidInputError, match="60 is not divisible by 8"):
        ModelSpec(2, (64, 60), "tiny")


def test_unknown_backend_is_refused(spec):
    with pytest.raises(InvalidInputError, match="backend is 'keras'; use one of core, generative"):
        build_unet(spec, backend="keras")


def test_unknown_device_is_refused():
    with pytest.raises(InvalidInputError, match="device is 'toaster'; use auto, cpu, cuda"):
        resolve_device("toaster")


def test_gpu_that_is_not_there_is_refused():
    with pytest.raises(InvalidInputError, match=r"device is 'cuda:99' but torch sees \d+ GPUs"):
        resolve_device("cuda:99")


def test_auto_device_is_a_gpu_where_there_is_one():
    assert resolve_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")
