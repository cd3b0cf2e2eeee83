"""The window of Hounsfield units that the networks see as -1 to 1."""

from torch import Tensor

from ldm_project.config import HU_MAX, HU_MIN


def network_from_hu(image_hu: Tensor) -> Tensor:
    """Returns an image in HU mapped to [-1, 1]; values outside the window are clipped."""
    return (image_hu.clamp(HU_MIN, HU_MAX) - HU_MIN) / (HU_MAX - HU_MIN) * 2 - 1


def hu_from_network(image: Tensor) -> Tensor:
    """Returns an image in [-1, 1] mapped to HU."""
    return (image + 1) / 2 * (HU_MAX - HU_MIN) + HU_MIN
