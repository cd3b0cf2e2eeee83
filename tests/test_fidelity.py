"""A judge that cannot tell says so: images too far from real ones, or too few of them."""

from dataclasses import replace

import pytest

from ldm_project.diffusion.fidelity import MIN_JUDGED, doubts
from ldm_project.diffusion.quality import Estimate, Quality

REAL = Quality(
    frechet=Estimate(1.0, 0.5, 1.5),
    kid=Estimate(0.1, -0.1, 0.3),
    plane_frechet=Estimate(2.0, 1.5, 2.5),
    hu_wasserstein=4.0,
    pair_ms_ssim=0.73,
    memorised_fraction=0.0,
    repeated_fraction=0.0,
    accepted_fraction=1.0,
)


def found(**changes):
    given = {
        "real": REAL,
        "held_out": REAL,
        "reconstruction": REAL,
        "reference": REAL,
        "num_images": 64,
        "num_real": 16,
        "judge_accuracy": 0.8,
    }
    return doubts(**{**given, **changes})


def test_images_like_real_ones_can_be_judged():
    assert found() == ()


@pytest.mark.parametrize("which", ["reconstruction", "reference"])
@pytest.mark.parametrize(
    ("figure", "within", "beyond", "said"),
    [
        ("kid", Estimate(0.3, 0.2, 0.4), Estimate(0.31, 0.2, 0.4), "KID 0.31, real images up to"),
        ("hu_wasserstein", 12.0, 12.1, "HU distance 12, 12 is allowed"),
        ("pair_ms_ssim", 0.775, 0.79, "pairs alike by 0.79, real ones by 0.73 ± 0.05"),
        ("memorised_fraction", 0.1, 0.2, "20% copies of training images, 10% are allowed"),
        ("repeated_fraction", 0.1, 0.2, "20% repeats, 10% are allowed"),
        ("pair_ms_ssim", 0.685, 0.67, "pairs alike by 0.67"),
    ],
)
def test_each_figure_has_its_bound(which, figure, within, beyond, said):
    assert found(**{which: replace(REAL, **{figure: within})}) == ()
    (doubt,) = found(**{which: replace(REAL, **{figure: beyond})})
    assert said in doubt
    assert ("autoencoder erases" in doubt) == (which == "reconstruction")


def test_reconstructions_may_repeat_what_held_out_images_do():
    """Slices of one patient are near twins; samples have no such reason."""
    held_out = replace(REAL, repeated_fraction=0.44)
    assert found(held_out=held_out, reconstruction=replace(REAL, repeated_fraction=0.53)) == ()
    (doubt,) = found(held_out=held_out, reconstruction=replace(REAL, repeated_fraction=0.55))
    assert "55% repeats, 54% are allowed" in doubt
    (doubt,) = found(held_out=held_out, reference=replace(REAL, repeated_fraction=0.44))
    assert "44% repeats, 10% are allowed" in doubt


def test_reconstructions_are_to_vary_as_held_out_images_and_samples_as_training_images():
    few_patients = replace(REAL, pair_ms_ssim=0.61)
    assert found(held_out=few_patients, reconstruction=few_patients) == ()
    (doubt,) = found(held_out=few_patients, reconstruction=few_patients, reference=few_patients)
    assert "samples of 1000 steps have pairs alike by 0.61, real ones by 0.73 ± 0.05" in doubt


def test_the_blurs_of_version_1_are_refused():
    """Figures of its page in 3D: all samples alike by 0.99, KID within a wide interval."""
    real = replace(REAL, kid=Estimate(-0.08, -0.7, 1.47), hu_wasserstein=3.0, pair_ms_ssim=0.82)
    blurred = replace(real, kid=Estimate(1.35, 0.4, 3.1), hu_wasserstein=29.0, pair_ms_ssim=0.98)
    assert len(found(real=real, held_out=real, reconstruction=blurred, reference=blurred)) == 4


def test_few_images_are_too_few():
    assert found(num_images=MIN_JUDGED, num_real=MIN_JUDGED) == ()
    (doubt,) = found(num_images=8)
    assert (
        doubt
        == "8 samples of each setting are too few to tell settings apart; 16 at least are needed."
    )
    assert "3 held-out images are too few" in found(num_real=3)[0]


def test_nothing_held_out_is_the_only_doubt():
    (doubt,) = found(num_real=0, judge_accuracy=0.1)
    assert doubt.startswith("no image is held out, since all scans are of one patient")


def test_second_judge_that_learnt_too_little_cannot_judge():
    assert found(judge_accuracy=0.5) == ()
    (doubt,) = found(judge_accuracy=0.3)
    assert "names 30% of the changes made to held-out images; 50% at least are needed" in doubt
