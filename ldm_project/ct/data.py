"""Reads CT scans, or draws phantoms, as crops of one size in the networks' range."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ldm_project.config import NUM_PHANTOMS, PHANTOM
from ldm_project.ct.crops import WHOLE, CropSpec, Part, ScanFacts, cropped, digest_of
from ldm_project.ct.ct_files import CtFiles, find_scans, progress
from ldm_project.ct.hounsfield import network_from_hu
from ldm_project.ct.phantoms import phantom_hu
from ldm_project.errors import DataError
from ldm_project.parsing import num_phantoms, size_text
from ldm_project.settings import TrainingSettings

MAX_WARNINGS = 50  # skipped files that are named one by one


@dataclass(frozen=True)
class DataSpec:
    """Which CT to read, and how to crop and resample it."""

    source: str  # "phantom", a folder, a glob, or a public data set
    size: tuple[int, ...]  # pixels (2 axes) or voxels (3 axes) of an image
    slice_axis: str = "axial"  # the kind of slices, where size has 2 axes
    spacing_mm: tuple[float, ...] | None = None  # None: as scanned
    seed: int = 0
    num_phantoms: int = NUM_PHANTOMS

    @property
    def crop(self) -> CropSpec:
        """How each scan is cut."""
        return CropSpec(self.size, self.slice_axis, self.spacing_mm)


def data_spec(settings: TrainingSettings) -> DataSpec:
    """Returns the data specification of a training."""
    number = num_phantoms(settings.data)
    return DataSpec(
        source=settings.data if number is None else PHANTOM,
        num_phantoms=number or NUM_PHANTOMS,
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

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels or voxels of an image."""
        ...

    @property
    def facts(self) -> ScanFacts | None:
        """What is known of the scan before it was cut; ``None`` for a phantom."""
        ...

    def image_hu(self, epoch: int, part: Part = WHOLE) -> Tensor:
        """Returns an image ``(1, *size)`` in HU, or a part of it.

        For 2D sizes it is the slice drawn for the epoch.
        """
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

    @property
    def facts(self) -> None:
        """Nothing is known of a phantom but what it was drawn by."""

    def image_hu(self, epoch: int, part: Part = WHOLE) -> Tensor:
        """Returns the phantom, its slice for this epoch, or a part of either."""
        image_hu = phantom_hu(self.size, seed=self.seed, epoch=epoch)
        whole_channel: Part = (slice(None),)
        return image_hu[whole_channel + part]


@dataclass(frozen=True)
class CtScans:
    """The scans to draw images from: each epoch draws one image of each scan.

    ``digest`` identifies the data set: by the phantoms' parameters, or by the names and sizes of
    the files, without any folder's name. With a ``patch_size`` each image is a part of a scan's
    image at a random place, another one in each epoch.
    """

    scans: tuple[Scan, ...]
    seed: int
    digest: str
    num_skipped: int
    is_phantom: bool
    patch_size: tuple[int, ...] | None = None

    @property
    def num_scans(self) -> int:
        """The number of scans."""
        return len(self.scans)

    @property
    def identity(self) -> str:
        """A text that is equal for two sets of scans only if their batches are equal."""
        patches = f" {self.patch_size}" if self.patch_size else ""
        return digest_of(f"{[scan.identity for scan in self.scans]} {self.seed}{patches}")

    def images(self, epoch: int) -> Iterator[Tensor]:
        """Yields one image or patch, ``(1, *S)`` in [-1, 1], per scan."""
        for scan in self.scans:
            yield self.image(scan, epoch)

    def image(self, scan: Scan, epoch: int) -> Tensor:
        """Returns the image of a scan for an epoch, or its patch, ``(1, *S)`` in [-1, 1]."""
        part = WHOLE if self.patch_size is None else _random_part(scan, epoch, self.patch_size)
        return network_from_hu(scan.image_hu(epoch, part))

    def in_patches(self, patch_size: tuple[int, ...] | None) -> "CtScans":
        """Returns the same scans, of which each image is a patch; ``None`` leaves them whole."""
        return replace(self, patch_size=patch_size)

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
            scans.append(cropped(files, spec.crop, seed=spec.seed))
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
    """Yields batches ``(B, 1, *S)`` in [-1, 1] without end, in a new order each epoch.

    The first ``num_skipped`` batches are left out, and their images are not read.
    """
    drawn = islice(_drawn(scans), num_skipped * batch_size, None)
    while True:
        chosen = islice(drawn, batch_size)
        yield torch.stack([scans.image(scan, epoch) for scan, epoch in chosen])


def _drawn(scans: CtScans) -> Iterator[tuple[Scan, int]]:
    """Yields pairs of a scan and an epoch's number without end: each scan once per epoch."""
    generator = np.random.default_rng(scans.seed)
    for epoch in count():
        for index in generator.permutation(scans.num_scans):
            yield scans.scans[index], epoch


def _random_part(scan: Scan, epoch: int, patch_size: tuple[int, ...]) -> Part:
    """Returns a part of this size, at a place that depends on the scan and the epoch alone."""
    generator = np.random.default_rng((int(digest_of(scan.identity), 16), epoch))
    starts = [
        int(generator.integers(have - want + 1))
        for have, want in zip(scan.size, patch_size, strict=True)
    ]
    return tuple(
        slice(start, start + length) for start, length in zip(starts, patch_size, strict=True)
    )


def _phantoms(spec: DataSpec) -> CtScans:
    first_seed = spec.seed * spec.num_phantoms  # different seeds give different patients
    scans = tuple(
        PhantomScan(spec.size, first_seed + number) for number in range(spec.num_phantoms)
    )
    text = f"{PHANTOM} {spec.size} {spec.seed} {spec.num_phantoms}"
    return CtScans(scans, spec.seed, digest_of(text), num_skipped=0, is_phantom=True)


def _digest(scans: Sequence[CtFiles], spec: DataSpec) -> str:
    files = sorted((path.name, path.stat().st_size) for scan in scans for path in scan.paths)
    return digest_of(f"{files} {spec.size} {spec.slice_axis} {spec.spacing_mm}")
