"""Reads CT scans, or draws phantoms, as crops of one size in the networks' range."""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, SpatialPad
from torch import Tensor

from ldm_project.array_files import is_whole, open_array, write_array
from ldm_project.cache import cache_folder
from ldm_project.config import PHANTOM, SLICE_AXES
from ldm_project.ct.ct_files import CtFiles, find_scans, progress, read_hu
from ldm_project.ct.hounsfield import network_from_hu
from ldm_project.ct.phantoms import AIR_HU, phantom_hu
from ldm_project.errors import DataError
from ldm_project.parsing import size_text
from ldm_project.settings import TrainingSettings

NUM_PHANTOMS = 80
CROP_VERSION = 2  # raise it whenever the way of cropping changes
# A crop may be padded with air up to twice the scan; beyond that it would be mostly padding.
MIN_SCAN_FRACTION = 0.5
MAX_WARNINGS = 50  # skipped files that are named one by one
# The axis of a RAS volume that each kind of slice cuts across.
AXIS_BY_SLICE = {"axial": 2, "coronal": 1, "sagittal": 0}
assert set(AXIS_BY_SLICE) == set(SLICE_AXES)


@dataclass(frozen=True)
class DataSpec:
    """Which CT to read, and how to crop and resample it."""

    source: str  # "phantom", a folder, a glob, or a public data set
    size: tuple[int, ...]  # pixels (2 axes) or voxels (3 axes) of an image
    slice_axis: str = "axial"  # the kind of slices, where size has 2 axes
    spacing_mm: tuple[float, ...] | None = None  # None: as scanned
    seed: int = 0
    num_phantoms: int = NUM_PHANTOMS


def data_spec(settings: TrainingSettings) -> DataSpec:
    """Returns the data specification of a training."""
    return DataSpec(
        source=settings.data,
        size=settings.size,
        slice_axis=settings.slice_axis,
        spacing_mm=settings.spacing_mm,
        seed=settings.seed,
    )


class Scan(Protocol):
    """One scan; all scans of the same person have the same ``patient``."""

    @property
    def patient(self) -> str:
        """An identifier of the person who was scanned."""
        ...

    @property
    def identity(self) -> str:
        """A text that is equal for two scans only if their voxels are equal."""
        ...

    def image_hu(self, epoch: int) -> Tensor:
        """Returns an image ``(1, *size)`` in HU; for 2D sizes, the slice drawn for the epoch."""
        ...


@dataclass(frozen=True)
class PhantomScan:
    """A phantom, drawn anew at each call of ``image_hu``."""

    size: tuple[int, ...]
    seed: int

    @property
    def patient(self) -> str:
        """Each phantom is a different patient."""
        return str(self.seed)

    @property
    def identity(self) -> str:
        """The size and the seed, which determine the voxels."""
        return f"{PHANTOM} {size_text(self.size)} {self.seed}"

    def image_hu(self, epoch: int) -> Tensor:
        """Returns the phantom, or its slice for this epoch."""
        return phantom_hu(self.size, seed=self.seed, epoch=epoch)


@dataclass(frozen=True)
class CroppedScan:
    """A scan whose crop is kept in the cache; only images in use are in memory."""

    file: Path  # int16 HU, (*size) in 3D, (num_slices, *size) in 2D
    num_axes: int
    seed: int
    patient: str

    @property
    def identity(self) -> str:
        """The name of the crop's file, a digest of everything that determines the voxels."""
        return self.file.stem

    def image_hu(self, epoch: int) -> Tensor:
        """Returns the crop, or its slice for this epoch."""
        crop = open_array(self.file)
        if crop.ndim > self.num_axes:
            crop = crop[np.random.default_rng((self.seed, epoch)).integers(len(crop))]
        return torch.from_numpy(crop.astype(np.float32)).unsqueeze(0)


@dataclass(frozen=True)
class CtScans:
    """The scans to draw images from: each epoch draws one image of each scan.

    ``digest`` identifies the data set: by the phantoms' parameters, or by the names and sizes of
    the files, without any folder's name.
    """

    scans: tuple[Scan, ...]
    seed: int
    digest: str
    num_skipped: int
    is_phantom: bool

    @property
    def num_scans(self) -> int:
        """The number of scans."""
        return len(self.scans)

    @property
    def identity(self) -> str:
        """A text that is equal for two sets of scans only if their batches are equal."""
        return digest_of(f"{[scan.identity for scan in self.scans]} {self.seed}")

    def images(self, epoch: int) -> Iterator[Tensor]:
        """Yields one image ``(1, *size)`` in [-1, 1] per scan."""
        for scan in self.scans:
            yield network_from_hu(scan.image_hu(epoch))

    def split(self, held_out_fraction: float) -> tuple["CtScans", "CtScans"]:
        """Returns the scans to train on and the held-out scans; no patient is in both.

        If all scans are of one patient, none can be held out: both results then hold every scan,
        and a warning is printed.
        """
        patients = list(dict.fromkeys(scan.patient for scan in self.scans))
        if len(patients) == 1:
            warnings.warn(
                "All scans are of one patient, so none is held out: the validation loss and the "
                "quality are those of scans that were trained on. Add scans of other patients.",
                stacklevel=2,
            )
            return self, self
        order = np.random.default_rng(self.seed).permutation(len(patients))
        num_held_out = max(1, round(held_out_fraction * len(patients)))
        held_out = {patients[index] for index in order[:num_held_out]}
        return (
            replace(self, scans=tuple(s for s in self.scans if s.patient not in held_out)),
            replace(self, scans=tuple(s for s in self.scans if s.patient in held_out)),
        )


def open_scans(spec: DataSpec) -> CtScans:
    """Returns the scans of a source; skips unusable files with a warning, and counts them.

    Crops stay in the cache: a scan is read again only when its files or the specification change.

    Raises:
        DataError: the source holds no CT of this size; the message gives the first reason.
        CacheError: a crop cannot be written.
    """
    if spec.source == PHANTOM:
        return _phantoms(spec)
    found = find_scans(spec.source)
    scans: list[Scan] = []
    reasons = list(found.left_out)
    for files in progress(found.scans, "Cutting scans out"):
        try:
            scans.append(_cropped(files, spec))
        except DataError as error:
            reasons.append(str(error))
    if not scans:
        raise DataError(
            f"None of {len(reasons)} scans in {spec.source!r} can be used: {reasons[0]}"
        )
    for reason in reasons[:MAX_WARNINGS]:
        warnings.warn(f"Skipped: {reason}", stacklevel=2)
    if len(reasons) > MAX_WARNINGS:
        more = len(reasons) - MAX_WARNINGS
        warnings.warn(f"Skipped: {more} more, which are not named here.", stacklevel=2)
    return CtScans(
        tuple(scans),
        spec.seed,
        _digest(found.scans, spec),
        num_skipped=len(reasons),
        is_phantom=False,
    )


def batches(scans: CtScans, *, batch_size: int, num_skipped: int = 0) -> Iterator[Tensor]:
    """Yields batches ``(B, 1, *size)`` in [-1, 1] without end, in a new order each epoch.

    The first ``num_skipped`` batches are left out, and their images are not read.
    """
    drawn = islice(_drawn(scans), num_skipped * batch_size, None)
    while True:
        chosen = islice(drawn, batch_size)
        yield torch.stack([network_from_hu(scan.image_hu(epoch)) for scan, epoch in chosen])


def _drawn(scans: CtScans) -> Iterator[tuple[Scan, int]]:
    """Yields pairs of a scan and an epoch's number without end: each scan once per epoch."""
    generator = np.random.default_rng(scans.seed)
    for epoch in count():
        for index in generator.permutation(scans.num_scans):
            yield scans.scans[index], epoch


def _phantoms(spec: DataSpec) -> CtScans:
    first_seed = spec.seed * spec.num_phantoms  # different seeds give different patients
    scans = tuple(
        PhantomScan(spec.size, first_seed + number) for number in range(spec.num_phantoms)
    )
    text = f"{PHANTOM} {spec.size} {spec.seed} {spec.num_phantoms}"
    return CtScans(scans, spec.seed, digest_of(text), num_skipped=0, is_phantom=True)


def _cropped(files: CtFiles, spec: DataSpec) -> CroppedScan:
    """Returns a scan with its crop in the cache; cuts the crop first if the cache lacks it.

    Raises:
        DataError: the scan cannot be used.
        CacheError: the crop cannot be written.
    """
    path = cache_folder() / "crops" / f"{_crop_key(files, spec)}.npy"
    if not is_whole(path):
        crop = _crop(files, spec)
        write_array(path, [crop], shape=crop.shape, dtype=np.int16)
    # Different series often have equal file names; a NIfTI patient can be a path, which may change.
    name = f"{files.patient if files.is_dicom else ''}{files.paths[0].name}"
    seed = int(digest_of(name), 16) % 2**32
    return CroppedScan(path, len(spec.size), seed=seed ^ spec.seed, patient=files.patient)


def _crop_key(files: CtFiles, spec: DataSpec) -> str:
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


def _crop(files: CtFiles, spec: DataSpec) -> np.ndarray:
    """Reads a scan and returns the crop around its centre, in HU.

    Raises:
        DataError: the scan cannot be used.
    """
    volume = read_hu(files, spacing_mm=spec.spacing_mm)
    size = list(spec.size)
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
    return copy


def _digest(scans: Sequence[CtFiles], spec: DataSpec) -> str:
    files = sorted((path.name, path.stat().st_size) for scan in scans for path in scan.paths)
    return digest_of(f"{files} {spec.size} {spec.slice_axis} {spec.spacing_mm}")


def digest_of(text: str) -> str:
    """Returns a short digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
