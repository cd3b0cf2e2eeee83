"""Images leave in Hounsfield units and the right way round, as a radiologist expects them."""

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from ldm_project.ct.hounsfield import hu_from_network, network_from_hu
from ldm_project.ct.images import contact_sheet, write_nifti, write_png


def test_window_maps_air_to_minus_one_and_dense_bone_to_one():
    hu = torch.tensor([-2000.0, -1000.0, 0.0, 1000.0, 3000.0])
    assert network_from_hu(hu).tolist() == [-1, -1, 0, 1, 1]
    assert hu_from_network(torch.tensor([-1.0, 0.0, 1.0])).tolist() == [-1000, 0, 1000]


@pytest.mark.parametrize("size", [(8, 6), (8, 6, 4)])
def test_nifti_holds_rounded_hounsfield_units_in_ras(tmp_path, size):
    image_hu = torch.linspace(-1000, 1000, int(np.prod(size))).reshape(1, *size)
    write_nifti(tmp_path / "image.nii.gz", image_hu, spacing_mm=2.0)
    loaded = nib.load(tmp_path / "image.nii.gz")
    assert loaded.get_data_dtype() == np.int16
    assert nib.aff2axcodes(loaded.affine) == ("R", "A", "S")
    assert loaded.header.get_zooms() == (2.0, 2.0, 2.0)
    voxels = np.asarray(loaded.dataobj).reshape(size)
    assert np.array_equal(voxels, image_hu[0].numpy().round())


def test_png_shows_the_patients_right_on_the_left_and_the_front_on_top(tmp_path):
    slice_hu = torch.full((1, 8, 6), -1000.0)
    slice_hu[0, -1, -1] = 400  # far right, far front
    write_png(tmp_path / "slice.png", slice_hu)
    pixels = np.asarray(Image.open(tmp_path / "slice.png"))
    assert pixels.shape == (6, 8)  # rows run from front to back
    assert pixels[0, 0] == 255
    assert pixels.sum() == 255


def test_preview_of_slices_is_a_grid_and_of_volumes_three_views_a_row(tmp_path):
    contact_sheet(torch.zeros(6, 1, 64, 64)).save(tmp_path / "slices.png")
    contact_sheet(torch.zeros(2, 1, 64, 64, 32)).save(tmp_path / "volumes.png")
    slices, volumes = (Image.open(tmp_path / name) for name in ("slices.png", "volumes.png"))
    # 64 pixels are shown twice as large: tiles of 128 with a gap of 4
    assert slices.size == (4 * 132 + 4, 2 * 132 + 4)
    assert volumes.size[0] == 3 * 132 + 4
