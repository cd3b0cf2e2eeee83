"""Whether images are near enough to real ones for a judge to tell samplers apart."""

from ldm_project.diffusion.quality import Quality

# An interval of fewer images is so wide that every setting lies in it.
MIN_JUDGED = 16

# How far from real images is near enough. For KID the bound is the upper end of the interval of
# held-out images: beyond it, images differ from real ones by more than chance.
MAX_HU_WASSERSTEIN_RATIO = 3.0  # to that of held-out images
MAX_PAIR_MS_SSIM_DIFFERENCE = 0.05  # from that of held-out images
MAX_SAME_FRACTION = 0.1  # of images that are copies of training images, or have a near twin

MIN_JUDGE_ACCURACY = 0.5  # of the second judge on held-out images; by chance 1 in 8


def doubts(
    *,
    real: Quality,
    held_out: Quality,
    reconstruction: Quality,
    reference: Quality,
    num_images: int,
    num_real: int,
    judge_accuracy: float,
) -> tuple[str, ...]:
    """Returns why samplers cannot be judged, a sentence each; none if they can.

    A judge sees samples only through the autoencoder. Where that erases what would differ, or where
    even all 1000 steps are far from real images, no difference means nothing.

    Args:
        real: the best that can be expected of samples.
        held_out: of held-out images, against training images.
        reconstruction: of the held-out images through the autoencoder.
        reference: of the samples of all 1000 steps.
        num_images: samples of each setting.
        num_real: held-out images; 0 if none are, and ``held_out`` is of images trained on.
        judge_accuracy: how often the second judge names what was done to held-out images.
    """
    if num_real == 0:
        return (
            "no image is held out, since all scans are of one patient: nothing shows how near to "
            "each other real images are. Add scans of other patients.",
        )
    found = [
        f"{number} {name} are too few to tell settings apart; {MIN_JUDGED} at least are needed."
        for number, name in ((num_images, "samples of each setting"), (num_real, "held-out images"))
        if number < MIN_JUDGED
    ]
    # Slices of few patients repeat themselves, and so do their reconstructions; samples may not.
    usual = held_out.repeated_fraction
    for name, excesses_found, reason in (
        (
            "reconstructions",
            excesses(reconstruction, held_out, usual_repeated_fraction=usual),
            "the autoencoder erases what would differ",
        ),
        (
            "samples of 1000 steps",
            excesses(reference, real),
            "the model's best images are not like real ones",
        ),
    ):
        found.extend(f"{reason}: {name} have {excess}." for excess in excesses_found)
    if judge_accuracy < MIN_JUDGE_ACCURACY:
        found.append(
            f"the second judge has learnt too little: it names {judge_accuracy:.0%} of the changes "
            f"made to held-out images; {MIN_JUDGE_ACCURACY:.0%} at least are needed."
        )
    return tuple(found)


def excesses(
    quality: Quality,
    real: Quality,
    *,
    with_kid: bool = True,
    usual_repeated_fraction: float = 0.0,
) -> list[str]:
    """Returns each figure that is out of its bound, with the bound.

    Args:
        quality: of the images.
        real: of held-out images.
        with_kid: whether the kernel distance has a bound.
        usual_repeated_fraction: of images that have a near twin without any fault.
    """
    found = []
    if with_kid and quality.kid.value > real.kid.high:
        found.append(f"KID {quality.kid.value:.2g}, real images up to {real.kid.high:.2g}")
    most = MAX_HU_WASSERSTEIN_RATIO * real.hu_wasserstein
    if quality.hu_wasserstein > most:
        found.append(f"HU distance {quality.hu_wasserstein:.0f}, {most:.0f} is allowed")
    if abs(quality.pair_ms_ssim - real.pair_ms_ssim) > MAX_PAIR_MS_SSIM_DIFFERENCE:
        found.append(
            f"pairs alike by {quality.pair_ms_ssim:.2f}, real ones by {real.pair_ms_ssim:.2f} "
            f"± {MAX_PAIR_MS_SSIM_DIFFERENCE:g}"
        )
    for name, fraction, usual in (
        ("copies of training images", quality.memorised_fraction, 0.0),
        ("repeats", quality.repeated_fraction, usual_repeated_fraction),
    ):
        allowed = usual + MAX_SAME_FRACTION
        if fraction > allowed:
            found.append(f"{fraction:.0%} {name}, {allowed:.0%} are allowed")
    return found
