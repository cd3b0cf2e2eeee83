"""CT scans in files: which files make a scan, and one scan's voxels in Hounsfield units."""

import re
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import torch
from monai.data.image_reader import NibabelReader, PydicomReader
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Orientation, Spacing
from pydicom.errors import InvalidDicomError
from torch import Tensor

from ldm_project.ct.sources import source_files
from ldm_project.errors import DataError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
BIDS_SUBJECT = re.compile(r"(?<![a-zA-Z0-9])sub-[a-zA-Z0-9]+")
# A CT shows air, whose value is -1000 HU; MR and label images have nothing near it.
AIR_UPPER_HU = -500.0
TISSUE_UPPER_HU = 300.0  # half of a CT or more is air, fat, water or muscle
# How far apart a series' slices may be out of step, in parts of their distance.
SLICE_GAP_TOLERANCE = 0.1
GANTRY_TILT_TOLERANCE = 0.01  # 1 - cosine of the angle between stack and slice normal


@dataclass(frozen=True)
class CtFiles:
    """The files of one scan: one NIfTI file, or the DICOM files of one series.

    ``patient`` is the same for all scans of a patient.
    """

    paths: tuple[Path, ...]
    is_dicom: bool
    patient: str

    @property
    def name(self) -> str:
        """What an error calls the scan."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"


@dataclass(frozen=True)
class FoundScans:
    """The scans of a source, in the order of their first file, and what could not be read."""

    scans: tuple[CtFiles, ...]
    unreadable: tuple[Path, ...]


def find_scans(source: str) -> FoundScans:
    """Returns the scans of a source: a folder, a glob, a file, or a public data set.

    Raises:
        DataError: nothing is there, or nothing of it is NIfTI or DICOM.
        CacheError: there is no place to download a public data set to.
    """
    paths = source_files(source)
    niftis = [path for path in paths if path.name.lower().endswith(NIFTI_SUFFIXES)]
    series: dict[str, list[Path]] = defaultdict(list)
    patients: dict[str, str] = {}  # of each series
    unreadable = []
    for path in paths:
        if path in niftis or path.name == "DICOMDIR":
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if "SeriesInstanceUID" in header:
                uid = str(header.SeriesInstanceUID)
                series[uid].append(path)
                patients.setdefault(uid, _dicom_patient(header))
        except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError):
            if path.suffix.lower() in (".dcm", ".ima"):
                unreadable.append(path)
    scans = [CtFiles((path,), is_dicom=False, patient=_nifti_patient(path)) for path in niftis]
    scans += [
        CtFiles(tuple(sorted(slices)), is_dicom=True, patient=patients[uid])
        for uid, slices in series.items()
    ]
    if not scans:
        bad = f" ({len(unreadable)} DICOM files cannot be read)" if unreadable else ""
        raise DataError(
            f"No CT in {source!r}: {len(paths)} files, none of them NIfTI (.nii, .nii.gz) or "
            f"DICOM{bad}. Give another folder or glob."
        )
    return FoundScans(tuple(sorted(scans, key=lambda scan: scan.paths[0])), tuple(unreadable))


def read_hu(scan: CtFiles, *, spacing_mm: Sequence[float] | None) -> Tensor:
    """Returns a scan's voxels ``(1, X, Y, Z)`` float32 in HU, axes to the right, front and top.

    Args:
        scan: one scan's files.
        spacing_mm: voxel size to resample to; ``None`` leaves it as it is.

    Raises:
        DataError: the files cannot be read, or are no CT: an MR image, colour, several volumes
            in one, values that are no numbers, a tilted gantry, uneven slices.
    """
    steps = [EnsureChannelFirst(), Orientation(axcodes="RAS", labels=None)]
    if spacing_mm is not None:
        steps.append(Spacing(pixdim=tuple(spacing_mm), mode="bilinear", padding_mode="border"))
    loaded = _load_dicom(scan) if scan.is_dicom else _load_nifti(scan)
    image = Compose(steps)(_as_volume(loaded))
    voxels = torch.as_tensor(np.asarray(image), dtype=torch.float32)
    if voxels.ndim != 4 or voxels.shape[0] != 1:
        raise DataError(
            f"{scan.name} has shape {tuple(loaded.shape)}; a CT is one grey volume or slice."
        )
    if not torch.isfinite(voxels).all():
        raise DataError(f"{scan.name} has voxels that are no numbers (NaN or infinite); mend it.")
    lowest, median = voxels.min().item(), voxels.median().item()
    if lowest > AIR_UPPER_HU or median > TISSUE_UPPER_HU:
        raise DataError(
            f"{scan.name} is no CT in Hounsfield units: its lowest value is {lowest:g} and its "
            f"median {median:g}; air is -1000, tissue about 50. Leave MR and label images out."
        )
    return voxels


def _dicom_patient(header: pydicom.Dataset) -> str:
    """Returns who was scanned; where that was taken out, the study, else the series."""
    for name in ("PatientID", "StudyInstanceUID"):
        if value := str(header.get(name, "") or "").strip():
            return value
    return str(header.SeriesInstanceUID)


def _nifti_patient(path: Path) -> str:
    """Returns the subject that a BIDS path names (``sub-01``), else the file: NIfTI has no more."""
    named = BIDS_SUBJECT.findall(str(path))
    return named[-1] if named else str(path)


def _as_volume(loaded: Tensor) -> Tensor:
    """Returns a single slice as a volume of one slice; other images as they are."""
    return loaded.unsqueeze(-1) if loaded.ndim == 2 else loaded


def _load_nifti(scan: CtFiles) -> Tensor:
    (path,) = scan.paths
    try:
        header: Any = nib.load(path)
        num_dimensions = len(header.shape)
        if num_dimensions not in (2, 3):
            raise DataError(
                f"{path} has {num_dimensions} dimensions; a CT has 2 or 3. "
                f"Split it into one file per volume."
            )
        loaded: Tensor = LoadImage(reader=NibabelReader(), image_only=True)(path)
    except (
        nib.filebasedimages.ImageFileError,
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
    ) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}") from error
    return loaded


def _load_dicom(scan: CtFiles) -> Tensor:
    """Returns the slices of one series as a volume, in the order of their positions."""
    try:
        headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in scan.paths]
        _check_series(scan, headers)
        with tempfile.TemporaryDirectory() as folder:
            # MONAI's reader takes a folder for a series; other series may lie beside this one.
            for number, path in enumerate(scan.paths):
                (Path(folder) / f"{number:06d}.dcm").symlink_to(path.resolve())
            single = Path(folder) / "000000.dcm"
            loaded: Tensor = LoadImage(reader=PydicomReader(), image_only=True)(
                single if len(scan.paths) == 1 else folder
            )
    except DataError:
        raise
    except Exception as error:  # pydicom and its pixel decoders raise whatever a file provokes
        raise DataError(f"{scan.name} cannot be read: {_first_line(error)}") from error
    if len(scan.paths) > 1 and loaded.shape[-1] != len(scan.paths):
        raise DataError(f"{scan.name}: only {loaded.shape[-1]} slices of the series can be read.")
    return loaded


def _check_series(scan: CtFiles, headers: Sequence[pydicom.Dataset]) -> None:
    """Checks that a series is an evenly spaced, upright stack of grey CT slices.

    Raises:
        DataError: it is not.
    """
    modality = str(headers[0].get("Modality", "unknown"))
    if modality != "CT":
        raise DataError(f"{scan.name} has modality {modality}, not CT. Leave it out of data=.")
    if int(headers[0].get("SamplesPerPixel", 1)) != 1 or "NumberOfFrames" in headers[0]:
        raise DataError(
            f"{scan.name} is a colour or multi-frame image; a CT slice is one grey one."
        )
    if len(headers) == 1:
        return
    shapes = {(header.Rows, header.Columns) for header in headers}
    if len(shapes) > 1:
        raise DataError(f"{scan.name}: its slices have different sizes {sorted(shapes)}.")
    orientation = np.array(headers[0].ImageOrientationPatient, dtype=float)
    normal = np.cross(orientation[:3], orientation[3:])
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    positions = positions[np.argsort(positions @ normal)]
    gaps = np.diff(positions @ normal)
    if gaps.min() <= 0 or np.ptp(gaps) > SLICE_GAP_TOLERANCE * np.median(gaps):
        raise DataError(
            f"{scan.name}: its slices are {gaps.min():.3g} to {gaps.max():.3g} mm apart. "
            f"A slice is missing or doubled; complete the series or leave it out."
        )
    stack = positions[-1] - positions[0]
    if 1 - abs(stack @ normal) / np.linalg.norm(stack) > GANTRY_TILT_TOLERANCE:
        raise DataError(
            f"{scan.name} was scanned with a tilted gantry; its slices do not lie above each "
            f"other. Resample it upright, or leave it out."
        )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
