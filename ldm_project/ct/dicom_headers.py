"""Recognises DICOM files and reads the header of each slice in them."""

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
# The first bytes of a file without a preamble: group 2 or 8, in either byte order.
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

    A field is ``None`` if the header lacks it or holds an impossible value.
    """

    path: Path
    frame: int  # its number in the file, from 0
    uid: str  # SOPInstanceUID; "" if the header has no UID
    series: tuple[str, ...]  # equal for all slices of a series
    patient: str
    modality: str
    is_localizer: bool
    is_grey: bool
    shape: tuple[int, int]  # rows, columns; (0, 0) if the file holds no image
    spacing_mm: tuple[float, float] | None  # from row to row, from column to column
    orientation: Cosines | None
    position_mm: Triple | None

    @property
    def name(self) -> str:
        """The name of the slice in error messages."""
        return f"{self.path} (frame {self.frame + 1})" if self.frame else str(self.path)

    @property
    def has_place(self) -> bool:
        """Whether the header gives the position and the orientation of the slice."""
        return self.position_mm is not None and self.orientation is not None


def open_dicom(path: Path, *, has_pixels: bool) -> Dataset | None:
    """Returns a DICOM file's content; the preamble and the file meta information may be missing.

    Returns ``None`` if the file is not DICOM, or is a directory of files (DICOMDIR). With
    ``has_pixels=False`` only the elements that :class:`DicomSlice` holds are read.
    """
    with path.open("rb") as file:
        start = file.read(len(PREAMBLE) + len(PREFIX))
    is_marked = start.endswith(PREFIX) and len(start) == len(PREAMBLE) + len(PREFIX)
    if not (is_marked or start.startswith((*FIRST_GROUPS, PREFIX))):
        return None
    # some files begin with the mark DICM, which should follow the preamble
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
    """Returns a file's slices; an empty tuple if neither content nor name is that of DICOM.

    Raises:
        DataError: the file cannot be read, or is multi-frame and not enhanced CT.
    """
    suffix, header = path.suffix.lower(), None
    try:
        header = open_dicom(path, has_pixels=False)
        if header is not None:
            return tuple(_slice(path, header, frame) for frame in range(num_frames(header)))
    except DataError as error:
        raise DataError(f"{path} has {error}") from error
    except OSError as error:
        if suffix in (*DICOM_SUFFIXES, ""):  # only the name suggests DICOM
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # pydicom raises whatever a damaged header provokes
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error
    if suffix in DICOM_SUFFIXES:
        raise DataError(f"{path} is no whole DICOM file.")
    return ()


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or the error's class if it has no message."""
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
    """Returns the key of a slice's series: its UID, or other values that its slices share."""
    patient = _text(header, "PatientID")
    if uid := _text(header, "SeriesInstanceUID"):
        return patient, uid
    shared = ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber")
    return patient, *(_text(header, keyword) for keyword in shared), str(path.parent)


def _modality(header: Dataset) -> str:
    if modality := _text(header, "Modality").upper():
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
    """Returns ``count`` finite numbers; ``None`` if the header's value holds anything else."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence) or len(value) != count:
        return None
    try:
        numbers = tuple(float(item) for item in value)
    except (TypeError, ValueError):
        return None
    return numbers if np.isfinite(numbers).all() else None
