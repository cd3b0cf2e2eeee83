"""Headers that contradict their own scan: told as such, and never read as a wrong number."""

import nibabel as nib
import numpy as np
import pytest

from ldm_project.ct.ct_files import find_scans, read_hu, read_scan
from ldm_project.errors import DataError
from tests.fakes.ct_scans import volume_hu, write_enhanced, write_series


def refused(source, message):
    (scan,) = find_scans(str(source)).scans
    with pytest.raises(DataError, match=message):
        read_hu(scan, spacing_mm=None)


@pytest.mark.parametrize("keywords", [["RescaleSlope"], ["RescaleIntercept"], None])
def test_scan_of_which_one_slice_is_not_rescaled_is_refused(tmp_path, keywords):
    def edit(header, number):
        if number == 3:  # it would be 1000 HU too bright, and the remaining scan right
            for keyword in keywords or ["RescaleSlope", "RescaleIntercept"]:
                delattr(header, keyword)

    write_series(tmp_path / "ct", edit=edit)
    refused(tmp_path, "do not all say how they are rescaled: .*001.dcm gives .*005.dcm gives")


def test_enhanced_scan_of_which_one_frame_is_not_rescaled_is_refused(tmp_path):
    def edit(header):
        del header.PerFrameFunctionalGroupsSequence[3].PixelValueTransformationSequence

    write_enhanced(tmp_path / "ct.dcm", edit=edit)
    refused(tmp_path, r"\(frame 4\) gives neither slope nor intercept")


def test_pixels_above_the_lowest_bits_are_refused(tmp_path):
    def edit(header, _):
        header.BitsStored, header.HighBit = 12, 15
        header.PixelData = (np.frombuffer(header.PixelData, np.int16) << 4).tobytes()

    write_series(tmp_path / "ct", edit=edit)
    refused(tmp_path, "has its 12 bits a pixel below bit 15")


def test_values_beyond_any_metal_are_no_hounsfield_units(tmp_path):
    write_series(tmp_path / "ct", edit=lambda header, _: setattr(header, "RescaleSlope", 1e30))
    refused(tmp_path, r"its highest 5.35e\+32")


def test_file_of_less_than_no_frames_is_counted(tmp_path):
    write_series(tmp_path / "ct")
    one = tmp_path / "other"
    write_series(one, num_slices=1, edit=lambda header, _: setattr(header, "NumberOfFrames", -1))
    assert any("has -1 frames" in reason for reason in find_scans(str(tmp_path)).left_out)


def test_modality_in_small_letters_is_ct(tmp_path):
    write_series(tmp_path / "ct", edit=lambda header, _: setattr(header, "Modality", "ct"))
    assert read_hu(find_scans(str(tmp_path)).scans[0], spacing_mm=None).shape == (1, 16, 16, 8)


# NIfTI


def write(path, affine, unit=None):
    image = nib.Nifti1Image(volume_hu(), affine)
    if unit is not None:
        image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("unit", "per_mm"), [("meter", 0.001), ("mm", 1.0), ("micron", 1000.0), ("unknown", 1.0)]
)
def test_size_of_voxels_is_in_the_unit_that_the_file_names(tmp_path, unit, per_mm):
    write(tmp_path / "a.nii", np.diag([2 * per_mm, 2 * per_mm, 3 * per_mm, 1]), unit)
    scan = read_scan(find_scans(str(tmp_path)).scans[0], spacing_mm=None)
    assert scan.spacing_mm == pytest.approx((2, 2, 3))


def test_unit_that_cannot_be_is_refused(tmp_path):
    refused(write(tmp_path / "a.nii", np.diag([2, 2, 3, 1]), "meter"), "has voxels of 3000 mm")


def test_nifti_of_a_tilted_gantry_is_refused(tmp_path):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 3 * np.tan(np.radians(5))
    refused(write(tmp_path / "a.nii", affine), "its axes are 5.0 degrees off right angles")


def test_nifti_without_any_size_of_its_voxels_is_refused(tmp_path):
    path = write(tmp_path / "a.nii", np.diag([2, 2, 3, 1]))
    header = bytearray(path.read_bytes())
    header[80:92] = bytes(12)  # pixdim[1:4]
    header[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(header)
    refused(path, "does not say how large its voxels are")
