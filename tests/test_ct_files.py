"""Real and made CT files through one path: right values, right way round, or one clear error."""

import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest

from ldm_project.ct.ct_files import find_scans, read_hu
from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.errors import DataError
from tests.fakes.ct_scans import volume_hu, write_nifti, write_series

NIBABEL_FILES = Path(nib.__file__).parent / "tests" / "data"
PYDICOM_FILES = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent


def one_scan(source):
    (scan,) = find_scans(str(source)).scans
    return read_hu(scan, spacing_mm=None)


def test_real_ct_slice_is_read_in_hounsfield_units():
    # lowest and highest pixel are 128 and 2191, slope 1, intercept -1024 (the file's own header)
    voxels = one_scan(PYDICOM_FILES / "CT_small.dcm")
    assert voxels.shape == (1, 128, 128, 1)
    assert (voxels.min(), voxels.max()) == (-896, 1167)


def test_real_series_is_one_volume():
    voxels = one_scan(PYDICOM_FILES / "dicomdirtests" / "98892001" / "CT5N")
    assert voxels.shape == (1, 16, 16, 5)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "SRA"])
def test_volume_comes_out_the_same_however_it_is_stored(tmp_path, axes):
    voxels = one_scan(write_nifti(tmp_path / "scan.nii.gz", volume_hu(), axes))
    assert np.array_equal(voxels[0].numpy(), volume_hu())


def test_dicom_slices_are_sorted_by_position_and_rescaled(tmp_path):
    voxels = one_scan(write_series(tmp_path / "series"))
    assert voxels.shape == (1, 16, 16, 8)
    assert [voxels[0, 8, 8, number].item() for number in range(8)] == [10 * k for k in range(8)]
    assert voxels.min() == -1000


def test_patient_left_of_a_dicom_ends_at_low_x(tmp_path):
    # DICOM's x grows to the patient's left, RAS' to the right: columns come out reversed
    folder = write_series(tmp_path / "series", num_slices=1)
    (path,) = folder.iterdir()
    header = pydicom.dcmread(path)
    pixels = header.pixel_array.copy()
    pixels[8, 0] = 900  # 800 HU in the first column: the patient's right
    header.PixelData = pixels.tobytes()
    header.save_as(path)
    voxels = one_scan(path)[0, :, :, 0]
    assert voxels[15, 7].item() == 800


def test_series_in_one_folder_are_scans_of_their_own(tmp_path):
    write_series(tmp_path / "a" / "one")
    write_series(tmp_path / "a" / "two")
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted((tmp_path / "a").rglob("*.dcm"))):
        shutil.copy(path, flat / f"{number}.dcm")
    assert [len(scan.paths) for scan in find_scans(str(flat)).scans] == [8, 8]


def test_resampling_halves_the_voxels_of_double_size(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", volume_hu())  # 2 x 2 x 3 mm
    (scan,) = find_scans(str(path)).scans
    voxels = read_hu(scan, spacing_mm=(4.0, 4.0, 3.0))
    assert voxels.shape[1:] == (20, 18, 24) or voxels.shape[1:] == (21, 19, 24)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "MR"}, "has modality MR, not CT"),
        ({"missing": 3}, "A slice is missing or doubled"),
        ({"tilt_mm": 1.5}, "tilted gantry"),
    ],
)
def test_series_that_is_no_upright_ct_is_refused(tmp_path, settings, message):
    write_series(tmp_path / "series", **settings)
    with pytest.raises(DataError, match=message):
        one_scan(tmp_path / "series")


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("example4d.nii.gz", "has 4 dimensions"),
        ("standard.nii.gz", "no CT in Hounsfield units"),
        ("anatomical.nii", "no CT in Hounsfield units"),
        ("resampled_anat_moved.nii", "no numbers"),
    ],
)
def test_real_file_that_is_no_ct_is_refused(file, message):
    with pytest.raises(DataError, match=message):
        one_scan(NIBABEL_FILES / file)


def test_source_without_ct_is_one_error(tmp_path):
    with pytest.raises(DataError, match="No folder, file or glob"):
        find_scans(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="No file in"):
        find_scans(str(tmp_path))
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="1 files, none of them NIfTI"):
        find_scans(str(tmp_path))


def test_one_bad_file_among_many_is_skipped_warned_of_and_counted(tmp_path):
    write_nifti(tmp_path / "good.nii.gz", volume_hu())
    (tmp_path / "torn.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:200])
    with pytest.warns(UserWarning, match="torn.nii.gz cannot be read"):
        scans = open_scans(DataSpec(str(tmp_path), (32, 32)))
    assert (scans.num_scans, scans.num_skipped) == (1, 1)


def test_only_bad_files_are_one_error(tmp_path):
    (tmp_path / "torn.nii.gz").write_bytes(b"torn")
    with pytest.raises(DataError, match="None of 1 scans"):
        open_scans(DataSpec(str(tmp_path), (32, 32)))


def test_crop_is_the_middle_and_what_is_missing_is_air(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu((40, 36, 24)))
    (image,) = open_scans(DataSpec(str(tmp_path), (32, 32, 32))).images(0)
    assert image.shape == (1, 32, 32, 32)
    # 24 slices in the middle of 32: four of air below and above
    assert (image[..., :4] == -1).all()
    assert (image[..., -4:] == -1).all()
    # muscle, 50 HU of -1000..1000, is 0.05
    assert image[0, 16, 16, 16].item() == pytest.approx(0.05)


def crops_of(source, size=(16, 16, 16), **settings):
    return [
        image.numpy() for image in open_scans(DataSpec(str(source), size, **settings)).images(0)
    ]


def overwrite(path, content, *, keep_time):
    """Gives a file other content of the same length, and its old time or a new one."""
    stat = path.stat()
    path.write_bytes(content[: stat.st_size].ljust(stat.st_size, b"\0"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if keep_time else 1)))


def test_second_look_at_a_scan_reads_its_crop_and_no_scan(tmp_path):
    path = write_nifti(tmp_path / "scan.nii.gz", volume_hu())
    (first,) = crops_of(tmp_path)
    overwrite(path, b"no image", keep_time=True)  # cannot be read any more
    (second,) = crops_of(tmp_path)
    assert np.array_equal(first, second)


def test_scan_that_changed_is_read_anew(tmp_path):
    path = write_nifti(tmp_path / "scan.nii", volume_hu())
    (first,) = crops_of(tmp_path)
    content = path.read_bytes()
    other = write_nifti(tmp_path.parent / "other.nii", np.minimum(volume_hu() + 100, 900))
    overwrite(path, other.read_bytes(), keep_time=False)
    assert len(content) == path.stat().st_size
    (second,) = crops_of(tmp_path)
    assert second[0, 8, 8, 8] - first[0, 8, 8, 8] == pytest.approx(0.1)  # 100 HU of 2000, times 2


def test_crop_of_each_size_axis_and_spacing_is_kept_by_itself(tmp_path, cache):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu())
    settings = [
        {"size": (16, 16, 16)},
        {"size": (20, 20, 20)},
        {"size": (16, 16)},
        {"size": (16, 16), "slice_axis": "coronal"},
        {"size": (16, 16, 16), "spacing_mm": (2.5, 2.5, 2.5)},
    ]
    for setting in settings * 2:
        crops_of(tmp_path / "scan.nii.gz", **setting)
    assert len(list((cache / "crops").iterdir())) == len(settings)


def test_kept_crop_is_no_larger_than_what_is_cut_out(tmp_path, cache):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu())
    crops_of(tmp_path / "scan.nii.gz")
    (crop,) = (cache / "crops").iterdir()
    assert crop.stat().st_size == pytest.approx(2 * 16**3, abs=200)  # int16, and a header


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_crop_is_made_again(tmp_path, cache, damage):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu())
    source = tmp_path / "scan.nii.gz"
    (first,) = crops_of(source)
    (crop,) = (cache / "crops").iterdir()
    content = bytearray(crop.read_bytes())
    content[len(content) // 2] ^= 64
    crop.write_bytes(content if damage == "flipped" else content[:-1000])
    (second,) = crops_of(source)
    assert np.array_equal(first, second)


def test_scans_of_equal_names_in_different_folders_keep_their_own_crops(tmp_path):
    for number in range(2):
        (tmp_path / "data" / str(number)).mkdir(parents=True)
        voxels = np.clip(volume_hu() + 200 * number, -1000, 900).astype(np.int16)
        path = write_nifti(tmp_path / "data" / str(number) / "scan.nii", voxels)
        os.utime(path, ns=(0, 0))
    first, second = crops_of(tmp_path / "data")
    assert not np.array_equal(first, second)


def test_scan_far_smaller_than_the_crop_is_refused(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu((40, 36, 24)))
    with pytest.raises(DataError, match=r"40x36x24 voxels.*less than half of 64x64x64"):
        open_scans(DataSpec(str(tmp_path), (64, 64, 64)))


def test_single_slice_serves_2d_and_not_3d():
    source = str(PYDICOM_FILES / "CT_small.dcm")
    (image,) = open_scans(DataSpec(source, (64, 64))).images(0)
    assert image.shape == (1, 64, 64)
    with pytest.raises(DataError, match="a single slice; dims=3 needs volumes"):
        open_scans(DataSpec(source, (64, 64, 64)))


def test_epochs_draw_other_slices_by_the_seed(tmp_path):
    voxels = volume_hu((32, 32, 40))
    voxels[:, :, :] = np.arange(40) * 10 - 1000  # every slice has a value of its own
    write_nifti(tmp_path / "scan.nii.gz", voxels)

    def drawn(seed):
        scans = open_scans(DataSpec(str(tmp_path), (32, 32), seed=seed))
        return [next(scans.images(epoch))[0, 0, 0].item() for epoch in range(8)]

    assert len(set(drawn(0))) > 3
    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_patients_are_either_trained_on_or_held_out():
    training, held_out = open_scans(DataSpec("phantom", (16, 16), num_phantoms=10)).split(0.2)
    assert (training.num_scans, held_out.num_scans) == (8, 2)
    assert not set(training.scans) & set(held_out.scans)


@pytest.mark.slow
def test_no_patient_with_several_scans_is_both_trained_on_and_held_out(tmp_path):
    for number in range(12):  # three series of each of four patients
        write_series(tmp_path / str(number), patient=f"patient {number % 4}")
    for seed in range(5):
        scans = open_scans(DataSpec(str(tmp_path), (16, 16), seed=seed))
        training, held_out = scans.split(0.25)
        assert (training.num_scans, held_out.num_scans) == (9, 3)
        assert {scan.patient for scan in held_out.scans}.isdisjoint(
            scan.patient for scan in training.scans
        )


def test_patient_is_who_dicom_or_bids_names_else_the_study_or_the_file(tmp_path):
    write_series(tmp_path / "dicom" / "first", patient="A")
    write_series(tmp_path / "dicom" / "second", patient="A")
    write_series(tmp_path / "dicom" / "anonymous", patient=" ")
    for name in ("sub-01/ses-1/ct.nii.gz", "sub-01/ses-2/ct.nii.gz", "a.nii.gz", "b.nii.gz"):
        path = tmp_path / "nifti" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_nifti(path, volume_hu())
    dicom = [scan.patient for scan in find_scans(str(tmp_path / "dicom")).scans]
    assert sorted(patient == "A" for patient in dicom) == [False, True, True]
    assert len(set(dicom)) == 2
    nifti = {
        str(scan.paths[0].relative_to(tmp_path / "nifti")): scan.patient
        for scan in find_scans(str(tmp_path / "nifti")).scans
    }
    assert nifti["sub-01/ses-1/ct.nii.gz"] == nifti["sub-01/ses-2/ct.nii.gz"] == "sub-01"
    assert nifti["a.nii.gz"] != nifti["b.nii.gz"]


def test_scans_of_one_patient_are_all_trained_on_and_a_warning_says_so(tmp_path):
    for number in range(2):
        write_series(tmp_path / str(number), patient="A")
    with pytest.warns(UserWarning, match="All scans are of one patient, so none is held out"):
        training, held_out = open_scans(DataSpec(str(tmp_path), (16, 16))).split(0.2)
    assert training.num_scans == held_out.num_scans == 2


def test_digest_tells_data_sets_apart_and_holds_no_path(tmp_path):
    write_nifti(tmp_path / "scan.nii.gz", volume_hu())
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    here = open_scans(DataSpec(str(tmp_path), (32, 32))).digest
    assert here == open_scans(DataSpec(str(tmp_path.parent / "copy"), (32, 32))).digest
    assert here != open_scans(DataSpec("phantom", (32, 32))).digest


@pytest.mark.parametrize("size", [(16, 16), (16, 16, 16)])
def test_batches_go_on_for_ever_also_with_fewer_scans_than_a_batch(size):
    endless = batches(open_scans(DataSpec("phantom", size, num_phantoms=3)), batch_size=4)
    for _ in range(5):
        batch = next(endless)
        assert batch.shape == (4, 1, *size)
        assert batch.abs().max() <= 1
