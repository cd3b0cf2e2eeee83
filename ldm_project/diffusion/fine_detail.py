"""The finest detail of images, in HU: noise that was added shows in it first, and so does blur."""

import numpy as np
from torch import Tensor

from ldm_project.ct.hounsfield import hu_from_network

AIR_BELOW_HU = -950.0  # lungs are denser; around the body there is nothing to see
# The median of |x| of a normal distribution, in units of its standard deviation.
MEDIAN_PER_STD = 0.6745


def fine_detail_hu(images: Tensor) -> np.ndarray:
    """Returns the finest detail of each image ``(N, 1, *S)`` in [-1, 1], ``(N,)`` in HU.

    It is the usual size of the difference of neighbours along all axes at once, where there is
    more than air, in the units of white noise: noise of 60 HU alone has 60. Edges along an axis
    have none, and of others a median sees little.

    Source: Donoho & Johnstone 1994 (Ideal spatial adaptation by wavelet shrinkage), Biometrika
        81:425, section 4.3: the noise as the median of the finest wavelet coefficients, of Haar's
        wavelet here.
    """
    return np.array([_detail_of(hu_from_network(image).cpu().double().numpy()) for image in images])


def _detail_of(image_hu: np.ndarray) -> float:
    """Returns the finest detail of an image ``(1, *S)``."""
    mean_hu, difference_hu = image_hu, image_hu
    for axis in range(1, image_hu.ndim):
        mean_hu = np.add(*_pairs(mean_hu, axis)) / 2
        # Divided by √2, white noise keeps its standard deviation.
        difference_hu = np.subtract(*_pairs(difference_hu, axis)) / np.sqrt(2)
    is_matter = mean_hu > AIR_BELOW_HU
    chosen = difference_hu[is_matter] if is_matter.any() else difference_hu
    return float(np.median(np.abs(chosen)) / MEDIAN_PER_STD)


def _pairs(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each first and each second of the pairs along an axis, whose odd end is left out."""
    length = values.shape[axis] // 2 * 2
    first, second = (values.take(np.arange(start, length, 2), axis=axis) for start in (0, 1))
    return first, second
