"""CT scans made for tests: NIfTI files and DICOM series with values known beforehand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)


def volume_hu(shape=(40, 36, 24)) -> np.ndarray:
    """Air with a block of muscle, and one voxel of bone far to the right, front and top."""
    voxels = np.full(shape, -1000, dtype=np.int16)
    voxels[4:-4, 4:-4, 4:-4] = 50
    voxels[-1, -1, -1] = 900
    return voxels


def write_nifti(path: Path, voxels: np.ndarray, axes: str = "RAS") -> Path:
    """Writes voxels given in RAS, stored along the given axes."""
    image = nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 3.0, 1.0]))
    target = nib.orientations.axcodes2ornt(axes)
    nib.save(
        image.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(image.affine), target)
        ),
        path,
    )
    return path


def write_series(
    folder: Path,
    *,
    num_slices: int = 8,
    gap_mm: float = 3.0,
    missing: int | None = None,
    tilt_mm: float = 0.0,
    modality: str = "CT",
    slope: float = 2.0,
    patient: str | None = None,
    series_uid: str | None = None,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    edit: Callable[[FileDataset, int], None] | None = None,
) -> Path:
    """Writes a series whose slice k holds 10 k HU around air; files in reverse order.

    Slices are stacked along the orientation's normal, from the origin; ``edit`` changes a slice's
    header, given its number, before it is written.
    """
    folder.mkdir(parents=True)
    series_uid = series_uid or generate_uid()
    normal = np.cross(orientation[:3], orientation[3:])
    for number in range(num_slices):
        if number == missing:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        header.SOPClassUID = CTImageStorage
        header.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        header.SeriesInstanceUID = series_uid
        if patient is not None:
            header.PatientID = patient
        header.Modality = modality
        header.InstanceNumber = number + 1
        header.Rows, header.Columns = 16, 16
        header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
        header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
        header.PixelRepresentation = 1
        header.PixelSpacing = [1.0, 1.0]
        header.SliceThickness = gap_mm
        header.ImageOrientationPatient = list(orientation)
        position = normal * gap_mm * number + np.array([0.0, tilt_mm * number, 0.0])
        header.ImagePositionPatient = [round(float(value), 6) for value in position]
        header.RescaleSlope, header.RescaleIntercept = slope, -1000
        pixels = np.zeros((16, 16), dtype=np.int16)  # -1000 HU
        pixels[4:12, 4:12] = round((10 * number + 1000) / slope)
        header.PixelData = pixels.tobytes()
        if edit is not None:
            edit(header, number)
        header.save_as(folder / f"{num_slices - number:03d}.dcm", enforce_file_format=True)
    return folder


def write_enhanced(
    path: Path,
    *,
    num_frames: int = 8,
    gap_mm: float = 3.0,
    edit: Callable[[FileDataset], None] = lambda _: None,
) -> Path:
    """Writes the series of :func:`write_series` as one enhanced file, frames from last to first.

    Frame k holds 10 k HU; each has a rescale slope of its own. ``edit`` changes the header before
    it is written.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    header.SeriesInstanceUID, header.Modality = generate_uid(), "CT"
    header.Rows, header.Columns, header.NumberOfFrames = 16, 16, num_frames
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 1
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [1.0, 1.0], gap_mm
    plane.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    header.SharedFunctionalGroupsSequence = [shared]
    groups, frames = [], []
    for number in reversed(range(num_frames)):
        position, values, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0.0, 0.0, gap_mm * number]
        slope = 1 + number % 2
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = slope, -1000, "HU"
        group.PlanePositionSequence = [position]
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
        pixels = np.zeros((16, 16), dtype=np.int16)
        pixels[4:12, 4:12] = (10 * number + 1000) // slope
        frames.append(pixels)
    header.PerFrameFunctionalGroupsSequence = groups
    header.PixelData = np.stack(frames).tobytes()
    edit(header)
    header.save_as(path, enforce_file_format=True)
    return path
