"""The vector quantiser: as MONAI's own computes it, without dead codes, in groups of channels."""

import copy

import pytest
import torch
from monai.networks.layers.vector_quantizer import EMAQuantizer

from ldm_project.diffusion.autoencoders import (
    ResidualVqgan,
    ResidualWidths,
    latents_of,
    quantise,
    restart_unused_codes,
    start_codebook,
    vectors_of,
)

WIDTHS = ResidualWidths(
    channels=(8, 8, 8),
    num_res_blocks=1,
    num_norm_groups=2,
    latent_channels=4,
    num_codes=16,
    num_code_groups=2,
)


def vqgan_of(dims):
    torch.manual_seed(0)
    return ResidualVqgan(dims, WIDTHS)


def latents_in(dims, num=3):
    return torch.randn(num, 4, *(4,) * dims, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dims", [2, 3])
def test_quantiser_computes_what_monais_own_does(dims):
    """MONAI's quantiser has no groups: it is given each group as an image of its own."""
    vqgan, latents = vqgan_of(dims).train(), latents_in(dims).requires_grad_()
    monai: EMAQuantizer = copy.deepcopy(vqgan.quantizer.quantizer)
    images = latents.detach().reshape(6, 2, *(4,) * dims).requires_grad_()
    expected, expected_loss, _ = monai(images)
    found, loss = vqgan.quantize(latents)
    torch.testing.assert_close(found, expected.reshape(found.shape))
    torch.testing.assert_close(loss, expected_loss)
    for name, tensor in monai.state_dict().items():  # the codes have followed their vectors
        torch.testing.assert_close(vqgan.quantizer.quantizer.state_dict()[name], tensor)
    (2 * found.sum() + loss).backward()
    (2 * expected.sum() + expected_loss).backward()
    torch.testing.assert_close(latents.grad, images.grad.reshape(latents.shape))


@pytest.mark.parametrize("dims", [2, 3])
def test_vectors_come_back_as_the_latents_they_were(dims):
    latents = latents_in(dims)
    vectors = vectors_of(vqgan_of(dims), latents)
    assert vectors.shape == (3 * 4**dims * 2, 2)
    assert torch.equal(
        vectors[1], latents[0, 2:].flatten(start_dim=1)[:, 0]
    )  # the second group of one place
    assert torch.equal(latents_of(vectors, latents), latents)


def test_codes_do_not_move_outside_training():
    vqgan = vqgan_of(2).eval()
    before = copy.deepcopy(vqgan.quantizer.quantizer.state_dict())
    vqgan.quantize(latents_in(2))
    after = vqgan.quantizer.quantizer.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_unused_codes_restart_where_vectors_are_and_the_others_stay():
    vqgan, latents = vqgan_of(2).train(), latents_in(2)
    start_codebook(vqgan, latents)
    codebook = vqgan.quantizer.quantizer
    with torch.no_grad():
        codebook.embedding.weight[3:] = 100.0  # far away from every vector
        codebook.ema_w[3:] = 100.0
    for _ in range(100):
        vqgan.quantize(latents)
    kept = codebook.embedding.weight[:3].clone()
    assert restart_unused_codes(vqgan, latents, torch.Generator().manual_seed(0)) == 13
    assert torch.equal(codebook.embedding.weight[:3], kept)
    vectors = {tuple(vector) for vector in vectors_of(vqgan, latents).tolist()}
    assert {tuple(code) for code in codebook.embedding.weight[3:].tolist()} <= vectors
    error = (quantise(vqgan, latents) - latents).square().mean()
    assert error < 0.5 * latents.square().mean()
    vqgan.quantize(latents)
    again = restart_unused_codes(vqgan, latents, torch.Generator().manual_seed(0))
    assert again < 13  # most are in use now


def test_residual_vqgan_is_what_inferers_of_monai_ask_for():
    vqgan = vqgan_of(2).eval()
    images = torch.rand(2, 1, 16, 16)
    with torch.inference_mode():
        stage_2 = vqgan.encode_stage_2_inputs(images)
        torch.testing.assert_close(stage_2, quantise(vqgan, vqgan.encode(images)))
        torch.testing.assert_close(
            vqgan.decode_stage_2_outputs(stage_2), vqgan.decode(stage_2), rtol=1e-4, atol=1e-5
        )
