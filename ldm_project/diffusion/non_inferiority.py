"""Whether samples are no worse than others: an interval of the difference against a margin."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldm_project.diffusion.quality import kernel_distance, plane_frechet_distance, scaled_by

NUM_RESAMPLES = 200
CONFIDENCE_FRACTION = 0.95  # one-sided: only being worse matters
# How much worse is still as good, fixed before any sample was judged: the distance that arises if
# every feature moves by this share of its spread between real images.
# Source: Cohen 1988 (Statistical Power Analysis, 2nd ed.), section 2.2.3: 0.2 is a small effect.
MARGIN_SPREADS = 0.2
# Of the finest detail, where real images are all alike in it: a CT number is a whole HU, and a
# scanner's noise is several.
MIN_MARGIN_HU = 2.0

Distance = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Excess:
    """How much farther from real images samples are than a reference's.

    Attributes:
        value: of the sets as they are; below 0 if they are nearer.
        high: the upper end of its one-sided 95 % interval.
        margin: the most that counts as equal.
    """

    value: float
    high: float
    margin: float

    @property
    def is_shown_small(self) -> bool:
        """Whether the whole interval lies within the margin."""
        return self.high <= self.margin


def kernel_excess(judged: np.ndarray, reference: np.ndarray, real: np.ndarray) -> Excess:
    """Returns the excess in kernel distance, of features ``(N, D)``.

    The kernel is (x·y / D + 1)³ of features with mean 0: if all features move by m, the mean of
    the kernel among the moved is (1 + m²)³ at least, and across it stays 1, so the distance is
    about 3 m².
    """
    scaled = scaled_by(real, judged, reference, real)
    return _excess(kernel_distance, *scaled, margin=3 * MARGIN_SPREADS**2)


def plane_excess(judged: np.ndarray, reference: np.ndarray, real: np.ndarray) -> Excess:
    """Returns the excess in the Fréchet distance of features ``(N, P, S, D)``, mean over planes.

    If D features move by m, the Fréchet distance grows by D·m².
    """
    scaled = scaled_by(real, judged, reference, real)
    margin = judged.shape[-1] * MARGIN_SPREADS**2
    return _excess(plane_frechet_distance, *scaled, margin=margin)


def detail_excess(judged: np.ndarray, reference: np.ndarray, real: np.ndarray) -> Excess:
    """Returns the excess in the difference of the mean finest detail ``(N,)``, in HU."""

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return float(abs(first.mean() - second.mean()))

    margin = max(MARGIN_SPREADS * float(real.std(ddof=1)), MIN_MARGIN_HU)
    return _excess(difference, judged, reference, real, margin=margin)


def _excess(
    distance: Distance,
    judged: np.ndarray,
    reference: np.ndarray,
    real: np.ndarray,
    *,
    margin: float,
) -> Excess:
    """Returns the difference of two distances to real images, by a bootstrap over images.

    An image and the reference's image of the same noise are drawn together, and both are held to
    the same draw of real images, so that what they share cancels.
    """
    generator = np.random.default_rng(0)

    def difference(rows: np.ndarray, others: np.ndarray, among: np.ndarray) -> float:
        return distance(judged[rows], real[among]) - distance(reference[others], real[among])

    value = difference(*map(np.arange, map(len, (judged, reference, real))))
    drawn = []
    for _ in range(NUM_RESAMPLES):
        rows = generator.integers(len(judged), size=len(judged))
        is_paired = len(judged) == len(reference)
        others = rows if is_paired else generator.integers(len(reference), size=len(reference))
        among = generator.integers(len(real), size=len(real))
        drawn.append(difference(rows, others, among))
    # Drawing with replacement repeats images, which moves distances; the interval is moved back.
    high = np.quantile(drawn, CONFIDENCE_FRACTION) - np.mean(drawn) + value
    return Excess(value, float(high), margin)
