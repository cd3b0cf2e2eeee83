"""CT in: scans of a folder, or phantoms, as crops of one size in the networks' range."""

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
from ldm_project.ct.ct_files import CtFiles, find_scans, read_hu
from ldm_project.ct.hounsfield import network_from_hu
from ldm_project.ct.phantoms import AIR_HU, phantom_hu
from ldm_project.errors import DataError
from ldm_project.parsing import size_text
from ldm_project.settings import TrainingSettings

NUM_PHANTOMS = 80
CROP_VERSION = 1  # another one where crops are cut otherwise
# A crop may be padded with air up to twice the scan; less of it would hardly be a scan.
MIN_SCAN_FRACTION = 0.5
# The axis of a RAS volume that each kind of slice cuts across.
AXIS_BY_SLICE = {"axial": 2, "coronal": 1, "sagittal": 0}
assert set(AXIS_BY_SLICE) == set(SLICE_AXES)


@dataclass(frozen=True)
class DataSpec:
    """What CT to read, and how."""

    source: str  # "phantom", a folder, a glob, or a public data set
    size: tuple[int, ...]  # pixels (2 axes) or voxels (3 axes) of an image
    slice_axis: str = "axial"  # which slices, where size has 2 axes
    spacing_mm: tuple[float, ...] | None = None  # None: as scanned
    seed: int = 0
    num_phantoms: int = NUM_PHANTOMS


def data_spec(settings: TrainingSettings) -> DataSpec:
    """Returns what CT a training reads, and how."""
    return DataSpec(
        source=settings.data,
        size=settings.size,
        slice_axis=settings.slice_axis,
        spacing_mm=settings.spacing_mm,
        seed=settings.seed,
    )


class Scan(Protocol):
    """One scan of a patient; all scans of one have the same ``patient``."""

    @property
    def patient(self) -> str:
        """Who was scanned."""
        ...

    @property
    def identity(self) -> str:
        """Scans of one identity have the same voxels."""
        ...

    def image_hu(self, epoch: int) -> Tensor:
        """Returns ``(1, *size)`` in HU; of a volume in 2D, the slice that the epoch draws."""
        ...


@dataclass(frozen=True)
class PhantomScan:
    """A phantom, drawn anew whenever it is asked for."""

    size: tuple[int, ...]
    seed: int

    @property
    def patient(self) -> str:
        """A phantom is a patient of its own."""
        return str(self.seed)

    @property
    def identity(self) -> str:
        """Its voxels follow from size and seed."""
        return f"{PHANTOM} {size_text(self.size)} {self.seed}"

    def image_hu(self, epoch: int) -> Tensor:
        """Returns the phantom, or its slice of this epoch."""
        return phantom_hu(self.size, seed=self.seed, epoch=epoch)


@dataclass(frozen=True)
class CroppedScan:
    """A scan whose crop lies in the cache: memory holds no more than the images in use."""

    file: Path  # int16 HU, (*size) in 3D, (num_slices, *size) in 2D
    num_axes: int
    seed: int
    patient: str

    @property
    def identity(self) -> str:
        """The crop's file is named by all that its voxels follow from."""
        return self.file.stem

    def image_hu(self, epoch: int) -> Tensor:
        """Returns the crop, or its slice of this epoch."""
        crop = open_array(self.file)
        if crop.ndim > self.num_axes:
            crop = crop[np.random.default_rng((self.seed, epoch)).integers(len(crop))]
        return torch.from_numpy(crop.astype(np.float32)).unsqueeze(0)


@dataclass(frozen=True)
class CtScans:
    """Scans that images are drawn from, one of each scan per epoch.

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
        """How many scans there are."""
        return len(self.scans)

    @property
    def identity(self) -> str:
        """Batches are the same, voxel by voxel, where this is."""
        return digest_of(f"{[scan.identity for scan in self.scans]} {self.seed}")

    def images(self, epoch: int) -> Iterator[Tensor]:
        """Yields one image ``(1, *size)`` in [-1, 1] per scan."""
        for scan in self.scans:
            yield network_from_hu(scan.image_hu(epoch))

    def split(self, held_out_fraction: float) -> tuple["CtScans", "CtScans"]:
        """Returns the scans to train on and those held out; no patient is among both.

        Where all scans are of one patient nothing can be held out: all are on both sides, and a
        warning says so.
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
    """Returns the scans of a source; files that cannot be used are skipped, warned of, counted.

    Crops stay in the cache: a scan is read again only when its files or what is asked for change.

    Raises:
        DataError: the source holds no CT of this size at all; names the first reason.
        CacheError: a crop cannot be kept.
    """
    if spec.source == PHANTOM:
        return _phantoms(spec)
    found = find_scans(spec.source)
    scans: list[Scan] = []
    reasons = [f"{path} is no whole DICOM file." for path in found.unreadable]
    for files in found.scans:
        try:
            scans.append(_cropped(files, spec))
        except DataError as error:
            reasons.append(str(error))
    if not scans:
        raise DataError(
            f"None of {len(reasons)} scans in {spec.source!r} can be used: {reasons[0]}"
        )
    for reason in reasons:
        warnings.warn(f"Skipped: {reason}", stacklevel=2)
    return CtScans(
        tuple(scans),
        spec.seed,
        _digest(found.scans, spec),
        num_skipped=len(reasons),
        is_phantom=False,
    )


def batches(scans: CtScans, *, batch_size: int, num_skipped: int = 0) -> Iterator[Tensor]:
    """Yields batches ``(B, 1, *size)`` in [-1, 1] for ever, each epoch in an order of its own.

    The images of the first ``num_skipped`` batches are not read.
    """
    drawn = islice(_drawn(scans), num_skipped * batch_size, None)
    while True:
        chosen = islice(drawn, batch_size)
        yield torch.stack([network_from_hu(scan.image_hu(epoch)) for scan, epoch in chosen])


def _drawn(scans: CtScans) -> Iterator[tuple[Scan, int]]:
    """Yields each scan once an epoch, for ever, with the epoch's number."""
    generator = np.random.default_rng(scans.seed)
    for epoch in count():
        for index in generator.permutation(scans.num_scans):
            yield scans.scans[index], epoch


def _phantoms(spec: DataSpec) -> CtScans:
    first_seed = spec.seed * spec.num_phantoms  # another seed, other patients
    scans = tuple(
        PhantomScan(spec.size, first_seed + number) for number in range(spec.num_phantoms)
    )
    text = f"{PHANTOM} {spec.size} {spec.seed} {spec.num_phantoms}"
    return CtScans(scans, spec.seed, digest_of(text), num_skipped=0, is_phantom=True)


def _cropped(files: CtFiles, spec: DataSpec) -> CroppedScan:
    """Returns a scan whose crop is in the cache, where it is put if it is not there yet.

    Raises:
        DataError: the scan cannot be used.
        CacheError: the crop cannot be kept.
    """
    path = cache_folder() / "crops" / f"{_crop_key(files, spec)}.npy"
    if not is_whole(path):
        crop = _crop(files, spec)
        write_array(path, [crop], shape=crop.shape, dtype=np.int16)
    # Series often share their files' names; NIfTI's patients can be paths, which may change.
    name = f"{files.patient if files.is_dicom else ''}{files.paths[0].name}"
    seed = int(digest_of(name), 16) % 2**32
    return CroppedScan(path, len(spec.size), seed=seed ^ spec.seed, patient=files.patient)


def _crop_key(files: CtFiles, spec: DataSpec) -> str:
    """Returns what tells a crop from others: the files, as last changed, and how it is cut."""
    stats = [(path.resolve(), path.stat()) for path in files.paths]
    read = [(str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return digest_of(f"{CROP_VERSION} {read} {spec.size} {spec.slice_axis} {spec.spacing_mm}")


def _crop(files: CtFiles, spec: DataSpec) -> np.ndarray:
    """Reads a scan and returns what is around its centre, in HU.

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
    # A crop is a view of the whole scan: the copy lets the rest of it go.
    copy: np.ndarray = np.asarray(crop).round().clip(-32768, 32767).astype(np.int16)
    return copy


def _digest(scans: Sequence[CtFiles], spec: DataSpec) -> str:
    files = sorted((path.name, path.stat().st_size) for scan in scans for path in scan.paths)
    return digest_of(f"{files} {spec.size} {spec.slice_axis} {spec.spacing_mm}")


def digest_of(text: str) -> str:
    """Returns a short text that stands for another."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
