"""Whether a setting's samples are as good as those of all steps, and if not, why."""

from ldm_project.diffusion.fidelity import excesses
from ldm_project.diffusion.non_inferiority import (
    Excess,
    detail_excess,
    kernel_excess,
    plane_excess,
)
from ldm_project.diffusion.quality import ImageSet, Quality


def shortfalls(
    images: ImageSet,
    reference: ImageSet,
    training: ImageSet,
    *,
    quality: Quality,
    real: Quality,
) -> tuple[str, ...]:
    """Returns why images are not shown to be as good as the reference's, a clause each.

    Both judges must find them no farther from real images than the reference's, by more than a
    margin, and their finest detail no farther either; and they must be neither copies nor repeats,
    nor of another brightness or likeness.

    Args:
        images: to judge; of the same starting noise as the reference's, in the same order.
        reference: the samples of all steps.
        training: real images.
        quality: of the images.
        real: of held-out images.
    """
    judges = {
        "the VQ-GAN's features": kernel_excess(
            images.features, reference.features, training.features
        ),
        "the second judge": plane_excess(images.slices, reference.slices, training.slices),
        "the finest detail in HU": detail_excess(
            images.fine_detail_hu, reference.fine_detail_hu, training.fine_detail_hu
        ),
    }
    found = [_too_far(name, excess) for name, excess in judges.items()]
    return (*(text for text in found if text), *excesses(quality, real, with_kid=False))


def _too_far(judge: str, excess: Excess) -> str:
    if excess.is_shown_small:
        return ""
    return (
        f"by {judge} up to {excess.high:.3g} farther from real images than the reference, "
        f"{excess.margin:.2g} is allowed"
    )
