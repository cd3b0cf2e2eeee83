"""The geometry of slices in space: their axes, their tilt and their spacing."""

from functools import lru_cache

import numpy as np
from scipy.optimize import minimize_scalar

Triple = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]

# Tolerance for the lengths of the two image axes (1) and the cosine of their angle (0).
AXES_TOLERANCE = 0.02
PARALLEL_TOLERANCE_DEGREES = 1.0
MAX_TILT_DEGREES = 1.0
# The largest distance of a slice from its evenly spaced position, as a fraction of the spacing.
PLACE_TOLERANCE = 0.1
# Rounded positions may lie farther off, but by less than a missing slice would cause.
ROUNDED_PLACE_TOLERANCE = 0.2
# A missing slice leaves a gap twice as wide as the spacing; rounding alone causes far less.
MISSING_GAP_RATIO = 1.75
FINEST_ROUNDING_DIGITS = 4
MAX_TILT_ROUNDING_MM = 0.1  # positions in whole mm would hide a tilt of a few slices


@lru_cache(maxsize=1024)  # all slices of a series have the same orientation
def unit_axes(orientation: Cosines) -> np.ndarray | None:
    """Returns the row axis and the column axis ``(2, 3)``, each of length 1.

    ``None`` if the six cosines of ImageOrientationPatient are not two axes at right angles.
    """
    axes = np.asarray(orientation, dtype=float).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if not np.all(np.abs(lengths - 1) < AXES_TOLERANCE):  # true for NaN as well
        return None
    axes = axes / lengths[:, None]
    axes.setflags(write=False)
    return axes if abs(axes[0] @ axes[1]) < AXES_TOLERANCE else None


def normal_of(axes: np.ndarray) -> np.ndarray:
    """Returns the direction ``(3,)`` in which slices of these axes are stacked."""
    normal = np.cross(axes[0], axes[1])
    return normal / np.linalg.norm(normal)


def are_parallel(axes: np.ndarray, other: np.ndarray) -> bool:
    """Returns ``True`` if both axes agree; slices rotated within one plane are not parallel."""
    cosines = np.sum(axes * other, axis=1)
    return bool(np.all(cosines > np.cos(np.radians(PARALLEL_TOLERANCE_DEGREES))))


def tilt_degrees(positions: np.ndarray, normal: np.ndarray) -> float:
    """Returns the angle in degrees between the normal and the direction of the stack.

    The part of the angle that rounding of the positions can explain is subtracted.
    """
    line = positions[-1] - positions[0]
    along = line @ normal
    beside = line - along * normal
    beside_mm = float(np.linalg.norm(beside))
    if beside_mm == 0:
        return 0.0
    rounding = np.minimum([_unit_mm(column) for column in positions.T], MAX_TILT_ROUNDING_MM)
    beside_mm = max(0.0, beside_mm - float(np.abs(beside / beside_mm) @ rounding))
    return float(np.degrees(np.arctan2(beside_mm, along)))


def unevenness(positions: np.ndarray, normal: np.ndarray) -> str | None:
    """Returns the fault in the spacing of slices, in words; ``None`` if it is even.

    Each slice is judged by its distance from its position in an evenly spaced stack. Half of the
    unit to which positions are rounded is always allowed.

    Args:
        positions: ``(N, 3)`` in mm, in their order along the normal.
        normal: ``(3,)``, of length 1.
    """
    places = positions @ normal
    gaps = np.diff(places)
    apart = f"its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart"
    step = (places[-1] - places[0]) / len(gaps)
    num_doubled = int(np.sum(gaps <= 0.01 * step))
    if num_doubled:
        return (
            f"{num_doubled} of its slices lie where another one lies: two phases or "
            f"reconstructions share its SeriesInstanceUID. Give each a series of its own."
        )
    half_rounding = float(np.abs(normal) @ [_unit_mm(column) for column in positions.T]) / 2
    rounded = min(half_rounding * 1.01, ROUNDED_PLACE_TOLERANCE * step)
    allowed = max(PLACE_TOLERANCE * step, rounded)
    if gaps.max() >= MISSING_GAP_RATIO * gaps.min() or _farthest_off(places) > allowed:
        return f"{apart}. A slice is missing or doubled; complete the series or leave it out."
    return None


def sideways_mm(positions: np.ndarray) -> float:
    """Returns the largest distance in mm of a slice from the line from the first to the last."""
    line = positions[-1] - positions[0]
    line = line / np.linalg.norm(line)
    offsets = positions - positions[0]
    beside = offsets - np.outer(offsets @ line, line)
    return float(np.linalg.norm(beside, axis=1).max())


def _farthest_off(places: np.ndarray) -> float:
    """Returns the largest distance of a position from the best fit of even spacing."""
    numbers = np.arange(len(places))
    gaps = np.diff(places)
    if np.ptp(gaps) == 0:
        return 0.0
    best = minimize_scalar(
        lambda step: np.ptp(places - step * numbers),
        bounds=(gaps.min(), gaps.max()),
        method="bounded",
        options={"xatol": 1e-6 * np.ptp(gaps)},
    )
    return float(best.fun) / 2


def _unit_mm(values: np.ndarray) -> float:
    """Returns the unit in mm to which the values seem rounded: 1, 0.1 ...; 0 if not rounded.

    Also 0 for equal values, which reveal no unit.
    """
    if np.ptp(values) == 0:
        return 0.0
    for digits in range(FINEST_ROUNDING_DIGITS + 1):
        scaled = values * 10**digits
        if np.allclose(scaled, np.round(scaled), rtol=0, atol=1e-5):
            return 10.0**-digits
    return 0.0
