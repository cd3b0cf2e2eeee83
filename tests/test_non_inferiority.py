"""The interval of a difference: what it accepts, what it rejects, and what it cannot show."""

import numpy as np
import pytest

from ldm_project.diffusion.non_inferiority import (
    MARGIN_SPREADS,
    MIN_MARGIN_HU,
    detail_excess,
    kernel_excess,
    plane_excess,
    plane_frechet_distance,
)
from ldm_project.diffusion.quality import frechet_distance

DIMENSION = 12
NUM_REAL = 400


def normal(num, seed, *, moved=0.0, planes=None):
    shape = (num, DIMENSION) if planes is None else (num, planes, 4, DIMENSION)
    return np.random.default_rng(seed).normal(moved, 1.0, shape)


@pytest.mark.slow
@pytest.mark.parametrize(("excess", "planes"), [(kernel_excess, None), (plane_excess, 3)])
def test_samples_like_the_references_are_shown_to_be_as_good(excess, planes):
    real, reference = normal(NUM_REAL, 0, planes=planes), normal(200, 1, planes=planes)
    alike = reference + 0.1 * normal(200, 2, planes=planes)
    assert excess(alike, reference, real).is_shown_small


@pytest.mark.slow
@pytest.mark.parametrize(("excess", "planes"), [(kernel_excess, None), (plane_excess, 3)])
@pytest.mark.parametrize("seed", range(5))
def test_samples_beyond_the_margin_are_never_passed(excess, planes, seed):
    real, reference = normal(NUM_REAL, 0, planes=planes), normal(100, 1 + seed, planes=planes)
    worse = normal(100, 100 + seed, moved=1.5 * MARGIN_SPREADS, planes=planes)
    assert not excess(worse, reference, real).is_shown_small


@pytest.mark.slow
def test_few_images_show_nothing():
    real = normal(NUM_REAL, 0)
    shown = [
        kernel_excess(normal(8, 50 + seed), normal(8, 10 + seed), real).is_shown_small
        for seed in range(10)
    ]
    assert sum(shown) <= 3


@pytest.mark.slow
def test_noise_that_both_share_makes_the_interval_narrower():
    real, reference = normal(NUM_REAL, 0), normal(60, 1)
    paired = kernel_excess(reference + 0.05 * normal(60, 2), reference, real)
    order = np.random.default_rng(0).permutation(60)
    shuffled = kernel_excess((reference + 0.05 * normal(60, 2))[order], reference, real)
    assert paired.value == pytest.approx(shuffled.value)
    assert paired.high - paired.value < 0.5 * (shuffled.high - shuffled.value)


@pytest.mark.slow
def test_sets_of_different_numbers_are_drawn_apart():
    real = normal(NUM_REAL, 0)
    assert kernel_excess(normal(200, 1), normal(150, 2), real).high > 0


@pytest.mark.slow
def test_margins_are_the_distance_of_the_stated_shift():
    real = normal(NUM_REAL, 0)
    scaled = (real - real.mean(axis=0)) / real.std(axis=0)
    moved = scaled + MARGIN_SPREADS
    expected = frechet_distance(moved, scaled)
    planes = scaled[:, None, None]
    assert plane_excess(planes, planes, planes).margin == pytest.approx(expected, rel=1e-6)
    # of the kernel: 3 m², with (1 + m²)³ - 1 - ... beyond it of the order of m⁴
    assert kernel_excess(real, real, real).margin == pytest.approx(3 * MARGIN_SPREADS**2)


def test_distance_over_planes_is_their_mean():
    first, second = normal(50, 0, planes=3), normal(40, 1, planes=3)
    by_hand = [
        frechet_distance(first[:, p].reshape(-1, DIMENSION), second[:, p].reshape(-1, DIMENSION))
        for p in range(3)
    ]
    assert plane_frechet_distance(first, second) == pytest.approx(np.mean(by_hand))


@pytest.mark.slow
def test_feature_that_never_varies_is_no_error():
    real = normal(NUM_REAL, 0)
    real[:, 0] = 1.0
    assert np.isfinite(kernel_excess(real[:50], real[50:100], real).high)


def detail_hu(num, seed, *, mean=20.0, std=1.0):
    return np.random.default_rng(seed).normal(mean, std, num)


def test_excess_of_detail_is_in_hu_and_of_both_directions():
    """Real 20 HU. 19 is 1 off, 24 and 16 are 4 off, so both are 3 farther; within 2 is equal."""
    real, reference = np.full(50, 20.0), np.full(50, 19.0)
    for judged in (24.0, 16.0):
        excess = detail_excess(np.full(50, judged), reference, real)
        assert (excess.value, excess.high, excess.margin) == pytest.approx((3, 3, MIN_MARGIN_HU))
        assert not excess.is_shown_small
    assert detail_excess(np.full(50, 22.5), reference, real).is_shown_small


def test_margin_of_detail_is_a_share_of_its_spread_where_that_is_more():
    """The sample standard deviation of 0 and 60, half of each of 1000: 30.015 HU; a fifth: 6."""
    real = np.tile([0.0, 60.0], 500)
    assert detail_excess(real, real, real).margin == pytest.approx(6.003)


def test_few_images_show_nothing_of_detail_either():
    real, reference = detail_hu(NUM_REAL, 0, std=10), detail_hu(6, 1, std=10)
    assert not detail_excess(detail_hu(6, 2, std=10), reference, real).is_shown_small
