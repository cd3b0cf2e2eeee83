"""Writes CT images: NIfTI in Hounsfield units, PNG, and a preview that a person can judge."""

from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

# HU that a PNG shows as black and as white: wide enough for both lungs and contrast-filled vessels.
DISPLAY_MIN_HU, DISPLAY_MAX_HU = -1000.0, 400.0
PREVIEW_COLUMNS = 4
PREVIEW_MIN_TILE = 128  # pixels; smaller images are enlarged by a whole number
PREVIEW_GAP = 4
LABEL_HEIGHT = 14
VIEWS = ("axial", "coronal", "sagittal")


def write_nifti(path: Path, image_hu: Tensor, *, spacing_mm: float = 1.0) -> None:
    """Writes an image ``(1, *S)`` in HU as int16 NIfTI, axes as in RAS; 2D gets one slice."""
    voxels = image_hu[0].cpu().numpy().round().clip(-32768, 32767).astype(np.int16)
    if voxels.ndim == 2:
        voxels = voxels[:, :, None]
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    file = nib.Nifti1Image(voxels, affine)
    file.header.set_xyzt_units("mm")
    nib.save(file, path)


def write_png(path: Path, image_hu: Tensor) -> None:
    """Writes an axial slice ``(1, X, Y)`` in HU as 8-bit grey, in the display window."""
    Image.fromarray(_displayed(image_hu[0].cpu().numpy())).save(path)


def contact_sheet(images_hu: Tensor) -> Image.Image:
    """Returns one picture of images ``(N, 1, *S)`` in HU.

    2D images form a grid; each row of a picture of volumes shows one volume's three middle slices.
    """
    arrays = [image[0].cpu().numpy() for image in images_hu]
    if arrays[0].ndim == 2:
        rows = [arrays[start : start + PREVIEW_COLUMNS] for start in range(0, len(arrays), 4)]
        labels: tuple[str, ...] = ()
    else:
        rows = [_middle_slices(volume) for volume in arrays]
        labels = VIEWS
    tiles = [[_tile(_displayed(array)) for array in row] for row in rows]
    return _sheet(tiles, labels)


def _middle_slices(volume: np.ndarray) -> list[np.ndarray]:
    x, y, z = (length // 2 for length in volume.shape)
    return [volume[:, :, z], volume[:, y, :], volume[x, :, :]]


def _displayed(array: np.ndarray) -> np.ndarray:
    """Returns a slice with RAS axes as rows of grey values, oriented as radiologists view it.

    The patient's right is on the left, and front or top is up: both axes are reversed.
    """
    window = (array - DISPLAY_MIN_HU) / (DISPLAY_MAX_HU - DISPLAY_MIN_HU)
    return (window.clip(0, 1) * 255).round().astype(np.uint8).T[::-1, ::-1]


def _tile(grey: np.ndarray) -> Image.Image:
    factor = max(1, -(-PREVIEW_MIN_TILE // max(grey.shape)))
    image = Image.fromarray(grey)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _sheet(tiles: list[list[Image.Image]], labels: tuple[str, ...]) -> Image.Image:
    width = max(tile.width for row in tiles for tile in row) + PREVIEW_GAP
    height = max(tile.height for row in tiles for tile in row) + PREVIEW_GAP
    top = LABEL_HEIGHT if labels else PREVIEW_GAP
    columns = max(len(row) for row in tiles)
    sheet = Image.new("L", (columns * width + PREVIEW_GAP, len(tiles) * height + top), color=40)
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        draw.text((PREVIEW_GAP + column * width, 1), label, fill=220)
    for row_number, row in enumerate(tiles):
        for column, tile in enumerate(row):
            sheet.paste(tile, (PREVIEW_GAP + column * width, top + row_number * height))
    return sheet
