"""The same voxels as SimpleITK reads, whichever way a scan is stored, turned and compressed."""

import random

import gdcm
import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from pydicom.pixels.utils import pixel_array

from ldm_project.ct.ct_files import find_scans, read_hu
from ldm_project.errors import DataError
from tests.fakes.ct_scans import volume_hu, write_enhanced, write_nifti, write_series

SYNTAXES = {
    "RLE": gdcm.TransferSyntax.RLELossless,
    "JPEG Lossless": gdcm.TransferSyntax.JPEGLosslessProcess14,
    "JPEG Lossless SV1": gdcm.TransferSyntax.JPEGLosslessProcess14_1,
    "JPEG-LS": gdcm.TransferSyntax.JPEGLSLossless,
    "JPEG 2000": gdcm.TransferSyntax.JPEG2000Lossless,
}
OBLIQUE = (0.939693, 0.342020, 0.0, -0.342020, 0.939693, 0.0)  # turned by 20 degrees
ORIENTATIONS = {
    "axial": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "coronal": (1, 0, 0, 0, 0, -1),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": OBLIQUE,
}


def ours(source):
    (scan,) = find_scans(str(source)).scans
    return read_hu(scan, spacing_mm=None)[0].numpy()


def simpleitk(files):
    """Returns what SimpleITK reads, turned to the right, front and top."""
    image = SimpleITK.DICOMOrient(SimpleITK.ReadImage(files), "RAS")
    return SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)


def in_simpleitks_order(folder):
    return SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))


def noise(number):
    generator = np.random.default_rng(number)
    return generator.integers(0, 1500, (16, 16)).astype(np.int16)


def with_noise(header, number):
    """Gives each voxel a value of its own, so that no turned or shifted volume looks the same."""
    pixels = noise(number)
    pixels[0, 0] = 0
    header.PixelData = pixels.tobytes()
    header.RescaleSlope = 1
    header.InstanceNumber = (number * 5) % 8  # says nothing of the order


def compressed(folder, syntax):
    for path in folder.iterdir():
        reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(SYNTAXES[syntax]))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
    return folder


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_series_is_as_simpleitk_reads_it(tmp_path, name):
    folder = write_series(tmp_path / "ct", orientation=ORIENTATIONS[name], edit=with_noise)
    assert np.array_equal(ours(folder), simpleitk(in_simpleitks_order(folder)))


def test_real_series_is_as_simpleitk_reads_it():
    folder = pydicom.data.get_testdata_file("CT_small.dcm").replace(
        "CT_small.dcm", "dicomdirtests/98892001/CT5N"
    )
    assert np.array_equal(ours(folder), simpleitk(in_simpleitks_order(folder)))


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SRA"])
def test_nifti_is_as_simpleitk_reads_it(tmp_path, axes):
    path = write_nifti(tmp_path / "scan.nii.gz", volume_hu(), axes)
    assert np.array_equal(ours(path), simpleitk(str(path)))


def test_scaled_nifti_with_a_qform_alone_is_as_simpleitk_reads_it(tmp_path):
    image = nib.Nifti1Image(volume_hu(), None)
    image.set_qform(np.diag([-2.0, 2.0, 3.0, 1.0]), code=1)
    image.header.set_slope_inter(1, 0)
    nib.save(image, tmp_path / "scan.nii")
    assert np.array_equal(ours(tmp_path), simpleitk(str(tmp_path / "scan.nii")))


def test_enhanced_ct_has_the_values_and_order_that_simpleitk_finds(tmp_path):
    path = write_enhanced(tmp_path / "enhanced.dcm")
    # written from the top, so SimpleITK's first frame, which it does not sort, is the highest;
    # its rescale slope is that of the first frame: odd ones, 2
    stored = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    assert stored.shape == (8, 16, 16)
    assert ours(path)[8, 8].tolist() == [10 * k for k in range(8)]


@pytest.mark.slow
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_compressed_series_is_as_before_and_as_simpleitk_reads_it(tmp_path, syntax):
    folder = write_series(tmp_path / "ct", edit=with_noise)
    before = ours(folder)
    compressed(folder, syntax)
    assert pydicom.dcmread(next(folder.iterdir())).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(ours(folder), before)
    assert np.array_equal(ours(folder), simpleitk(in_simpleitks_order(folder)))


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless", "MR_small_RLE"])
def test_real_compressed_pixels_are_those_of_the_file_as_it_was(name):
    before, after = (
        pixel_array(pydicom.data.get_testdata_file(f"{file}.dcm")) for file in ("MR_small", name)
    )
    assert np.array_equal(before, after)


@pytest.mark.slow
@pytest.mark.parametrize("syntax", ["JPEG Lossless", "JPEG-LS", "JPEG 2000"])
def test_damaged_compressed_pixels_are_one_reason_and_end_no_process(tmp_path, syntax, capfd):
    """GDCM, where it is installed, ends the process at some of these: it must not be asked."""
    (path,) = compressed(
        write_series(tmp_path / "ct", num_slices=1, edit=with_noise), syntax
    ).iterdir()
    content = path.read_bytes()
    start = content.rindex(b"\xe0\x7f\x10\x00")
    generator = random.Random(0)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(content)
        damaged[generator.randrange(start, start + 120)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            ours(path)
        except DataError as error:
            outcomes.append(str(error))
    assert any("cannot be read" in outcome for outcome in outcomes)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("is_signed", [True, False])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_each_kind_of_pixel_is_decompressed_without_loss(tmp_path, syntax, bits, is_signed):
    def any_value(header, number):
        lowest = -(2 ** (bits - 1)) if is_signed else 0
        pixels = np.random.default_rng(0).integers(lowest, lowest + 2**bits, (16, 16))
        pixels[:9] = 20  # most is tissue, or it would be no CT
        header.PixelRepresentation, header.BitsStored = int(is_signed), bits
        header.HighBit, header.RescaleSlope = bits - 1, 1
        header.PixelData = pixels.astype("<i8").astype("<u2").tobytes()

    folder = write_series(tmp_path / "ct", num_slices=1, edit=any_value)
    before = ours(folder)
    assert np.array_equal(ours(compressed(folder, syntax)), before)


def test_compression_that_cannot_be_read_names_what_to_install(tmp_path):
    folder = write_series(tmp_path / "ct", num_slices=1)
    (path,) = folder.iterdir()
    header = pydicom.dcmread(path)
    header.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    header.PixelData = pydicom.encaps.encapsulate([b"\0" * 16])
    header["PixelData"].VR, header["PixelData"].is_undefined_length = "OB", True
    header.save_as(path)
    with pytest.raises(DataError, match=r"compressed as MPEG2 .*which no package"):
        ours(folder)
