"""The finest detail: what noise, edges, blur and air do to it."""

import numpy as np
import pytest
import torch

from ldm_project.diffusion.fine_detail import fine_detail_hu

NETWORK_PER_HU = 1 / 1000


def noise_hu(size, std_hu, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 1, *size), generator=generator) * std_hu


@pytest.mark.parametrize("size", [(128, 128), (24, 24, 24)])
def test_white_noise_has_its_standard_deviation(size):
    detail = fine_detail_hu(noise_hu(size, 60.0) * NETWORK_PER_HU)
    assert detail == pytest.approx([60, 60], rel=0.05)


def test_each_image_has_its_own():
    images = torch.cat([noise_hu((64, 64), 10.0)[:1], noise_hu((64, 64), 30.0)[:1]])
    first, second = fine_detail_hu(images * NETWORK_PER_HU)
    assert second == pytest.approx(3 * first, rel=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_an_edge_along_an_axis_has_none(size):
    images = torch.zeros((1, 1, *size))
    images[:, :, : size[0] // 2 - 1] = -0.8  # between two voxels of a pair
    assert fine_detail_hu(images) == pytest.approx([0])


def test_a_difference_of_neighbours_in_numbers():
    """[[a, b], [c, d]] has (a − b − c + d) / 2: (100 − 0 − 0 + 0) / 2 = 50; a median of 50."""
    block = torch.tensor([[100.0, 0.0], [0.0, 0.0]]) * NETWORK_PER_HU
    detail = fine_detail_hu(block.repeat(4, 4)[None, None])
    assert detail == pytest.approx([50 / 0.6745])


def test_the_air_around_does_not_count():
    """Noise in a quarter of the image, in the middle; all else is air, cut off at −1000 HU."""
    images = torch.full((2, 1, 64, 64), -1.0)
    images[..., 16:48, 16:48] = noise_hu((32, 32), 60.0) * NETWORK_PER_HU
    assert fine_detail_hu(images) == pytest.approx([60, 60], rel=0.1)


def test_nothing_but_air_has_that_of_the_air():
    assert np.array_equal(fine_detail_hu(torch.full((1, 1, 8, 8), -1.0)), [0])


def test_an_odd_end_is_left_out():
    images = noise_hu((64, 64), 20.0)
    longer = torch.nn.functional.pad(images, (0, 1, 0, 1), value=500.0)
    expected = fine_detail_hu(images * NETWORK_PER_HU)
    assert fine_detail_hu(longer * NETWORK_PER_HU) == pytest.approx(expected)
