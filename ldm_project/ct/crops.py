"""Cuts scans to one size, and keeps each crop in the cache with the facts of its scan."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, SpatialPad
from torch import Tensor

from ldm_project.array_files import is_whole, open_array, write_array
from ldm_project.cache import CACHE_VARIABLE, cache_folder
from ldm_project.config import HU_MAX, HU_MIN, SLICE_AXES
from ldm_project.ct.ct_files import CtFiles, read_scan
from ldm_project.ct.phantoms import AIR_HU
from ldm_project.errors import CacheError, DataError
from ldm_project.parsing import size_text

CROP_VERSION = 2  # raise it whenever the way of cropping changes
# A crop may be padded with air up to twice the scan; beyond that it would be mostly padding.
MIN_SCAN_FRACTION = 0.5
# The axis of a RAS volume that each kind of slice cuts across.
AXIS_BY_SLICE = {"axial": 2, "coronal": 1, "sagittal": 0}
assert set(AXIS_BY_SLICE) == set(SLICE_AXES)

Part: TypeAlias = tuple[slice, ...]  # of an image, one slice per axis; () is the whole image
WHOLE: Part = ()


@dataclass(frozen=True)
class CropSpec:
    """How to cut a scan: the size, and what is done to the scan before."""

    size: tuple[int, ...]  # pixels (2 axes) or voxels (3 axes) of an image
    slice_axis: str = "axial"  # the kind of slices, where size has 2 axes
    spacing_mm: tuple[float, ...] | None = None  # None: as scanned


@dataclass(frozen=True)
class ScanFacts:
    """What is known of a scan's voxels, and what its crop leaves of them.

    Attributes:
        shape: of the scan to the right, front and top, after any resampling.
        spacing_mm: from voxel to voxel on these axes, after any resampling; ``None`` if the file
            does not say.
        lowest_hu: of the scan.
        highest_hu: of the scan.
        outside_fraction: of the scan's voxels that the networks see clipped to their window.
        kept_fraction: of the scan's voxels that lie in the crop.
        padded_fraction: of the crop's voxels that are air around the scan.
    """

    shape: tuple[int, ...]
    spacing_mm: tuple[float, ...] | None
    lowest_hu: float
    highest_hu: float
    outside_fraction: float
    kept_fraction: float
    padded_fraction: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScanFacts":
        """Returns the facts that ``asdict`` and JSON have made a dictionary of.

        Raises:
            KeyError, TypeError: it is no such dictionary.
        """
        spacing_mm = values["spacing_mm"]
        tuples = {
            "shape": tuple(values["shape"]),
            "spacing_mm": None if spacing_mm is None else tuple(spacing_mm),
        }
        return cls(**(values | tuples))


@dataclass(frozen=True)
class CroppedScan:
    """A scan whose crop is kept in the cache; only images in use are in memory."""

    file: Path  # int16 HU, (*size) in 3D, (num_slices, *size) in 2D
    size: tuple[int, ...]
    seed: int
    patient: str
    facts: ScanFacts

    @property
    def identity(self) -> str:
        """The name of the crop's file, a digest of everything that determines the voxels."""
        return self.file.stem

    def image_hu(self, epoch: int, part: Part = WHOLE) -> Tensor:
        """Returns the crop, its slice for this epoch, or a part of either, ``(1, *S)``."""
        crop = open_array(self.file)
        if crop.ndim > len(self.size):
            crop = crop[np.random.default_rng((self.seed, epoch)).integers(len(crop))]
        return torch.from_numpy(crop[part].astype(np.float32)).unsqueeze(0)


def cropped(files: CtFiles, spec: CropSpec, *, seed: int) -> CroppedScan:
    """Returns a scan with its crop in the cache; cuts the crop first if the cache lacks it.

    Args:
        files: of the scan.
        spec: how to cut it.
        seed: of the slices that are drawn from it, in 2D.

    Raises:
        DataError: the scan cannot be used.
        CacheError: the crop cannot be written.
    """
    path = cache_folder() / "crops" / f"{_crop_key(files, spec)}.npy"
    facts = _kept_facts(path) if is_whole(path) else None
    if facts is None:
        crop, facts = _crop(files, spec)
        write_array(path, [crop], shape=crop.shape, dtype=np.int16)
        _keep_facts(path, facts)
    # Different series often have equal file names; a NIfTI patient can be a path, which may change.
    name = f"{files.patient if files.is_dicom else ''}{files.paths[0].name}"
    own_seed = int(digest_of(name), 16) % 2**32
    return CroppedScan(path, spec.size, own_seed ^ seed, files.patient, facts)


def _facts_file(crop_file: Path) -> Path:
    return crop_file.parent.parent / "facts" / f"{crop_file.stem}.json"


def _kept_facts(crop_file: Path) -> ScanFacts | None:
    """Returns the facts beside a crop; ``None`` for a crop of before that has none."""
    try:
        return ScanFacts.from_dict(json.loads(_facts_file(crop_file).read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep_facts(crop_file: Path, facts: ScanFacts) -> None:
    path = _facts_file(crop_file)
    staging = path.with_name(f"{path.stem}.{uuid4().hex}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        staging.write_text(json.dumps(asdict(facts)))
        staging.replace(path)
    except OSError as error:
        raise CacheError(
            f"Cannot write {path}: {error}. Free disk space, or name another folder by "
            f"{CACHE_VARIABLE}."
        ) from error


def _crop_key(files: CtFiles, spec: CropSpec) -> str:
    """Returns the cache key of a crop: its files with their change times, and the specification.

    Raises:
        DataError: a file no longer exists.
    """
    try:
        stats = [(path.resolve(), path.stat()) for path in files.paths]
    except OSError as error:
        raise DataError(f"{files.name} cannot be read: {error}") from error
    read = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return digest_of(f"{CROP_VERSION} {read} {spec.size} {spec.slice_axis} {spec.spacing_mm}")


def _crop(files: CtFiles, spec: CropSpec) -> tuple[np.ndarray, ScanFacts]:
    """Reads a scan; returns the crop around its centre, in HU, and the facts of the scan.

    Raises:
        DataError: the scan cannot be used.
    """
    scan = read_scan(files, spacing_mm=spec.spacing_mm)
    volume, size = scan.voxels, list(spec.size)
    if len(size) == 2:
        axis = AXIS_BY_SLICE[spec.slice_axis]
        volume = volume.movedim(1 + axis, 1)
        size.insert(0, volume.shape[1])  # every slice is kept
    shape = tuple(volume.shape[1:])
    if len(spec.size) == 3 and min(shape) == 1:
        raise DataError(f"{files.name} is a single slice; dims=3 needs volumes.")
    too_small = [
        have for have, want in zip(shape, size, strict=True) if have < MIN_SCAN_FRACTION * want
    ]
    if too_small:
        raise DataError(
            f"{files.name} has {size_text(shape)} voxels, along an axis less than half of "
            f"{size_text(tuple(size))}. Use a smaller size=, or spacing_mm= to resample."
        )
    crop = SpatialPad(size, mode="constant", value=AIR_HU)(CenterSpatialCrop(size)(volume))[0]
    # The crop is a view of the whole scan: copying it lets memory release the rest.
    copy: np.ndarray = np.asarray(crop).round().clip(-32768, 32767).astype(np.int16)
    return copy, _facts(scan.voxels, scan.spacing_mm, shape=shape, size=tuple(size))


def _facts(
    voxels: Tensor,
    spacing_mm: tuple[float, ...] | None,
    *,
    shape: tuple[int, ...],
    size: tuple[int, ...],
) -> ScanFacts:
    """Returns the facts of a scan ``(1, X, Y, Z)``, which has this shape where it is cut to size.

    The shape has its axes in the order of the size, in which slices come first.
    """
    num_kept = float(np.prod([min(have, want) for have, want in zip(shape, size, strict=True)]))
    is_outside = (voxels < HU_MIN) | (voxels > HU_MAX)
    return ScanFacts(
        shape=tuple(voxels.shape[1:]),
        spacing_mm=spacing_mm,
        lowest_hu=voxels.min().item(),
        highest_hu=voxels.max().item(),
        outside_fraction=is_outside.float().mean().item(),
        kept_fraction=num_kept / float(np.prod(shape)),
        padded_fraction=1 - num_kept / float(np.prod(size)),
    )


def digest_of(text: str) -> str:
    """Returns a short digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
