"""Stacks the slices of DICOM files into a volume in Hounsfield units, with its affine."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ldm_project.ct.dicom_headers import DicomSlice, first_line, open_dicom
from ldm_project.ct.enhanced import frame_value
from ldm_project.ct.slice_geometry import normal_of, unit_axes
from ldm_project.errors import DataError

# Decoders in the order of preference; unlisted ones come last. GDCM is never used: some damaged
# JPEG and JPEG 2000 files make it end the process, where the other decoders raise.
PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow")
PACKAGES = "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
AIR_HU = -1000.0  # the value of pixels outside the scanner's view
RESCALE_KEYWORDS = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}  # and what a lack of it means
HOUNSFIELD_TYPES = ("", "HU", "HU_MOD", "US")  # of RescaleType; US: unspecified
# DICOM's patient axes grow to the left, the back and the top; RAS' to the right, front and top.
RAS_FROM_DICOM = np.diag([-1.0, -1.0, 1.0, 1.0])


def stack_hu(slices: Sequence[DicomSlice]) -> tuple[np.ndarray, np.ndarray]:
    """Returns a volume ``(columns, rows, N)`` float32 in HU and its affine ``(4, 4)`` to RAS, mm.

    Args:
        slices: in stack order, which becomes the order along N.

    Raises:
        DataError: a file, which the message names, cannot be read or its pixels are not HU.
    """
    volume = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    rescaled: dict[str, str] = {}  # what a slice's header says of rescaling, and one such slice
    numbers: dict[tuple[Path, int], int] = {
        (one.path, one.frame): number for number, one in enumerate(slices)
    }
    for path, frames in groupby(sorted(numbers), key=lambda key: key[0]):
        wanted = [frame for _, frame in frames]
        for frame, image in zip(wanted, _readable_frames_hu(path, wanted), strict=True):
            number = numbers[path, frame]
            volume[number] = image.hu
            rescaled.setdefault(image.rescaled_by, slices[number].name)
    if len(rescaled) > 1:
        told = "; ".join(f"{name} gives {keywords}" for keywords, name in rescaled.items())
        raise DataError(f"Slices of one scan do not all say how they are rescaled: {told}.")
    return volume.transpose(2, 1, 0), _affine(slices)


def _affine(slices: Sequence[DicomSlice]) -> np.ndarray:
    """Returns the affine to RAS in mm; a slice without a position counts as axial, 1 mm."""
    first, last = slices[0], slices[-1]
    axes = unit_axes(first.orientation or (1, 0, 0, 0, 1, 0))
    assert axes is not None  # read_slices checks it
    row_gap_mm, column_gap_mm = first.spacing_mm or (1.0, 1.0)
    start = np.array(first.position_mm or (0, 0, 0), dtype=float)
    step = normal_of(axes)
    if len(slices) > 1:
        step = (np.array(last.position_mm) - start) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = axes[0] * column_gap_mm
    affine[:3, 1] = axes[1] * row_gap_mm
    affine[:3, 2] = step
    affine[:3, 3] = start
    return RAS_FROM_DICOM @ affine


@dataclass(frozen=True)
class _Image:
    """A frame's pixels in HU, and the keywords by which its header says how they are rescaled."""

    hu: np.ndarray
    rescaled_by: str


def _readable_frames_hu(path: Path, frames: Sequence[int]) -> list[_Image]:
    try:
        return _frames_hu(path, frames)
    except DataError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever a damaged file provokes
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def _frames_hu(path: Path, frames: Sequence[int]) -> list[_Image]:
    content = open_dicom(path, has_pixels=True)
    assert content is not None  # read_slices has read the header
    _name_transfer_syntax(path, content)
    _check_bits(path, content)
    plugin = _decoder_of(path, content)
    pixels = iter_pixels(content, indices=list(frames), decoding_plugin=plugin)
    return [
        _hounsfield(path, content, frame, stored)
        for frame, stored in zip(frames, pixels, strict=True)
    ]


def _name_transfer_syntax(path: Path, content: Dataset) -> None:
    """Sets a missing transfer syntax to the one with which the file was read."""
    if not hasattr(content, "file_meta"):
        content.file_meta = FileMetaDataset()
    if content.file_meta.get("TransferSyntaxUID"):
        return
    if content["PixelData"].is_undefined_length:
        raise DataError(f"{path} is compressed, and does not say how (TransferSyntaxUID).")
    is_implicit, is_little_endian = content.original_encoding
    explicit = ExplicitVRLittleEndian if is_little_endian else ExplicitVRBigEndian
    content.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _check_bits(path: Path, content: Dataset) -> None:
    """Checks that pixels stand in the lowest bits: from the others, pydicom would make noise."""
    num_stored, high_bit = content.get("BitsStored"), content.get("HighBit")
    if isinstance(num_stored, int) and isinstance(high_bit, int) and high_bit >= num_stored:
        raise DataError(
            f"{path} has its {num_stored} bits a pixel below bit {high_bit} (HighBit), not in the "
            f"lowest ones. Convert it to a file whose HighBit is {num_stored - 1}."
        )


def _decoder_of(path: Path, content: Dataset) -> str:
    """Returns the name of the pydicom plugin for a file's pixels; "" if they are uncompressed.

    Raises:
        DataError: no installed plugin can decompress them; the message names a package to install.
    """
    syntax = content.file_meta.TransferSyntaxUID
    remedy = (
        "which needs packages more: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg."
    )
    try:
        decoder = get_decoder(syntax)
        for plugin in (*PLUGINS, *decoder.available_plugins):
            if plugin in decoder.available_plugins:
                return plugin
        if decoder.is_available:  # not compressed
            return ""
    except NotImplementedError:
        remedy = "which no package reads. Convert it to an uncompressed file."
    raise DataError(f"{path} is compressed as {syntax.name}, {remedy}")


def _hounsfield(path: Path, content: Dataset, frame: int, stored: np.ndarray) -> _Image:
    """Returns a frame's pixels in HU; padding pixels get the value of air."""
    group = "PixelValueTransformationSequence"
    kind = str(frame_value(content, frame, group, "RescaleType") or "").strip().upper()
    values = {key: frame_value(content, frame, group, key) for key in RESCALE_KEYWORDS}
    given = [key for key, value in values.items() if value not in (None, "")]
    slope, intercept = (
        float(values[key]) if key in given else default for key, default in RESCALE_KEYWORDS.items()
    )
    if slope == 0 or not np.isfinite([slope, intercept]).all() or kind not in HOUNSFIELD_TYPES:
        raise DataError(
            f"{path} is not in Hounsfield units: its rescale slope is {slope:g}, its intercept "
            f"{intercept:g} and its type {kind or 'not given'}."
        )
    image_hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    image_hu[_is_padding(content, frame, stored)] = AIR_HU
    return _Image(image_hu, " and ".join(given) or "neither slope nor intercept")


def _is_padding(content: Dataset, frame: int, stored: np.ndarray) -> np.ndarray:
    """Returns a mask of the pixels with the header's padding value, or in its padding range.

    The header's value and the pixels may differ in being signed, and the value may need more bits
    than the header says are stored.
    """
    value, limit = (_whole(content, f"PixelPadding{end}") for end in ("Value", "RangeLimit"))
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    num_bits, num_stored = int(content.BitsAllocated), int(content.BitsStored)
    is_signed = bool(content.PixelRepresentation)
    ends = [value, value if limit is None else limit]
    written = [_wrapped(end, num_bits, is_signed=is_signed) for end in ends]
    fits = all(_wrapped(end, num_stored, is_signed=is_signed) == end for end in written)
    if not fits:  # pydicom drops the bits above those stored: compare the pixels as written
        stored = _as_written(content, frame, stored)
    return (stored >= min(written)) & (stored <= max(written))


def _whole(content: Dataset, keyword: str) -> int | None:
    """Returns a header's whole number; a file may leave open whether it is signed."""
    value = content.get(keyword)
    if isinstance(value, bytes) and value:
        return int.from_bytes(value, "little" if content.original_encoding[1] else "big")
    return value if isinstance(value, int) else None


def _wrapped(value: int, num_bits: int, *, is_signed: bool) -> int:
    """Returns the number in the lowest ``num_bits`` bits of a value."""
    value %= 1 << num_bits
    return value - (1 << num_bits) if is_signed and value >> (num_bits - 1) else value


def _as_written(content: Dataset, frame: int, stored: np.ndarray) -> np.ndarray:
    """Returns a frame's pixels with all allocated bits; compressed ones have the stored bits."""
    syntax = content.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not syntax.is_deflated:
        return stored
    is_little_endian = syntax.is_little_endian
    kind = "i" if content.PixelRepresentation else "u"
    dtype = np.dtype(f"{'<' if is_little_endian else '>'}{kind}{int(content.BitsAllocated) // 8}")
    start = frame * stored.size * dtype.itemsize
    pixels = np.frombuffer(content.PixelData, dtype, count=stored.size, offset=start)
    return pixels.reshape(stored.shape)
