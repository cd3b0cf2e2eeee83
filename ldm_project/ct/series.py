"""Groups DICOM slices into scans: the slices of a series that form one stack."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ldm_project.ct.dicom_headers import DicomSlice
from ldm_project.ct.slice_geometry import (
    MAX_TILT_DEGREES,
    are_parallel,
    normal_of,
    sideways_mm,
    tilt_degrees,
    unevenness,
    unit_axes,
)
from ldm_project.errors import DataError
from ldm_project.parsing import size_text

CT = "CT"
SPACING_TOLERANCE_FRACTION = 0.001


@dataclass(frozen=True)
class SortedSlices:
    """The slices of each scan in stack order, and the reasons for leaving out the remaining ones.

    Each text of ``left_out`` covers all slices of one series that are left out for one reason.
    """

    scans: tuple[tuple[DicomSlice, ...], ...]
    left_out: tuple[str, ...]


def sort_slices(slices: Iterable[DicomSlice]) -> SortedSlices:
    """Returns the scans among slices in any order: one stack from each series."""
    series: dict[tuple[str, ...], list[DicomSlice]] = defaultdict(list)
    for one in slices:
        series[one.series].append(one)
    scans, left_out = [], []
    for members in series.values():
        stack, reasons = _largest_stack(members)
        left_out += reasons
        if stack:
            scans.append(tuple(_in_order(stack)))
    return SortedSlices(tuple(scans), tuple(left_out))


def check_stack(name: str, slices: Sequence[DicomSlice]) -> None:
    """Checks that the slices of a scan, in stack order, are evenly spaced CT without tilt.

    Raises:
        DataError: they are not; the message begins with the scan's name.
    """
    first = slices[0]
    if first.modality != CT:
        raise DataError(f"{name} has modality {first.modality}, not CT. Leave it out of data=.")
    if not first.is_grey:
        raise DataError(f"{name} is a colour image; a CT slice is one grey one.")
    if min(first.shape) < 1:
        raise DataError(f"{name} has no image.")
    if len(slices) == 1:
        return
    if not first.has_place:
        raise DataError(
            f"{name}: its headers do not say where its slices lie (ImagePositionPatient, "
            f"ImageOrientationPatient), so that their order is unknown. Leave it out of data=."
        )
    if first.spacing_mm is None:
        raise DataError(f"{name}: its headers do not say how large its pixels are (PixelSpacing).")
    positions = np.array([one.position_mm for one in slices])
    normal = normal_of(_axes(first))
    if reason := unevenness(positions, normal):
        raise DataError(f"{name}: {reason}")
    tilt = tilt_degrees(positions, normal)
    if tilt > MAX_TILT_DEGREES:
        raise DataError(
            f"{name} was scanned with a tilted gantry ({tilt:.1f} degrees); its slices do not lie "
            f"above each other. Resample it upright, or leave it out."
        )
    if sideways_mm(positions) > max(first.spacing_mm):
        raise DataError(f"{name}: some of its slices lie beside the others, not above them.")


def _largest_stack(slices: Sequence[DicomSlice]) -> tuple[list[DicomSlice], list[str]]:
    """Returns a series' largest stack, and the reasons for leaving out its other slices."""
    reasons: list[str] = []

    def keep(group: Sequence[DicomSlice], is_kept: Callable[[DicomSlice], bool], why: str) -> list:
        dropped = [one for one in group if not is_kept(one)]
        if dropped:
            reasons.append(f"{_named(dropped)} left out of its series: {why}.")
        return [one for one in group if is_kept(one)]

    first_copies = {id(one) for one in _without_copies(slices)}
    kept = keep(slices, lambda one: id(one) in first_copies, "the same slice lies there twice")
    if any(one.modality == CT for one in kept):
        kept = keep(kept, lambda one: one.modality == CT, "no CT, but of another modality")
        kept = keep(kept, lambda one: not one.is_localizer, "a localizer (scout)")
    groups: list[list[DicomSlice]] = []
    for one in kept:
        for group in groups:
            if _fit_together(group[0], one):
                group.append(one)
                break
        else:
            groups.append([one])
    groups.sort(key=lambda group: (group[0].is_grey, group[0].has_place, len(group)), reverse=True)
    for group in groups[1:]:
        why = _difference(groups[0][0], group[0])
        reasons.append(f"{_named(group)} left out of its series: {why}.")
    return (groups[0] if groups else []), reasons


def _without_copies(slices: Sequence[DicomSlice]) -> list[DicomSlice]:
    """Returns the slices without duplicates, which share both UID and place."""
    seen = set()
    kept = []
    for one in slices:
        identity = (one.uid, one.frame, one.position_mm, one.orientation)
        if not one.uid or identity not in seen:
            kept.append(one)
        seen.add(identity)
    return kept


def _fit_together(one: DicomSlice, other: DicomSlice) -> bool:
    """Returns ``True`` if two slices have the size, spacing and direction of one stack."""
    if (one.is_grey, one.shape, one.has_place) != (other.is_grey, other.shape, other.has_place):
        return False
    if one.spacing_mm is None or other.spacing_mm is None:
        if one.spacing_mm != other.spacing_mm:
            return False
    elif not np.allclose(one.spacing_mm, other.spacing_mm, rtol=SPACING_TOLERANCE_FRACTION):
        return False
    return not one.has_place or are_parallel(_axes(one), _axes(other))


def _difference(main: DicomSlice, other: DicomSlice) -> str:
    """Returns the difference, in words, that keeps a slice out of a stack."""
    if not other.is_grey:
        return "a colour image"
    if not other.has_place:
        return "no place (ImagePositionPatient, ImageOrientationPatient) in its header"
    if main.shape != other.shape:
        return f"another size, {size_text(other.shape)} in place of {size_text(main.shape)}"
    if main.has_place and not are_parallel(_axes(main), _axes(other)):
        return "another orientation"
    return "another pixel spacing"


def _in_order(slices: list[DicomSlice]) -> list[DicomSlice]:
    """Returns slices sorted along the normal; by file and frame if they have no positions."""
    by_file = sorted(slices, key=lambda one: (one.path, one.frame))
    if not slices[0].has_place:
        return by_file
    normal = normal_of(_axes(slices[0]))
    return sorted(by_file, key=lambda one: float(np.array(one.position_mm) @ normal))


def _axes(one: DicomSlice) -> np.ndarray:
    assert one.orientation is not None
    axes = unit_axes(one.orientation)
    assert axes is not None  # read_slices checks it
    return axes


def _named(slices: Sequence[DicomSlice]) -> str:
    first = min(slices, key=lambda one: (one.path, one.frame)).name
    return first if len(slices) == 1 else f"{first} and {len(slices) - 1} more"
