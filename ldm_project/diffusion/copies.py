"""Images that are too much alike: copies of training images, and samples that repeat each other."""

from collections.abc import Callable

import numpy as np
import torch.nn.functional as F
from scipy.spatial.distance import cdist
from torch import Tensor

# Below this share of the usual distance between real images, two images are the same image.
SAME_BELOW = 0.5
MAX_EDGE_BY_DIMS = {2: 32, 3: 16}  # pixels that images are averaged down to before comparison


def pixel_rows(images: Tensor) -> np.ndarray:
    """Returns images ``(N, 1, *S)`` as rows ``(N, D)``, averaged down; distances are per pixel."""
    most = MAX_EDGE_BY_DIMS[images.ndim - 2]
    edges = tuple(min(most, length) for length in images.shape[2:])
    pool: Callable[..., Tensor] = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}[len(edges)]
    rows: np.ndarray = pool(images.float(), edges).flatten(1).cpu().double().numpy()
    return rows / np.sqrt(rows.shape[1])


def nearest_distances(rows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Returns each row's distance to the nearest training image, ``(N,)``."""
    return cdist(rows, training).min(axis=1)


def nearest_other_distances(rows: np.ndarray) -> np.ndarray:
    """Returns each row's distance to the nearest other row, ``(N,)``; infinite for a single row."""
    distances = cdist(rows, rows)
    np.fill_diagonal(distances, np.inf)
    return distances.min(axis=1)


def copied(rows: np.ndarray, *, training: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Returns whether each image is much nearer to a training image than held-out images are."""
    usual = float(np.median(nearest_distances(held_out, training)))
    return nearest_distances(rows, training) < SAME_BELOW * usual


def repeated_fraction(rows: np.ndarray, *, real: np.ndarray) -> float:
    """Returns the share of images that have a near twin among the others.

    ``real`` images show the usual distance: as many of them, since more images lie nearer.
    """
    usual = float(np.median(nearest_other_distances(real[: len(rows)])))
    return float((nearest_other_distances(rows) < SAME_BELOW * usual).mean())
