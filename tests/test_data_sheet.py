"""Statistics of a data set, shown before training and kept with its run; patches of its scans."""

import json

import mlflow
import numpy as np
import pydicom
import pytest
import torch
from mlflow import MlflowClient

from ldm_project.config import VqganRunConfig
from ldm_project.ct.crops import ScanFacts
from ldm_project.ct.data import DataSpec, batches, open_scans
from ldm_project.ct.data_sheet import data_sheet, sheet_lines, sheet_markdown
from ldm_project.errors import InvalidInputError
from ldm_project.resolution import vqgan_settings
from tests.fakes.commands import run_command
from tests.fakes.ct_scans import volume_hu, write_nifti, write_series


def sheet_of(source, size=(32, 32, 32), **settings):
    scans = open_scans(DataSpec(str(source), size, **settings))
    return data_sheet(scans, scans)


def test_facts_of_a_scan_are_those_of_its_file(tmp_path):
    # 40 x 36 x 24 voxels of 2 x 2 x 3 mm: 32 x 32 x 24 of them lie in a crop of 32 x 32 x 32
    write_nifti(tmp_path / "sub-01.nii.gz", volume_hu())
    (scan,) = open_scans(DataSpec(str(tmp_path), (32, 32, 32))).scans
    assert scan.facts == ScanFacts(
        shape=(40, 36, 24),
        spacing_mm=(2.0, 2.0, 3.0),
        lowest_hu=-1000,
        highest_hu=900,
        outside_fraction=0,
        kept_fraction=pytest.approx(32 * 32 * 24 / (40 * 36 * 24)),
        padded_fraction=pytest.approx(1 - 24 / 32),
    )


def test_facts_of_slices_count_every_slice_as_kept(tmp_path):
    write_nifti(tmp_path / "sub-01.nii.gz", volume_hu())
    (scan,) = open_scans(DataSpec(str(tmp_path), (32, 32), slice_axis="coronal")).scans
    # coronal slices of 40 x 24, of which 32 x 24 lie in 32 x 32
    assert scan.facts.kept_fraction == pytest.approx(32 / 40)
    assert scan.facts.padded_fraction == pytest.approx(1 - 24 / 32)


def test_voxels_that_the_networks_see_clipped_are_counted(tmp_path):
    voxels = volume_hu()
    voxels[4:14, 4, 4] = 2500
    write_nifti(tmp_path / "sub-01.nii.gz", voxels)
    figures = sheet_of(tmp_path).figures
    assert figures["highest (HU)"].most == 2500
    outside = figures["outside -1000 to 1000 HU, clipped (%)"]
    assert outside.median == pytest.approx(100 * 10 / voxels.size)


def test_sheet_spans_all_scans_and_counts_what_is_left_out(tmp_path):
    write_nifti(tmp_path / "sub-01.nii.gz", volume_hu())
    write_nifti(tmp_path / "sub-02.nii.gz", volume_hu((48, 44, 40)))
    write_nifti(tmp_path / "sub-03.nii.gz", np.zeros((40, 40, 40), dtype=np.int16))
    with pytest.warns(UserWarning, match="Skipped"):
        sheet = sheet_of(tmp_path)
    assert (sheet.num_scans, sheet.num_patients, sheet.num_skipped) == (2, 2, 1)
    size = sheet.figures["size x (voxels)"]
    assert (size.least, size.median, size.most) == (40, 44, 48)


def test_spacing_that_no_file_tells_is_left_out(tmp_path):
    write_series(tmp_path / "series", num_slices=1)
    (path,) = (tmp_path / "series").iterdir()
    assert "spacing x (mm)" in sheet_of(tmp_path, (16, 16)).figures
    header = pydicom.dcmread(path)
    del header.PixelSpacing
    header.save_as(path)
    unknown = sheet_of(tmp_path, (16, 16)).figures
    assert "spacing x (mm)" not in unknown
    assert "size x (voxels)" in unknown


def test_facts_are_kept_with_the_crop_and_made_anew_where_they_are_missing(tmp_path, cache):
    write_nifti(tmp_path / "sub-01.nii.gz", volume_hu())
    first = sheet_of(tmp_path)
    (kept,) = (cache / "facts").iterdir()
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"lowest_hu": -990.0}))
    assert sheet_of(tmp_path).figures["lowest (HU)"].least == -990
    for damaged in ("", "{}", "[1]"):
        kept.write_text(damaged)
        assert sheet_of(tmp_path) == first
    kept.unlink()  # a crop of an earlier release
    assert sheet_of(tmp_path) == first


def test_sheet_names_no_folder_and_no_patient(tmp_path):
    write_nifti(tmp_path / "sub-Miller.nii.gz", volume_hu())
    text = sheet_markdown(sheet_of(tmp_path))
    assert "Miller" not in text
    assert tmp_path.name not in text
    assert "| spacing z (mm) | 3 | 3 | 3 |" in text


def test_one_patient_is_called_no_training_set(tmp_path):
    write_nifti(tmp_path / "sub-01.nii.gz", volume_hu())
    assert (
        "of 1 patient, none of them held out: one patient is no training set"
        in (sheet_lines(sheet_of(tmp_path))[0])
    )


def test_phantoms_have_a_sentence_and_no_table():
    (line,) = sheet_lines(sheet_of("phantom", (16, 16), num_phantoms=10))
    assert line.startswith("Data: 10 phantoms, drawn here, of 10 patients")


@pytest.mark.parametrize(("size", "patch_size"), [((32, 32), (16, 8)), ((16,) * 3, (8, 8, 16))])
def test_patches_are_parts_of_the_image_at_changing_places(size, patch_size):
    scans = open_scans(DataSpec("phantom", size, num_phantoms=1))
    (whole,), patched = scans.images(0), scans.in_patches(patch_size)
    (patch,) = patched.images(0)
    assert patch.shape == (1, *patch_size)
    windows = whole[0]
    for axis, length in enumerate(patch_size):
        windows = windows.unfold(axis, length, 1)
    equal = (windows == patch[0]).flatten(start_dim=len(size)).all(dim=-1)
    assert equal.any()
    again = next(iter(patched.images(0)))
    assert torch.equal(patch, again)
    assert patched.identity != scans.identity
    many = next(batches(patched, batch_size=8))
    assert len({image.numpy().tobytes() for image in many}) > 1


def test_interrupted_training_goes_on_with_the_patches_that_would_have_come():
    scans = open_scans(DataSpec("phantom", (32, 32), num_phantoms=3)).in_patches((16, 16))
    endless = batches(scans, batch_size=2)
    next(endless)
    next(endless)
    skipped = batches(scans, batch_size=2, num_skipped=2)
    assert torch.equal(next(endless), next(skipped))


@pytest.mark.parametrize(
    ("patch_size", "message"),
    [
        ("64", "patch_size is '64', but an image has 32x32"),
        ("16x16x16", "patch_size: size '16x16x16' has 3 axes"),
        ("12", "patch_size: size '12x12': 12 is not divisible by 8"),
        ("big", "patch_size: size is 'big'"),
    ],
)
def test_senseless_patch_size_is_refused(patch_size, message):
    with pytest.raises(InvalidInputError) as caught:
        vqgan_settings(VqganRunConfig(size="32", patch_size=patch_size))
    assert message in str(caught.value)


@pytest.mark.slow
def test_training_on_patches_shows_and_keeps_the_sheet_and_makes_a_model_of_whole_images(
    store, tmp_path, capsys
):
    folder = tmp_path / "ct"
    folder.mkdir()
    for number in range(2):
        write_nifti(folder / f"sub-{number}.nii.gz", volume_hu())
    config = VqganRunConfig(size="32", patch_size="16", data=str(folder), vqgan_iterations=12)
    run_command(config)
    shown = capsys.readouterr().err
    assert "Images of 32x32, learned from in patches of 16x16." in shown
    assert "spacing z (mm)" in shown
    (run,) = MlflowClient().search_runs(["0"])
    kept = mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/data_sheet.json")
    assert kept["figures"]["spacing z (mm)"] == {"least": 3.0, "median": 3.0, "most": 3.0}
    assert "| spacing z (mm) | 3 | 3 | 3 |" in mlflow.artifacts.load_text(
        f"{run.info.artifact_uri}/data_sheet.md"
    )
    model = mlflow.pyfunc.load_model("models:/vqgan-ct-2d-32-tiny/1")
    images = np.full((2, 1, 32, 32), -1000, dtype=np.float32)
    assert model.predict(images).shape == images.shape
