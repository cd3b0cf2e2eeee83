"""Tiles: they overlap by what a voxel depends on, so that they join without a seam."""

from dataclasses import replace

import pytest
import torch

from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.diffusion.autoencoders import decode
from ldm_project.diffusion.models import ModelSpec, build_discriminator, build_vqgan
from ldm_project.diffusion.tiled_decoding import decode_in_tiles, decoder_reach
from ldm_project.diffusion.vqgan_training import VqganTraining, train_vqgan
from ldm_project.presets import PRESETS, STRIDED

TRAINED_SIZE = {2: (32, 32), 3: (16, 16, 16)}
LATENT_AXES = {2: (40, 28), 3: (20, 10, 10)}  # images of 160×112 and 80×40×40
MAX_VOXELS = {2: 2**13, 3: 100_000}


# The strided autoencoders of version 1, which older checkpoints hold.
STRIDED_WIDTHS = {
    name: replace(
        PRESETS[name],
        autoencoder=STRIDED,
        vqgan_channels=channels,
        num_code_groups=1,
        vqgan_num_norm_groups=0,
    )
    for name, channels in (("tiny", (64,)), ("small", (64, 128)))
}


@pytest.fixture(scope="module", params=(2, 3), ids=("2d", "3d"))
def trained(request):
    """A tiny VQ-GAN after a few iterations, and larger latents than it was trained on."""
    dims = request.param
    spec = ModelSpec(dims, TRAINED_SIZE[dims], "tiny", preset=STRIDED_WIDTHS["tiny"])
    torch.manual_seed(0)
    vqgan = build_vqgan(spec)
    scans = open_scans(DataSpec("phantom", spec.size, num_phantoms=8))
    images = batches(scans, batch_size=2)
    for _ in train_vqgan(VqganTraining(vqgan, build_discriminator(spec), iterations=12), images):
        pass
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, spec.widths.latent_channels, *LATENT_AXES[dims], generator=generator)
    return vqgan.requires_grad_(False), latents


def changed_by(vqgan, latents, at):
    """Which pixels of the first axis change when the latents at one place of it do."""
    other = latents.clone()
    other[:, :, at] += 3.0
    before, after = vqgan.decode(latents), vqgan.decode(other)
    return (before != after).movedim(2, 0).flatten(start_dim=1).any(dim=1).nonzero()


@pytest.mark.slow
def test_tiles_join_to_the_same_images_as_decoding_at_once(trained):
    vqgan, latents = trained
    whole = decode(vqgan, latents)
    tiled = decode_in_tiles(vqgan, latents, max_voxels=MAX_VOXELS[latents.ndim - 2])
    assert tiled.shape == whole.shape
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_no_tile_is_larger_than_asked_for(trained):
    vqgan, latents = trained
    max_voxels, decoded = MAX_VOXELS[latents.ndim - 2], []
    hook = vqgan.decoder.register_forward_hook(lambda *call: decoded.append(call[2].numel()))
    decode_in_tiles(vqgan, latents, max_voxels=max_voxels)
    hook.remove()
    assert len(decoded) > 2  # more than one tile for each image
    assert max(decoded) <= max_voxels


def test_image_that_fits_is_decoded_at_once(trained):
    vqgan, latents = trained
    decoded = []
    hook = vqgan.decoder.register_forward_hook(lambda *call: decoded.append(call[2].shape))
    decode_in_tiles(vqgan, latents[:1])
    hook.remove()
    assert len(decoded) == 1


def test_tiles_cut_at_less_than_the_reach_would_leave_a_seam(trained):
    vqgan, latents = trained
    short = decoder_reach(vqgan) - 1
    middle = latents.shape[2] // 2
    whole = vqgan.decode(latents)
    first = vqgan.decode(latents[:, :, : middle + short])
    row = 4 * middle - 1  # the last one before the seam
    assert not torch.allclose(first[:, :, row], whole[:, :, row], rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_size", ["tiny", "small"])
def test_reach_covers_every_voxel_that_a_latent_changes(model_size):
    torch.manual_seed(0)
    spec = ModelSpec(2, (256, 64), model_size, preset=STRIDED_WIDTHS[model_size])
    vqgan = build_vqgan(spec).requires_grad_(False)
    latents = torch.randn(1, *spec.latent_shape)
    changed = changed_by(vqgan, latents, at=32)
    reach = decoder_reach(vqgan)
    # latent 32 lies under pixels 128 to 131; a reach of r latents is at most 4·r pixels more
    assert changed.min() >= 4 * (32 - reach)
    assert changed.max() < 4 * (33 + reach)
    assert changed.min() < 4 * (32 - reach + 2)  # and it is no looser than it need be


def test_small_preset_is_tiled_without_a_seam_too():
    torch.manual_seed(0)
    spec = ModelSpec(2, (256, 64), "small", preset=STRIDED_WIDTHS["small"])
    vqgan = build_vqgan(spec).eval().requires_grad_(False)
    latents = torch.randn(1, *spec.latent_shape)
    tiled = decode_in_tiles(vqgan, latents, max_voxels=12_000)
    torch.testing.assert_close(tiled, decode(vqgan, latents), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dims", "size"), [(2, (64, 64)), (3, (16, 16, 16))])
def test_residual_decoders_take_images_one_at_a_time_and_whole(dims, size):
    """Group normalisation looks at a whole image: a tile of it would come out otherwise."""
    torch.manual_seed(0)
    spec = ModelSpec(dims, size, "tiny")
    vqgan = build_vqgan(spec).eval().requires_grad_(False)
    latents = torch.randn(3, *spec.latent_shape)
    decoded = []
    hook = vqgan.decoder.register_forward_hook(lambda *call: decoded.append(len(call[2])))
    one_by_one = decode_in_tiles(vqgan, latents, max_voxels=1000)
    hook.remove()
    assert decoded == [1, 1, 1]
    torch.testing.assert_close(one_by_one, decode(vqgan, latents), rtol=0, atol=1e-4)
    half = vqgan.decode(latents[:1, :, : spec.latent_shape[1] // 2])
    rows = half.shape[2] // 2  # far from the cut
    assert not torch.allclose(half[:, :, :rows], vqgan.decode(latents[:1])[:, :, :rows], atol=1e-3)


@pytest.mark.slow
def test_batch_is_divided_into_what_a_cpu_has_in_its_cache():
    spec = ModelSpec(2, (64, 64), "tiny")
    torch.manual_seed(0)
    vqgan = build_vqgan(spec).eval().requires_grad_(False)
    latents, decoded = torch.randn(35, *spec.latent_shape), []
    hook = vqgan.decoder.register_forward_hook(lambda *call: decoded.append(len(call[2])))
    images = decode_in_tiles(vqgan, latents)
    hook.remove()
    assert decoded == [16, 16, 3]  # 16 × 64² are the 2^16 pixels that are decoded at once
    torch.testing.assert_close(images[-1:], decode(vqgan, latents[-1:]), rtol=1e-4, atol=1e-4)
