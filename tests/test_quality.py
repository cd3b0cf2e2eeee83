"""Measures of quality: against formulas and libraries of others, and on images with an answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance

from ldm_project.diffusion import quality
from ldm_project.diffusion.iso_quality import Setting, iso_quality, pareto_front
from ldm_project.diffusion.models import ModelSpec, build_vqgan
from ldm_project.diffusion.quality import Estimate, ImageSet, Quality

DIMENSION = 12


def gaussian_features(num, *, seed, mean=0.0, std=1.0):
    return np.random.default_rng(seed).normal(mean, std, (num, DIMENSION))


def set_of(features, images=None):
    bins = len(quality.HU_EDGES) - 1
    examples = torch.zeros((2, 16, 16)) if images is None else images
    return ImageSet(
        features,
        np.full(bins, 1 / bins),
        examples,
        pixels=features,
        slices=features[:, None, None],
        fine_detail_hu=np.zeros(len(features)),
    )


def test_frechet_distance_is_the_formula_with_the_root_of_a_matrix():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(300, 4)) @ generator.normal(size=(4, 4))
    second = generator.normal(0.5, size=(200, 4)) @ generator.normal(size=(4, 4))
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    means = first.mean(axis=0) - second.mean(axis=0)
    expected = means @ means + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert quality.frechet_distance(first, second) == pytest.approx(expected)


def test_frechet_distance_is_the_formula_where_features_outnumber_images():
    generator = np.random.default_rng(1)
    first, second = generator.normal(size=(9, 20)), generator.normal(0.3, size=(15, 20))
    c1, c2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    means = first.mean(axis=0) - second.mean(axis=0)
    eigenvalues = np.linalg.eigvals(c1 @ c2).real.clip(min=0)  # 12 and more of the 20 are zero
    expected = means @ means + np.trace(c1 + c2) - 2 * np.sqrt(eigenvalues).sum()
    assert quality.frechet_distance(first, second) == pytest.approx(expected, rel=1e-5)


def test_frechet_distance_of_shifted_gaussians_is_the_square_of_the_shift():
    first = gaussian_features(500, seed=0)
    assert quality.frechet_distance(first, first + 2.0) == pytest.approx(4.0 * DIMENSION)
    assert quality.frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_kernel_distance_averages_to_zero_over_equal_distributions():
    distances = [
        quality.kernel_distance(
            gaussian_features(12, seed=seed), gaussian_features(12, seed=1000 + seed)
        )
        for seed in range(400)
    ]
    error = np.std(distances) / np.sqrt(len(distances))
    assert abs(np.mean(distances)) < 3 * error
    assert min(distances) < 0  # unbiased: it has to fall below sometimes


def test_kernel_distance_of_two_and_two_numbers_by_hand():
    # k(x, y) = (x·y + 1)³; second = {-1, 1} has spread 1.
    # within first {0, 2}: k(0, 2) = 1. within second: k(-1, 1) = 0.
    # across: k(0, ±1) = 1, 1; k(2, -1) = -1, k(2, 1) = 27: mean 28 / 4 = 7. 1 + 0 - 2·7 = -13
    first, second = np.array([[0.0], [2.0]]), np.array([[-1.0], [1.0]])
    assert quality.kernel_distance(first, second) == pytest.approx(-13.0)


@pytest.mark.slow
def test_interval_holds_the_true_distance_about_as_often_as_it_says():
    held = 0
    for seed in range(40):
        first, second = gaussian_features(40, seed=seed), gaussian_features(40, seed=500 + seed)
        found = quality.estimate(quality.kernel_distance, first, second)
        held += found.low <= 0.0 <= found.high
        assert found.low < found.value < found.high
    assert held >= 34  # 38 of 40 expected; 33 or fewer has a chance of 2 in 1000


def test_interval_is_narrower_with_more_images():
    few, many = (
        quality.estimate(
            quality.frechet_distance,
            gaussian_features(num, seed=0),
            gaussian_features(num, seed=1),
        )
        for num in (30, 300)
    )
    assert many.high - many.low < (few.high - few.low) / 2


def test_distance_of_histograms_is_scipys_over_the_same_voxels():
    generator = np.random.default_rng(0)
    first, second = generator.normal(-200, 150, 5000), generator.normal(60, 300, 4000)
    fractions = [
        np.histogram(values.clip(-1000, 1000), quality.HU_EDGES)[0] / len(values)
        for values in (first, second)
    ]
    expected = wasserstein_distance(first.clip(-1000, 1000), second.clip(-1000, 1000))
    assert quality.hu_wasserstein(*fractions) == pytest.approx(expected, abs=10)  # a bin's width


def likeness_by_scipy(first, second, weights):
    """MS-SSIM after Wang et al. 2003, eq. 7, in double precision with scipy's Gaussian filter."""
    likeness = 1.0
    for scale, weight in enumerate(weights):
        inside = (slice(5, -5),) * first.ndim

        def blurred(image, inside=inside):
            return gaussian_filter(image, 1.5, radius=5)[inside]

        c1, c2 = (0.01 * 2.0) ** 2, (0.03 * 2.0) ** 2
        mean_1, mean_2 = blurred(first), blurred(second)
        variances = blurred(first**2) - mean_1**2 + blurred(second**2) - mean_2**2
        term = (2 * (blurred(first * second) - mean_1 * mean_2) + c2) / (variances + c2)
        if scale == len(weights) - 1:
            term = term * (2 * mean_1 * mean_2 + c1) / (mean_1**2 + mean_2**2 + c1)
        likeness *= max(0.0, term.mean()) ** weight
        for axis in range(first.ndim):
            first, second = (
                (
                    image.take(range(0, image.shape[axis] // 2 * 2, 2), axis)
                    + image.take(range(1, image.shape[axis] // 2 * 2, 2), axis)
                )
                / 2
                for image in (first, second)
            )
    return likeness


@pytest.mark.parametrize(
    ("size", "num_scales"),
    # 48, 24 and 12 have room for 11; 176 to 11 has for all five; of 16 only the first
    [((64, 48), 3), ((48, 48, 48), 3), ((176, 192), 5), ((16, 16), 1)],
)
def test_likeness_is_wangs_over_the_scales_that_fit(size, num_scales):
    generator = np.random.default_rng(0)
    first = np.cumsum(generator.normal(0, 0.2, size), axis=0).clip(-1, 1)
    second = (first + generator.normal(0, 0.3, size)).clip(-1, 1)
    weights = np.array(quality.SSIM_WEIGHTS[:num_scales])
    expected = likeness_by_scipy(first, second, weights / weights.sum())
    found = quality.ms_ssim(torch.tensor(first)[None], torch.tensor(second)[None])
    assert found.item() == pytest.approx(expected, abs=1e-3)


def test_images_smaller_than_the_window_have_a_likeness_too():
    images = torch.rand(3, 8, 8) * 2 - 1
    assert quality.ms_ssim(images, images).tolist() == pytest.approx([1.0] * 3)


def test_equal_images_are_alike_and_different_ones_are_not():
    noise = torch.tensor(np.random.default_rng(0).uniform(-1, 1, (4, 64, 64)))
    assert quality.pair_ms_ssim(torch.stack([noise[0]] * 4)) == pytest.approx(1.0)
    assert quality.pair_ms_ssim(noise) < 0.2


def test_copies_of_training_images_are_memorised_and_far_ones_are_rejected():
    training = set_of(gaussian_features(50, seed=0))
    held_out = set_of(gaussian_features(50, seed=1))
    copies, fresh = training.features[:20] + 1e-3, gaussian_features(20, seed=2)
    far = gaussian_features(10, seed=3) + 30.0
    found = quality.judge(set_of(np.concatenate([copies, fresh, far])), training, held_out)
    assert found.memorised_fraction == pytest.approx(20 / 50, abs=0.05)
    assert found.accepted_fraction == pytest.approx(20 / 50, abs=0.05)


@pytest.mark.slow
def test_features_that_keep_their_scale_are_compared_as_they_are():
    training, held_out, judged = (
        set_of(10 * gaussian_features(60, seed=seed)) for seed in (0, 1, 2)
    )
    found = quality.judge(judged, replace(training, keeps_scale=True), held_out)
    expected = quality.frechet_distance(judged.features, training.features)
    assert found.frechet.value == pytest.approx(expected)
    # in units of the spread it is about 100 times less
    assert quality.judge(judged, training, held_out).frechet.value < expected / 50


def test_unseen_real_images_are_hardly_ever_memorised():
    training, held_out = (
        set_of(gaussian_features(200, seed=0)),
        set_of(gaussian_features(50, seed=1)),
    )
    found = quality.judge(held_out, training, held_out)
    assert found.memorised_fraction <= 0.04
    assert found.accepted_fraction >= 0.9


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
def test_features_tell_images_of_another_brightness_apart(size):
    torch.manual_seed(0)
    vqgan = build_vqgan(ModelSpec(len(size), size, "tiny")).eval()
    images = torch.rand(20, 1, *size) - 0.5
    features = quality.encoder_features(vqgan, images)
    # 8 channels at 2 places along each axis, and 8 spreads
    assert features.shape == (20, 8 * 2 ** len(size) + 8)
    darker = quality.encoder_features(vqgan, images - 0.4)
    assert quality.kernel_distance(features, darker) > quality.kernel_distance(
        features[:10], features[10:]
    )


def test_image_set_holds_the_histogram_of_hounsfield_units():
    vqgan = build_vqgan(ModelSpec(2, (32, 32), "tiny")).eval()
    images = torch.full((3, 1, 32, 32), -1.0)
    images[..., 16:] = 1.0
    found = quality.image_set(
        quality.features_of_encoder(vqgan, lambda images: np.zeros((len(images), 1, 1, 4))), images
    )
    assert found.hu_fractions[0] == found.hu_fractions[-1] == 0.5  # -1000 and 1000 HU
    assert found.examples.shape == (3, 32, 32)


def setting(steps, co2e_g, kid, *, accepted=1.0, shortfalls=()):
    estimate = Estimate(kid, kid - 0.1, kid + 0.1)
    measured = Quality(estimate, estimate, estimate, 10.0, 0.3, 1.0 - accepted, 0.0, accepted)
    return Setting("unipc", steps, co2e_g, measured, shortfalls)


def test_iso_quality_is_the_cheapest_without_shortfalls():
    worse = setting(10, 1.0, 0.5, shortfalls=("by the second judge up to 3 farther",))
    settings = [setting(1000, 100.0, 0.5), setting(50, 5.0, 0.55), setting(20, 2.0, 0.59), worse]
    assert iso_quality(settings).steps == 20


def test_rejected_images_are_paid_for_by_the_accepted_ones():
    reference = setting(1000, 100.0, 0.5)
    wasteful, thrifty = setting(20, 2.0, 0.5, accepted=0.25), setting(50, 5.0, 0.5)
    assert wasteful.co2e_g_per_accepted_sample == pytest.approx(8.0)
    assert iso_quality([reference, wasteful, thrifty]) is thrifty
    assert setting(5, 1.0, 0.5, accepted=0.0).co2e_g_per_accepted_sample is None


def test_pareto_front_drops_what_is_dearer_and_no_better():
    settings = [setting(1000, 100.0, 0.5), setting(50, 5.0, 0.5), setting(20, 2.0, 0.6)]
    assert [found.steps for found in pareto_front(settings)] == [20, 50]
