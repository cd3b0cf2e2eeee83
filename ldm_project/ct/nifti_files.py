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
        affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(_directions(affine))) < 1e-3:
        raise DataError(f"{path} does not say how its axes lie: its affine is no such matrix.")
    return voxels, affine


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
