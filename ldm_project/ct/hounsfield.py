"""The window of Hounsfield units that the networks see as -1 to 1."""

from torch import Tensor

from ldm_project.config import HU_MAX, HU_MIN


def network_from_hu(image_hu: Tensor) -> Tensor:
    """Returns HU as [-1, 1]; what lies outside the window is cut off."""
    return (image_hu.clamp(HU_MIN, HU_MAX) - HU_MIN) / (HU_MAX - HU_MIN) * 2 - 1


def hu_from_network(image: Tensor) -> Tensor:
    """Returns [-1, 1] as HU."""
    return (image + 1) / 2 * (HU_MAX - HU_MIN) + HU_MIN
