"""How slices lie in space: which are parallel, in what order, and whether evenly spaced."""

from functools import lru_cache

import numpy as np
from scipy.optimize import minimize_scalar

Triple = tuple[float, float, float]
Cosines = tuple[float, float, float, float, float, float]

# Lengths and angle of the two image axes may be this far from 1 and 90 degrees (as a cosine).
AXES_TOLERANCE = 0.02
PARALLEL_TOLERANCE_DEGREES = 1.0
MAX_TILT_DEGREES = 1.0
# How far a slice may lie from its even place, in parts of the distance of slices.
PLACE_TOLERANCE = 0.1
# Rounded positions may lie farther off, but not so far that a missing slice would look like it.
ROUNDED_PLACE_TOLERANCE = 0.2
# A gap of a missing slice is twice as wide as the others; rounding never comes near that.
MISSING_GAP_RATIO = 1.75
FINEST_ROUNDING_DIGITS = 4
MAX_TILT_ROUNDING_MM = 0.1  # positions in whole mm would hide a tilt of a few slices


@lru_cache(maxsize=1024)  # all slices of a series ask for the same
def unit_axes(orientation: Cosines) -> np.ndarray | None:
    """Returns the row and the column axis ``(2, 3)``, each of length 1.

    ``None`` where the six cosines of ImageOrientationPatient are no two axes at right angles.
    """
    axes = np.asarray(orientation, dtype=float).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if not np.all(np.abs(lengths - 1) < AXES_TOLERANCE):  # also where they are no numbers
        return None
    axes = axes / lengths[:, None]
    axes.setflags(write=False)
    return axes if abs(axes[0] @ axes[1]) < AXES_TOLERANCE else None


def normal_of(axes: np.ndarray) -> np.ndarray:
    """Returns the direction ``(3,)`` in which slices of these axes are stacked."""
    normal = np.cross(axes[0], axes[1])
    return normal / np.linalg.norm(normal)


def are_parallel(axes: np.ndarray, other: np.ndarray) -> bool:
    """Returns whether both axes point the same way; slices turned in their plane do not."""
    cosines = np.sum(axes * other, axis=1)
    return bool(np.all(cosines > np.cos(np.radians(PARALLEL_TOLERANCE_DEGREES))))


def tilt_degrees(positions: np.ndarray, normal: np.ndarray) -> float:
    """Returns the angle between the normal and the line along which slices are stacked.

    What rounded positions may add to it is taken off.
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
    """Returns what is wrong with the spacing of slices, or ``None`` where it is even.

    Each slice is judged by its distance from the place that it has in an even stack. Half of the
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
    """Returns how far a slice lies beside the line from the first to the last one, at most."""
    line = positions[-1] - positions[0]
    line = line / np.linalg.norm(line)
    offsets = positions - positions[0]
    beside = offsets - np.outer(offsets @ line, line)
    return float(np.linalg.norm(beside, axis=1).max())


def _farthest_off(places: np.ndarray) -> float:
    """Returns how far the farthest place is from the even places that fit best."""
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
    """Returns the unit to which numbers seem rounded: 1, 0.1 ...; 0 where they are not.

    Numbers that are all the same tell nothing, and differ by nothing.
    """
    if np.ptp(values) == 0:
        return 0.0
    for digits in range(FINEST_ROUNDING_DIGITS + 1):
        scaled = values * 10**digits
        if np.allclose(scaled, np.round(scaled), rtol=0, atol=1e-5):
            return 10.0**-digits
    return 0.0
