"""DICOM files: is a file one, and what does its header say of each slice in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    MediaStorageDirectoryStorage,
)

from ldm_project.ct.enhanced import PER_FRAME, SHARED, frame_value, num_frames
from ldm_project.ct.slice_geometry import Cosines, Triple, unit_axes
from ldm_project.errors import DataError

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
PREAMBLE, PREFIX = b"\0" * 128, b"DICM"
# How a file without preamble begins: with group 2 or 8, of which either byte may come first.
FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
CT_CLASSES = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
LOCALIZER_TYPES = ("LOCALIZER", "SCOUT", "TOPOGRAM")
HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "PatientID",
    "Modality",
    "ImageType",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    PER_FRAME,
    SHARED,
]


@dataclass(frozen=True)
class DicomSlice:
    """One slice: a classic DICOM file, or one frame of an enhanced one.

    ``None`` is what the header does not say, or not in numbers that can be.
    """

    path: Path
    frame: int  # its number in the file, from 0
    uid: str  # SOPInstanceUID; "" where there is none
    series: tuple[str, ...]  # slices of one series have the same
    patient: str
    modality: str
    is_localizer: bool
    is_grey: bool
    shape: tuple[int, int]  # rows, columns; (0, 0) of what is no image
    spacing_mm: tuple[float, float] | None  # from row to row, from column to column
    orientation: Cosines | None
    position_mm: Triple | None

    @property
    def name(self) -> str:
        """What an error calls the slice."""
        return f"{self.path} (frame {self.frame + 1})" if self.frame else str(self.path)

    @property
    def has_place(self) -> bool:
        """Whether the header says where the slice lies and how it is turned."""
        return self.position_mm is not None and self.orientation is not None


def open_dicom(path: Path, *, has_pixels: bool) -> Dataset | None:
    """Returns a DICOM file's content, also without preamble or file meta information.

    ``None``: the file is none, or one that lists others (DICOMDIR). With ``has_pixels=False``
    only what :class:`DicomSlice` tells is read.
    """
    with path.open("rb") as file:
        start = file.read(len(PREAMBLE) + len(PREFIX))
    is_marked = start.endswith(PREFIX) and len(start) == len(PREAMBLE) + len(PREFIX)
    if not (is_marked or start.startswith((*FIRST_GROUPS, PREFIX))):
        return None
    # some files begin with the mark that should stand behind the preamble
    whole = BytesIO(PREAMBLE + path.read_bytes()) if start.startswith(PREFIX) else path
    content = pydicom.dcmread(
        whole,
        force=True,
        stop_before_pixels=not has_pixels,
        specific_tags=None if has_pixels else HEADER_TAGS,
    )
    sop_class = content.get("SOPClassUID") or content.file_meta.get("MediaStorageSOPClassUID")
    if sop_class == MediaStorageDirectoryStorage:
        return None
    is_described = any(keyword in content for keyword in ("SOPClassUID", "Modality", "Rows"))
    return content if is_described or is_marked else None


def read_slices(path: Path) -> tuple[DicomSlice, ...]:
    """Returns a file's slices; none, where it is no DICOM file and is not called one.

    Raises:
        DataError: it cannot be read, or is multi-frame and not enhanced CT.
    """
    suffix, header = path.suffix.lower(), None
    try:
        header = open_dicom(path, has_pixels=False)
        if header is not None:
            return tuple(_slice(path, header, frame) for frame in range(num_frames(header)))
    except DataError as error:
        raise DataError(f"{path} has {error}") from error
    except OSError as error:
        if suffix in (*DICOM_SUFFIXES, ""):  # nothing but its name tells what it is
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # pydicom raises whatever a damaged header provokes
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    if suffix in DICOM_SUFFIXES:
        raise DataError(f"{path} is no whole DICOM file.")
    return ()


def first_line(error: Exception) -> str:
    """Returns what an error says, in one line, or its kind where it says nothing."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _slice(path: Path, header: Dataset, frame: int) -> DicomSlice:
    def value(group: str, keyword: str) -> Any:
        return frame_value(header, frame, group, keyword)

    series = _series(path, header)
    orientation = _numbers(value("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    if orientation is not None and unit_axes(orientation) is None:
        orientation = None
    spacing = _numbers(value("PixelMeasuresSequence", "PixelSpacing"), 2)
    if spacing is not None and min(spacing) <= 0:
        spacing = None
    return DicomSlice(
        path=path,
        frame=frame,
        uid=_text(header, "SOPInstanceUID"),
        series=series,
        patient=_text(header, "PatientID") or _text(header, "StudyInstanceUID") or series[-1],
        modality=_modality(header),
        is_localizer=_is_localizer(header, value("CTImageFrameTypeSequence", "FrameType")),
        is_grey=_is_grey(header),
        shape=(int(header.get("Rows") or 0), int(header.get("Columns") or 0)),
        spacing_mm=spacing,
        orientation=orientation,
        position_mm=_numbers(value("PlanePositionSequence", "ImagePositionPatient"), 3),
    )


def _series(path: Path, header: Dataset) -> tuple[str, ...]:
    """Returns what a slice's series is told by; without a UID, all else that its slices share."""
    patient = _text(header, "PatientID")
    if uid := _text(header, "SeriesInstanceUID"):
        return patient, uid
    shared = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber")
    return patient, *(_text(header, keyword) for keyword in shared), str(path.parent)


def _modality(header: Dataset) -> str:
    if modality := _text(header, "Modality"):
        return modality
    return "CT" if header.get("SOPClassUID") in CT_CLASSES else "unknown"


def _is_localizer(header: Dataset, frame_type: Any) -> bool:
    kinds = [*_texts(header.get("ImageType")), *_texts(frame_type)]
    return any(kind.strip().upper() in LOCALIZER_TYPES for kind in kinds)


def _is_grey(header: Dataset) -> bool:
    kind = _text(header, "PhotometricInterpretation") or "MONOCHROME2"
    return int(header.get("SamplesPerPixel") or 1) == 1 and kind.startswith("MONOCHROME")


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip().strip("\0")


def _texts(value: Any) -> list[str]:
    if value is None or isinstance(value, str):
        return [value or ""]
    return [str(item) for item in value]


def _numbers(value: Any, count: int) -> Any:
    """Returns so many finite numbers, or ``None`` where a header's value is none."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != count:
        return None
    try:
        numbers = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None
