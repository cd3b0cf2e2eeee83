"""Copies of training images and repeats: told by the images themselves, not by features."""

import numpy as np
import pytest
import torch

from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.diffusion import copies

SIZES = [(32, 32), (16, 16, 16)]


@pytest.fixture(scope="module", params=SIZES)
def rows(request):
    """Rows of training, held-out and fresh images, by name; all of different patients."""
    return {
        name: copies.pixel_rows(
            torch.stack(list(open_scans(DataSpec("phantom", request.param, seed=seed)).images(0)))
        )
        for seed, name in enumerate(("training", "held_out", "fresh"))
    }


def test_distance_is_the_root_mean_square_per_pixel():
    first, second = torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 0.25)
    assert copies.nearest_distances(*map(copies.pixel_rows, (first, second))) == pytest.approx(0.25)


def test_large_images_are_averaged_down():
    assert copies.pixel_rows(torch.zeros(2, 1, 64, 128)).shape == (2, 32 * 32)
    assert copies.pixel_rows(torch.zeros(2, 1, 64, 64, 12)).shape == (2, 16 * 16 * 12)


@pytest.mark.slow
def test_noisy_copies_are_found_and_other_patients_are_not(rows):
    few = rows["training"][:20]  # of distances per pixel: 0.03 is 30 HU
    noise = np.random.default_rng(0).normal(0, 0.03 / np.sqrt(few.shape[1]), few.shape)
    judged = {"training": rows["training"], "held_out": rows["held_out"]}
    assert copies.copied(few + noise, **judged).all()
    assert copies.copied(rows["fresh"], **judged).mean() < 0.1


@pytest.mark.slow
def test_four_images_repeated_are_repeats_and_other_patients_are_not(rows):
    four = np.tile(rows["fresh"][:4], (8, 1))
    assert copies.repeated_fraction(four, real=rows["training"]) == 1.0
    assert copies.repeated_fraction(rows["fresh"], real=rows["training"]) < 0.1


@pytest.mark.slow
def test_a_single_image_repeats_nothing(rows):
    assert copies.repeated_fraction(rows["fresh"][:1], real=rows["training"]) == 0.0
