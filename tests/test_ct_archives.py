"""CT archives as they are: what is odd is read right, or left out and counted."""

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
import time

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, generate_uid

from ldm_project.ct.ct_files import find_scans, read_hu
from ldm_project.ct.data import MAX_WARNINGS, DataSpec, open_scans
from ldm_project.errors import DataError
from tests.fakes.ct_scans import volume_hu, write_enhanced, write_nifti, write_series

# of a series' eight slices, each 10 HU more than the one below it
IN_ORDER = [0, 10, 20, 30, 40, 50, 60, 70]
SHUFFLED = [3, 8, 1, 6, 2, 7, 5, 4]
CORONAL, TURNED = (1, 0, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0)


def one_scan(source):
    (scan,) = find_scans(str(source)).scans
    return read_hu(scan, spacing_mm=None)


def centres(source):
    return one_scan(source)[0, 8, 8].tolist()


def opened(source):
    with pytest.warns(UserWarning, match="Skipped"):
        scans = open_scans(DataSpec(str(source), (16, 16)))
    return scans.num_scans, scans.num_skipped


def set_to(**values):
    """Returns an edit that gives slices values by keyword; ``None`` takes one away."""

    def edit(header, number):
        for keyword, value in values.items():
            if value is None:
                delattr(header, keyword)
            else:
                setattr(header, keyword, value(number) if callable(value) else value)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        set_to(InstanceNumber=lambda number: SHUFFLED[number]),
        set_to(InstanceNumber=1),
        set_to(InstanceNumber=lambda number: number % 4 + 1),
        set_to(InstanceNumber=lambda number: 8 - number),
        set_to(InstanceNumber=None),
    ],
    ids=["shuffled", "equal", "starting again", "from the top", "missing"],
)
def test_slices_are_stacked_by_their_place_whatever_their_numbers(tmp_path, edit):
    assert centres(write_series(tmp_path / "series", edit=edit)) == IN_ORDER


@pytest.mark.parametrize("is_marked", [True, False])
@pytest.mark.parametrize("orientation", [CORONAL, TURNED, (0, 1, 0, 0, 0, -1)])
def test_scout_in_the_cts_series_is_left_out_and_counted(tmp_path, orientation, is_marked):
    uid = generate_uid()
    write_series(tmp_path / "ct", series_uid=uid)
    kind = ["ORIGINAL", "PRIMARY", "LOCALIZER" if is_marked else "AXIAL"]
    # one gap below the lowest slice
    scout = set_to(ImageType=kind, ImagePositionPatient=[0.0, 0.0, -3.0])
    write_series(
        tmp_path / "scout", series_uid=uid, num_slices=1, orientation=orientation, edit=scout
    )
    assert centres(tmp_path) == IN_ORDER
    assert opened(tmp_path) == (1, 1)


def test_scout_in_a_series_of_its_own_is_counted(tmp_path):
    write_series(tmp_path / "ct")
    localizer = set_to(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "scout", num_slices=1, orientation=CORONAL, edit=localizer)
    assert opened(tmp_path) == (1, 1)


@pytest.mark.parametrize(
    "odd",
    [
        set_to(PixelSpacing=[0.5, 0.5]),
        set_to(ImagePositionPatient=None),
        set_to(ImageOrientationPatient=[0, 0, 0, 0, 0, 0]),
        set_to(Rows=8, Columns=32),
        set_to(Modality="SR"),
        set_to(PhotometricInterpretation="PALETTE COLOR"),
    ],
    ids=["spacing", "no place", "no axes", "size", "modality", "colour"],
)
def test_slice_that_does_not_fit_its_series_is_left_out_and_counted(tmp_path, odd):
    uid = generate_uid()
    write_series(tmp_path / "ct", series_uid=uid)
    write_series(tmp_path / "odd", series_uid=uid, num_slices=1, edit=odd)
    assert centres(tmp_path) == IN_ORDER
    assert opened(tmp_path) == (1, 1)


def test_slice_or_series_that_lies_there_twice_is_read_once_and_counted(tmp_path):
    write_series(tmp_path / "one")
    shutil.copy(tmp_path / "one" / "005.dcm", tmp_path / "copy.dcm")
    assert centres(tmp_path) == IN_ORDER
    assert opened(tmp_path) == (1, 1)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert centres(tmp_path) == IN_ORDER


def test_slices_that_an_anonymizer_gave_one_uid_are_all_read(tmp_path):
    assert centres(write_series(tmp_path / "ct", edit=set_to(SOPInstanceUID="1.2.3"))) == IN_ORDER


def test_two_phases_in_one_series_are_refused_as_such(tmp_path):
    uid = generate_uid()
    write_series(tmp_path / "one", series_uid=uid)
    write_series(tmp_path / "two", series_uid=uid)
    with pytest.raises(DataError, match=r"8 of its slices lie where another one lies: two phases"):
        one_scan(tmp_path)


def at(*places_mm):
    return set_to(ImagePositionPatient=lambda number: [0.0, 0.0, places_mm[number]])


@pytest.mark.parametrize(
    "places_mm",
    [
        [round(0.625 * number, 1) for number in range(8)],  # 0.6, 1.2, 1.9, 2.5 ...
        [round(0.25 * number, 1) for number in range(8)],  # 0.2, 0.5, 0.8, 1.0 ...
        [0.5 * number + 0.02 * (number % 3) for number in range(8)],
        [1000.0 - 0.7 * number for number in range(8)],
    ],
    ids=["0.625 to 0.1", "0.25 to 0.1", "jitter", "downwards"],
)
def test_rounded_places_of_an_even_stack_are_accepted(tmp_path, places_mm):
    assert one_scan(write_series(tmp_path / "ct", edit=at(*places_mm))).shape == (1, 16, 16, 8)


@pytest.mark.parametrize(
    "places_mm",
    [
        [0.625 * (number + (number > 3)) for number in range(8)],
        [0.0, 1.0, 2.0, 3.0, 5.0, 6.0, 7.0, 8.0],  # whole numbers are rounded, and one is missing
        [0.0, 2.0, 4.0, 6.0, 11.0, 16.0, 21.0, 26.0],
        [0.0, 1.0, 2.0, 3.0, 4.3, 5.0, 6.0, 7.0],
    ],
    ids=["missing", "missing of whole", "two gaps", "misplaced"],
)
def test_uneven_stack_is_refused(tmp_path, places_mm):
    with pytest.raises(DataError, match=r"mm apart\. A slice is missing or doubled"):
        one_scan(write_series(tmp_path / "ct", edit=at(*places_mm)))


@pytest.mark.parametrize(("degrees", "is_read"), [(0.9, True), (1.1, False), (-20, False)])
def test_tilt_above_one_degree_is_refused(tmp_path, degrees, is_read):
    folder = write_series(tmp_path / "ct", tilt_mm=3 * np.tan(np.radians(degrees)))
    if is_read:
        assert centres(folder) == IN_ORDER
    else:
        with pytest.raises(DataError, match=rf"tilted gantry \({abs(degrees):.1f} degrees\)"):
            one_scan(folder)


def test_slice_beside_the_others_is_refused(tmp_path):
    beside = set_to(ImagePositionPatient=lambda number: [9.0 * (number == 3), 0.0, 3.0 * number])
    with pytest.raises(DataError, match="lie beside the others"):
        one_scan(write_series(tmp_path / "ct", edit=beside))


def test_slice_of_one_frame_is_a_classic_one(tmp_path):
    folder = write_series(tmp_path / "ct", edit=set_to(NumberOfFrames=1))
    assert centres(folder) == IN_ORDER


def test_enhanced_ct_is_read_by_its_functional_groups(tmp_path):
    write_series(tmp_path / "classic")
    enhanced = one_scan(write_enhanced(tmp_path / "enhanced.dcm"))
    assert np.array_equal(enhanced, one_scan(tmp_path / "classic"))


def test_several_frames_without_groups_are_refused_as_no_enhanced_ct(tmp_path):
    def four_frames(header, number):
        header.NumberOfFrames, header.PixelData = 4, header.PixelData * 4

    folder = write_series(tmp_path / "ct", num_slices=1, edit=four_frames)
    with pytest.raises(DataError, match=r"4 frames.*Convert it to enhanced CT"):
        find_scans(str(folder))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, None])
@pytest.mark.parametrize("missing", ["preamble", "preamble and meta", "series", "mark first"])
def test_file_without_preamble_meta_or_series_is_read(tmp_path, syntax, missing):
    folder = write_series(tmp_path / "ct")
    for path in folder.iterdir():
        header = pydicom.dcmread(path)
        list(header)  # what is not looked at would be written as it was read
        if syntax is not None:
            if not syntax.is_little_endian:
                header.PixelData = np.frombuffer(header.PixelData, "<i2").astype(">i2").tobytes()
            header.file_meta.TransferSyntaxUID = syntax
            header.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
        if missing == "series":
            del header.SeriesInstanceUID
        header.save_as(path)
        content = path.read_bytes()
        meta_length = 132 + 12 + int.from_bytes(content[140:144], "little")
        start = {"preamble": 132, "preamble and meta": meta_length, "mark first": 128}
        path.write_bytes(content[start.get(missing, 0) :])
    assert centres(folder) == IN_ORDER


def test_real_files_without_meta_information_are_known_for_dicom(tmp_path):
    # they are no CT: the reason is the true one, not that they are no DICOM files
    for name in ("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"):
        with pytest.raises(DataError, match="has modality"):
            one_scan(pydicom.data.get_testdata_file(name))


@pytest.mark.parametrize("trailing", [(1,), (1, 1)])
def test_nifti_of_one_volume_in_a_row_is_a_volume(tmp_path, trailing):
    voxels = volume_hu()
    nib.save(
        nib.Nifti1Image(voxels.reshape(*voxels.shape, *trailing), np.eye(4)), tmp_path / "a.nii"
    )
    assert np.array_equal(one_scan(tmp_path)[0], voxels)


@pytest.mark.parametrize(
    ("bits", "padding", "is_signed"),
    [
        (16, -2000, True),
        (16, -32768, True),
        (16, 63536, False),
        (16, 4095, False),
        # beyond the bits that are stored: the lowest twelve of 63536 are 2096, dense bone
        (12, 63536, False),
        (12, -2000, True),
    ],
)
@pytest.mark.parametrize("is_implicit", [False, True])
def test_padding_is_air(tmp_path, bits, padding, is_signed, is_implicit):
    def pad(header, number):
        pixels = np.full((16, 16), 1040, np.int32)
        pixels[:4] = padding
        pixels[4, 0] = 2096 if padding == 63536 else 1040  # bone of 1096 HU stays bone
        header.PixelRepresentation = int(is_signed)
        header.BitsStored, header.HighBit = bits, bits - 1
        header.RescaleSlope = 1
        header.add_new(0x00280120, "SS" if is_signed else "US", padding)
        header.PixelData = pixels.astype(np.int64).astype("<u2").tobytes()
        if is_implicit:
            header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian

    voxels = one_scan(write_series(tmp_path / "ct", edit=pad))[0]
    assert voxels[:, -4:].unique().tolist() == [-1000]  # the first rows are the patient's front
    assert voxels[15, 11, 0].item() == (1096 if padding == 63536 else 40)
    assert voxels[8, 5].unique().tolist() == [40]


def test_range_of_padding_is_air(tmp_path):
    def pad(header, number):
        pixels = np.full((16, 16), 1040, np.int16)
        pixels[0], pixels[1] = 3000, 3100
        header.RescaleSlope, header.PixelPaddingValue = 1, 3000
        header.PixelPaddingRangeLimit = 3100
        header["PixelPaddingValue"].VR = header["PixelPaddingRangeLimit"].VR = "SS"
        header.PixelData = pixels.tobytes()

    assert one_scan(write_series(tmp_path / "ct", edit=pad)).unique().tolist() == [-1000, 40]


@pytest.mark.parametrize(
    "edit",
    [set_to(RescaleSlope=0), set_to(RescaleType="Z_EFF"), set_to(RescaleSlope=None)],
    ids=["slope 0", "atomic numbers", "no slope"],
)
def test_slices_that_are_not_in_hounsfield_units_are_refused(tmp_path, edit):
    def both(header, number):
        edit(header, number)
        if "RescaleSlope" not in header:
            del header.RescaleIntercept

    with pytest.raises(DataError, match="Hounsfield units"):
        one_scan(write_series(tmp_path / "ct", edit=both))


def odd_nifti(path, *, shape=(20, 20, 8), dtype=np.int16, patch=None):
    nib.save(nib.Nifti1Image(np.zeros(shape, dtype), np.eye(4)), path)
    if patch:
        place, value = patch
        content = bytearray(path.read_bytes())
        content[place : place + len(value)] = value
        path.write_bytes(content)


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    "settings",
    [
        {"dtype": RGB},
        {"dtype": np.complex64},
        {"shape": (20, 20, 0)},
        {"shape": (20, 20, 8, 2)},
        {"patch": (70, (26996).to_bytes(2, "little"))},  # unknown data type
        {"patch": (108, np.float32(0).tobytes())},  # voxels begin within the header
        {"patch": (42, (30000).to_bytes(2, "little") * 3)},  # 27 TB of voxels
        {"patch": (280, np.float32(np.nan).tobytes())},  # affine
        {"patch": (280, np.float32(0).tobytes())},  # an axis without length
    ],
    ids=["rgb", "complex", "empty", "several", "type", "offset", "huge", "nan", "flat"],
)
def test_odd_nifti_is_one_skipped_file_and_nothing_is_printed(tmp_path, capfd, settings):
    write_nifti(tmp_path / "good.nii.gz", volume_hu())
    odd_nifti(tmp_path / "odd.nii", **settings)
    assert opened(tmp_path) == (1, 1)
    assert capfd.readouterr().err == ""


def with_odd_vr(path, *, place):
    content = bytearray(path.read_bytes())
    at = content.index(b"\x08\x00\x60\x00CS") + 4 if place == "modality" else 136
    content[at : at + 2] = b"ZZ"
    path.write_bytes(content)


@pytest.mark.parametrize("place", ["modality", "meta"])
def test_dicom_file_of_an_unknown_kind_of_value_is_one_skipped_file(tmp_path, place):
    write_nifti(tmp_path / "good.nii.gz", volume_hu())
    (path,) = write_series(tmp_path / "odd", num_slices=1).iterdir()
    with_odd_vr(path, place=place)
    assert opened(tmp_path) == (1, 1)


def test_many_skipped_files_are_named_up_to_a_bound_and_all_counted(tmp_path):
    write_nifti(tmp_path / "good.nii.gz", volume_hu())
    for number in range(MAX_WARNINGS + 7):
        (tmp_path / f"{number}.dcm").write_bytes(b"torn")
    with pytest.warns(UserWarning, match="Skipped") as told:
        scans = open_scans(DataSpec(str(tmp_path), (16, 16)))
    assert scans.num_skipped == MAX_WARNINGS + 7
    assert len(told) == MAX_WARNINGS + 1
    assert str(told[-1].message) == "Skipped: 7 more, which are not named here."


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.slow
def test_bar_shows_on_a_terminal_only(tmp_path, is_terminal):
    folder = write_series(tmp_path / "ct")
    script = (
        "from ldm_project.ct.ct_files import find_scans, read_hu;"
        f"read_hu(find_scans({str(folder)!r}).scans[0], spacing_mm=None)"
    )
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    if is_terminal:  # a new one has no columns
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    subprocess.run([sys.executable, "-c", script], check=True, stderr=theirs, stdout=theirs)
    os.write(theirs, b".")  # there is something to read in any case
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    os.close(theirs)
    assert ("Reading DICOM headers" in shown) == is_terminal


@pytest.mark.slow
def test_ten_thousand_files_are_sorted_in_little_more_than_their_headers_need(tmp_path):
    # each of 20 files lies there 500 times, as a hard link: reading it takes as long as of another
    folder = write_series(tmp_path / "ct", num_slices=20)
    for number in range(1, 500):
        for path in folder.glob("[0-9][0-9][0-9].dcm"):
            os.link(path, folder / f"{path.stem}-{number}.dcm")
    started_s = time.process_time()
    for path in folder.iterdir():
        list(pydicom.dcmread(path, stop_before_pixels=True))
    headers_s = time.process_time() - started_s
    started_s = time.process_time()
    found = find_scans(str(folder))
    assert len(found.scans[0].slices) == 20
    # a step that grows with the square of the files would be far beyond
    assert time.process_time() - started_s < 2 * headers_s
