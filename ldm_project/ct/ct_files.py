"""CT scans in files: finds the files of each scan and reads its voxels in Hounsfield units."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing, Transform
from torch import Tensor
from tqdm import tqdm

from ldm_project.ct.dicom_headers import DicomSlice, first_line, read_slices
from ldm_project.ct.dicom_pixels import stack_hu
from ldm_project.ct.nifti_files import is_nifti, nifti_hu, nifti_patient
from ldm_project.ct.series import check_stack, sort_slices
from ldm_project.ct.sources import source_files
from ldm_project.errors import DataError

# A CT shows air, whose value is -1000 HU; MR and label images have no value near -1000.
AIR_UPPER_HU = -500.0
# Metal is up to 30,000 HU where scanners keep it; what is far above is no HU.
METAL_UPPER_HU = 100_000.0
TISSUE_UPPER_HU = 300.0  # half of a CT or more is air, fat, water or muscle
# A scan of 2,048 x 2,048 x 512 voxels; a header that asks for more is damaged.
MAX_VOXELS = 2**31


@dataclass(frozen=True)
class CtFiles:
    """The files of one scan: one NIfTI file, or the DICOM files of one series.

    ``patient`` is the same for all scans of a patient. ``slices`` are the DICOM slices in stack
    order; a NIfTI scan has no slices.
    """

    paths: tuple[Path, ...]
    patient: str
    slices: tuple[DicomSlice, ...] = ()

    @property
    def is_dicom(self) -> bool:
        """Whether the scan is a stack of DICOM slices."""
        return bool(self.slices)

    @property
    def name(self) -> str:
        """The name of the scan in error messages."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"


@dataclass(frozen=True)
class ReadScan:
    """A scan's voxels ``(1, X, Y, Z)`` float32 in HU, axes to the right, front and top.

    ``spacing_mm`` is the distance of voxels on each axis; ``None`` if the files do not say.
    """

    voxels: Tensor
    spacing_mm: tuple[float, ...] | None


@dataclass(frozen=True)
class FoundScans:
    """The scans of a source, ordered by first file, and why the remaining files were left out."""

    scans: tuple[CtFiles, ...]
    left_out: tuple[str, ...]


def find_scans(source: str) -> FoundScans:
    """Returns the scans of a source: a folder, a glob, a file, or a public data set.

    Only the headers of DICOM files are read; on a terminal a bar shows the progress.

    Raises:
        DataError: the source has no files, or none of them is NIfTI or DICOM.
        CacheError: the folder for a downloaded data set cannot be made.
    """
    paths = source_files(source)
    niftis = [path for path in paths if is_nifti(path)]
    others = [path for path in paths if not is_nifti(path) and path.name != "DICOMDIR"]
    slices: list[DicomSlice] = []
    left_out: list[str] = []
    with _quiet():
        for path in progress(others, "Reading DICOM headers"):
            try:
                slices += read_slices(path)
            except DataError as error:
                left_out.append(str(error))
        found = sort_slices(slices)
    scans = [CtFiles((path,), nifti_patient(path)) for path in niftis]
    scans += [
        CtFiles(tuple(sorted({one.path for one in stack})), stack[0].patient, stack)
        for stack in found.scans
    ]
    left_out += found.left_out
    if not scans:
        bad = f" ({len(left_out)} cannot be used: {left_out[0]})" if left_out else ""
        raise DataError(
            f"No CT in {source!r}: {len(paths)} files, none of them NIfTI (.nii, .nii.gz) or "
            f"DICOM of CT{bad}. Give another folder or glob."
        )
    return FoundScans(tuple(sorted(scans, key=lambda scan: scan.paths[0])), tuple(left_out))


def read_hu(scan: CtFiles, *, spacing_mm: Sequence[float] | None) -> Tensor:
    """Returns a scan's voxels as ``read_scan`` does, and raises as it does."""
    return read_scan(scan, spacing_mm=spacing_mm).voxels


def read_scan(scan: CtFiles, *, spacing_mm: Sequence[float] | None) -> ReadScan:
    """Returns a scan's voxels in HU, and their spacing.

    Args:
        scan: one scan's files.
        spacing_mm: voxel size to resample to; ``None`` keeps the scan's own.

    Raises:
        DataError: the files cannot be read, or are not a usable CT: an MR image, colour, several
            volumes in one file, values that are not finite, a tilted gantry, uneven slices.
    """
    try:
        with _quiet():
            image = _oriented(scan, spacing_mm)
    except DataError:
        raise
    except Exception as error:  # readers and decoders raise whatever a damaged file provokes
        raise DataError(f"{scan.name} cannot be read: {first_line(error)}") from error
    voxels = torch.as_tensor(np.asarray(image), dtype=torch.float32)
    if not torch.isfinite(voxels).all():
        raise DataError(f"{scan.name} has voxels that are no numbers (NaN or infinite); mend it.")
    lowest, highest, median = voxels.min().item(), voxels.max().item(), voxels.median().item()
    if lowest > AIR_UPPER_HU or median > TISSUE_UPPER_HU or highest > METAL_UPPER_HU:
        raise DataError(
            f"{scan.name} is no CT in Hounsfield units: its lowest value is {lowest:g}, its median "
            f"{median:g} and its highest {highest:g}; air is -1000, tissue about 50. Leave MR and "
            f"label images out."
        )
    is_known = not (scan.is_dicom and scan.slices[0].spacing_mm is None)
    gaps_mm = np.linalg.norm(np.asarray(image.affine)[:3, :3], axis=0)
    return ReadScan(voxels, tuple(map(float, gaps_mm)) if is_known else None)


def progress(items: Sequence, what: str) -> tqdm:
    """Returns the items wrapped in a progress bar on stderr, which is hidden off a terminal."""
    return tqdm(items, desc=what, unit="", disable=None, leave=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the readers' warnings about headers: our own message reports each bad file once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _oriented(scan: CtFiles, spacing_mm: Sequence[float] | None) -> MetaTensor:
    if scan.is_dicom:
        check_stack(scan.name, scan.slices)
        if spacing_mm is not None and scan.slices[0].spacing_mm is None:
            raise DataError(f"{scan.name} does not say how large its pixels are (PixelSpacing).")
        voxels, affine = stack_hu(scan.slices)
    else:
        voxels, affine = nifti_hu(scan.paths[0])
    steps: list[Transform] = [Orientation(axcodes="RAS", labels=None)]
    if spacing_mm is not None:
        _check_resampled_size(scan.name, voxels.shape, affine, spacing_mm)
        steps.append(Spacing(pixdim=tuple(spacing_mm), mode="bilinear", padding_mode="border"))
    image = MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine))
    oriented: MetaTensor = Compose(steps)(image)
    return oriented


def _check_resampled_size(
    name: str, shape: Sequence[int], affine: np.ndarray, spacing_mm: Sequence[float]
) -> None:
    """Checks that the scan, resampled to ``spacing_mm``, still fits the limit on its voxels."""
    voxel_mm3 = float(np.prod(np.linalg.norm(affine[:3, :3], axis=0)))
    num_voxels = math.prod(shape) * voxel_mm3 / math.prod(spacing_mm)
    if num_voxels > MAX_VOXELS:
        raise DataError(
            f"{name} would have {num_voxels:.2g} voxels at the spacing_mm= that is asked for. "
            f"Its header is damaged, or spacing_mm= is too small."
        )
