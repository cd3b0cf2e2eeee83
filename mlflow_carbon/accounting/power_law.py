"""Energy as a power of the size of an image: the exponent, with its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mlflow_carbon.accounting.steps_model import Estimate
from mlflow_carbon.accounting.uncertainty import DEFAULT_CONFIDENCE_FRACTION
from mlflow_carbon.errors import InvalidInputError

_ROUNDING = 1e-9  # of a logarithm: points this near to the line lie on it


@dataclass(frozen=True)
class PowerLaw:
    """energy = constant · size ** exponent, fitted to ``num_points`` different sizes or more."""

    exponent: Estimate
    num_points: int


def fit_power_law(
    points: Sequence[tuple[float, float]],
    *,
    confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION,
) -> PowerLaw:
    """Returns the least-squares line through the logarithms of sizes and energies.

    Args:
        points: the number of voxels and the energy of each, in any unit, two sizes or more.
        confidence_fraction: of the interval, a t interval with points - 2 degrees of freedom. Two
            points, and points that all lie on the line, get none.

    Raises:
        InvalidInputError: there are fewer than two sizes, or a value is not above 0.
    """
    if not all(math.isfinite(value) and value > 0 for point in points for value in point):
        raise InvalidInputError("A power law needs sizes and energies above 0.")
    if len({size for size, _ in points}) < 2:
        raise InvalidInputError("A power law needs two sizes or more.")
    sizes, energies = (
        np.log(np.array(column, dtype=float)) for column in zip(*points, strict=True)
    )
    centred = sizes - sizes.mean()
    squares = float(centred @ centred)
    slope = float(centred @ energies) / squares
    residuals = energies - energies.mean() - slope * centred
    degrees = len(points) - 2
    std = math.sqrt(float(residuals @ residuals) / degrees) if degrees else 0.0
    if std <= _ROUNDING:
        return PowerLaw(Estimate(slope, None, None), len(points))
    margin = float(stdtrit(degrees, 0.5 + confidence_fraction / 2)) * std / math.sqrt(squares)
    return PowerLaw(Estimate(slope, slope - margin, slope + margin), len(points))
