"""Reads NIfTI files as volumes with their affines."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ldm_project.errors import DataError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
BIDS_SUBJECT = re.compile(r"(?<![a-zA-Z0-9])sub-[a-zA-Z0-9]+")
# NIfTI's unit of space as mm; a file that names none is in mm.
MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}
MAX_VOXEL_MM = 100.0  # no CT is as coarse: such a size is in another unit than the file says
MAX_SHEAR_DEGREES = 1.0
MAX_GZIP_RATIO = 1032  # largest ratio of content to file size that deflate can reach


def is_nifti(path: Path) -> bool:
    """Returns ``True`` if a file has a NIfTI suffix."""
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def nifti_patient(path: Path) -> str:
    """Returns the subject in a BIDS path (``sub-01``), else the path: NIfTI names no patient."""
    named = BIDS_SUBJECT.findall(str(path))
    return named[-1] if named else str(path)


def nifti_hu(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns a file's volume ``(X, Y, Z)`` float32 as it is stored, and its affine to RAS, mm.

    Raises:
        DataError: the file is not a single volume of grey voxels.
        Exception: nibabel may raise any exception for a damaged file.
    """
    with _quiet():
        image: Any = nib.load(path)
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:  # one volume, stored as a series of length 1
            shape = shape[:-1]
        if len(shape) not in (2, 3):
            raise DataError(
                f"{path} has {len(image.shape)} dimensions; a CT has 2 or 3. "
                f"Split it into one file per volume."
            )
        if min(shape) < 1:
            raise DataError(f"{path} has no voxels: its shape is {image.shape}.")
        if image.dataobj.offset < getattr(image.header, "single_vox_offset", 0):
            raise DataError(f"{path} says that its voxels begin within its header (vox_offset).")
        dtype = image.get_data_dtype()
        if dtype.kind not in "iuf":
            raise DataError(f"{path} holds {dtype} (colour or complex); a CT has one grey value.")
        _check_size(path, image)
        voxels = np.asarray(image.dataobj, dtype=np.float32).reshape((*shape, 1)[:3])
        affine = _affine_mm(path, image)
    if not np.isfinite(affine).all() or abs(np.linalg.det(_directions(affine))) < 1e-3:
        raise DataError(f"{path} does not say how its axes lie: its affine is no such matrix.")
    _check_axes(path, affine)
    return voxels, affine


def _affine_mm(path: Path, image: Any) -> np.ndarray:
    """Returns a file's affine in mm, whatever unit it names."""
    header = image.header
    has_affine = header.get("qform_code", 1) > 0 or header.get("sform_code", 1) > 0
    if not has_affine and not _has_sizes(image):
        raise DataError(f"{path} does not say how large its voxels are (pixdim, sform, qform).")
    affine = np.array(image.affine, dtype=float)
    affine[:3] *= MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return affine


def _has_sizes(image: Any) -> bool:
    """Returns whether a file itself gives the size of its voxels: nibabel makes 0 to 1 mm."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        header = type(image.header).from_fileobj(file, check=False)
    sizes = np.abs(header["pixdim"][1:4])
    return bool(np.all(np.isfinite(sizes) & (sizes > 0)))


def _check_axes(path: Path, affine: np.ndarray) -> None:
    """Checks that voxels have the size of a CT's, and that the axes stand at right angles."""
    largest_mm = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    if largest_mm > MAX_VOXEL_MM:
        raise DataError(
            f"{path} has voxels of {largest_mm:g} mm by its header: is its unit (xyzt_units) wrong?"
        )
    axes = _directions(affine)
    cosines = np.abs(axes.T @ axes - np.eye(3))
    if cosines.max() > math.sin(math.radians(MAX_SHEAR_DEGREES)):
        degrees = math.degrees(math.asin(min(float(cosines.max()), 1.0)))
        raise DataError(
            f"{path} is a tilted gantry's: its axes are {degrees:.1f} degrees off right angles. "
            f"Resample it upright, or leave it out."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps nibabel from printing header faults on stderr; serious ones are raised anyway."""
    logger = nib.imageglobals.logger
    was_disabled = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = was_disabled


def _directions(affine: np.ndarray) -> np.ndarray:
    """Returns the axes of an affine, scaled to length 1; an axis of length 0 stays 0."""
    axes = affine[:3, :3]
    with np.errstate(all="ignore"):
        return np.nan_to_num(axes / np.linalg.norm(axes, axis=0))


def _check_size(path: Path, image: Any) -> None:
    """Checks that a file is large enough for the voxels in its header, before memory is used."""
    num_bytes = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    size = path.stat().st_size
    if num_bytes > size * (MAX_GZIP_RATIO if path.name.lower().endswith(".gz") else 1):
        raise DataError(f"{path} is too short for its {image.shape} voxels; it was cut off.")
