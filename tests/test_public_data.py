"""Public data sets by name: downloaded once, whole or not there, then read like any folder."""

import shutil
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from ldm_project.config import VqganRunConfig
from ldm_project.ct.data import DataSpec, open_scans
from ldm_project.ct.decathlon import task_images
from ldm_project.ct.sources import DEFAULT_NUM_SERIES, source_files
from ldm_project.ct.tcia import collection_files
from ldm_project.errors import CacheError, DataError
from tests.fakes.archives import decathlon_at, packed_task, served_archive, write_task
from tests.fakes.commands import run_command
from tests.fakes.ct_scans import volume_hu, write_nifti, write_series

SPLEEN = "Task09_Spleen"


@pytest.fixture
def archive():
    with served_archive() as served:
        yield served


@pytest.fixture
def spleen(tmp_path):
    """The folder of a small task: three images to train on, two to test on."""
    scans = tmp_path / "scans"
    scans.mkdir()
    paths = [
        write_nifti(scans / f"spleen_{number}.nii.gz", volume_hu((20, 20, 12)))
        for number in (40, 2, 10, 1, 7)
    ]
    return write_task(tmp_path / SPLEEN, {"training": paths[:3], "test": paths[3:]})


@pytest.fixture
def lidc(archive, tmp_path):
    """A collection of three series of 8 slices; returns the UIDs in the order of patients."""
    listed = [
        archive.add_series(
            uid, patient=patient, folder=write_series(tmp_path / uid, patient=patient)
        )
        for uid, patient in (("1.9", "LIDC-0002"), ("1.5", "LIDC-0003"), ("1.7", "LIDC-0001"))
    ]
    archive.add_collection("LIDC-IDRI", listed)
    return ["1.7", "1.9", "1.5"]


def names(paths):
    return [path.name for path in paths]


def test_decathlon_task_has_the_images_of_both_sections_and_no_labels(cache, spleen):
    shutil.copytree(spleen, cache / "data" / "msd" / SPLEEN)
    images = source_files(f"msd:{SPLEEN}")
    assert sorted(names(images)) == [f"spleen_{n}.nii.gz" for n in (1, 10, 2, 40, 7)]
    assert {path.parent.name for path in images} == {"imagesTr", "imagesTs"}


def test_decathlon_task_is_read_like_a_folder_and_every_file_is_a_patient(cache, spleen):
    shutil.copytree(spleen, cache / "data" / "msd" / SPLEEN)
    scans = open_scans(DataSpec(f"msd:{SPLEEN}", (16, 16, 16)))
    assert (scans.num_scans, scans.num_skipped) == (5, 0)
    assert len({scan.patient for scan in scans.scans}) == 5
    assert next(scans.images(0)).shape == (1, 16, 16, 16)
    by_hand = spleen.parent / "by hand"
    for section in ("imagesTr", "imagesTs"):
        shutil.copytree(spleen / section, by_hand / section)
    assert scans.digest == open_scans(DataSpec(str(by_hand), (16, 16, 16))).digest  # no ._ files


def test_decathlon_task_is_downloaded_once_and_leaves_no_archive(cache, spleen, archive, capsys):
    content = packed_task(spleen)
    archive.answers[f"{SPLEEN}.tar"] = content
    decathlon = decathlon_at(archive.url, task=SPLEEN, content=content)
    assert len(task_images(SPLEEN, dataset_class=decathlon)) == 5
    assert f"Downloading {SPLEEN} from {archive.url}" in capsys.readouterr().err
    archive.asked.clear()
    assert len(task_images(SPLEEN, dataset_class=decathlon)) == 5
    assert archive.asked == []
    assert not list(cache.rglob("*.tar"))


def test_download_of_a_task_goes_on_after_half_an_archive_and_half_a_folder(cache, spleen, archive):
    content = packed_task(spleen)
    archive.answers[f"{SPLEEN}.tar"] = content
    unfinished = cache / "data" / "msd" / "unfinished"
    (unfinished / SPLEEN).mkdir(parents=True)
    (unfinished / SPLEEN / "dataset.json").write_text("{")
    (unfinished / f"{SPLEEN}.tar").write_bytes(content[:1000])
    decathlon = decathlon_at(archive.url, task=SPLEEN, content=content)
    assert len(task_images(SPLEEN, dataset_class=decathlon)) == 5


def test_archive_that_is_not_the_task_is_told_and_not_kept_for_whole(cache, spleen, archive):
    content = packed_task(spleen)
    archive.answers[f"{SPLEEN}.tar"] = content[:-5000]
    decathlon = decathlon_at(archive.url, task=SPLEEN, content=content)
    with pytest.raises(DataError, match=r"cannot be downloaded from http.*md5 check of downloaded"):
        task_images(SPLEEN, dataset_class=decathlon)
    archive.answers[f"{SPLEEN}.tar"] = content
    assert len(task_images(SPLEEN, dataset_class=decathlon)) == 5


def test_no_network_is_one_error_that_says_how_to_do_without(cache):
    decathlon = decathlon_at(f"http://127.0.0.1:{closed_port()}/", task=SPLEEN, content=b"")
    with pytest.raises(
        DataError, match=r"(?s)cannot be downloaded from http.*by hand.*data=FOLDER"
    ):
        task_images(SPLEEN, dataset_class=decathlon)
    with pytest.raises(
        DataError, match=r"(?s)cannot be downloaded from http.*and give data=FOLDER"
    ):
        collection_files("LIDC-IDRI", 2, base_url=f"http://127.0.0.1:{closed_port()}/")


def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            "Task01_BrainTumour",
            "is a task of MR, not CT of .* Its tasks of CT: Task03_Liver, Task06_Lung",
        ),
        ("Spleen", "'Spleen' is no task of the Medical Segmentation Decathlon"),
    ],
)
def test_task_without_ct_is_refused_before_any_download(cache, task, message):
    with pytest.raises(DataError, match=message):
        source_files(f"msd:{task}")
    assert not cache.exists()


def test_task_whose_own_description_says_mr_is_refused(cache, spleen):
    images = sorted((spleen / "imagesTs").glob("[!.]*"))
    folder = cache / "data" / "msd" / SPLEEN
    write_task(folder, {"training": images[:1], "test": images[1:]}, modality="MRI")
    with pytest.raises(DataError, match="is of modality MRI, not CT"):
        source_files(f"msd:{SPLEEN}")


def test_task_that_lost_files_is_told(cache, spleen):
    folder = cache / "data" / "msd" / SPLEEN
    shutil.copytree(spleen, folder)
    (folder / "imagesTs" / "spleen_7.nii.gz").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of 5 images, spleen_7.nii.gz first. Delete it"):
        source_files(f"msd:{SPLEEN}")
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"its dataset.json cannot be read"):
        source_files(f"msd:{SPLEEN}")


def test_collection_gives_its_first_series_patient_by_patient(cache, lidc, archive, capsys):
    files = collection_files("LIDC-IDRI", 2, base_url=archive.url)
    assert {path.parent.name for path in files} == set(lidc[:2])
    assert "Licence: Creative Commons Attribution 3.0" in capsys.readouterr().err
    # asked for one list and two series, and for nothing again but what is new
    assert archive.asked == ["getSeries LIDC-IDRI CT", "getImage 1.7", "getImage 1.9"]
    collection_files("LIDC-IDRI", 3, base_url=archive.url)
    assert archive.asked[3:] == ["getImage 1.5"]


def test_collection_that_is_here_needs_no_network_and_is_read_like_a_folder(cache, lidc, archive):
    collection_files("LIDC-IDRI", 3, base_url=archive.url)
    scans = open_scans(DataSpec("tcia:LIDC-IDRI:2", (16, 16)))
    assert [scan.patient for scan in scans.scans] == ["LIDC-0001", "LIDC-0002"]
    assert open_scans(DataSpec("tcia:LIDC-IDRI", (16, 16))).num_scans == min(3, DEFAULT_NUM_SERIES)


def test_jobs_that_ask_at_once_download_each_series_once(cache, lidc, archive):
    with ThreadPoolExecutor(4) as jobs:
        found = list(
            jobs.map(lambda _: collection_files("LIDC-IDRI", 3, base_url=archive.url), "1234")
        )
    assert sorted(archive.asked) == sorted(set(archive.asked))
    assert found[1:] == found[:-1]


@pytest.mark.parametrize("damage", ["truncated", "one slice less", "no zip"])
def test_series_that_comes_in_pieces_is_told_and_fetched_again(cache, lidc, archive, damage):
    whole = archive.answers["getImage 1.9"]
    if damage == "one slice less":
        folder = write_series(cache.parent / "short", num_slices=7)
        archive.add_series("1.9", patient="", folder=folder)
    else:
        archive.answers["getImage 1.9"] = {"truncated": whole[:-300], "no zip": b"busy"}[damage]
    with pytest.raises(DataError, match=r"Series 1\.9 cannot be downloaded.*What came before"):
        collection_files("LIDC-IDRI", 2, base_url=archive.url)
    folder = cache / "data" / "tcia" / "LIDC-IDRI"
    assert sorted(names(folder.glob("*1.*"))) == ["1.7"]  # and nothing unfinished
    archive.answers["getImage 1.9"] = whole
    assert len(collection_files("LIDC-IDRI", 2, base_url=archive.url)) == 18  # LICENSE twice


def test_unknown_collection_and_odd_names_are_told(cache, archive):
    with pytest.raises(DataError, match="no CT in a public collection 'LIDC'"):
        collection_files("LIDC", 2, base_url=archive.url)
    with pytest.raises(DataError, match="names no collection"):
        source_files("tcia:../../elsewhere")
    with pytest.raises(DataError, match=r"'all' is no number of series; give tcia:LIDC-IDRI:20"):
        source_files("tcia:LIDC-IDRI:all")


def test_list_of_series_that_leads_out_of_the_folder_is_refused(cache, archive):
    archive.add_collection("Evil", [{"SeriesInstanceUID": "../1.2", "ImageCount": 1}])
    with pytest.raises(DataError, match=r"SeriesInstanceUID is '\.\./1\.2'"):
        collection_files("Evil", 2, base_url=archive.url)


def test_cache_that_cannot_be_made_is_told(cache, lidc, archive):
    cache.write_text("a file in the way")
    with pytest.raises(CacheError, match="Name another folder by LDM_PROJECT_CACHE"):
        collection_files("LIDC-IDRI", 2, base_url=archive.url)


@pytest.mark.slow
def test_run_on_a_named_data_set_says_its_name_and_no_folder(store, tmp_path, spleen):
    shutil.copytree(spleen, tmp_path / "cache" / "data" / "msd" / SPLEEN)
    run_command(
        VqganRunConfig(data=f"msd:{SPLEEN}", size="16", dims=3, vqgan_iterations=4, batch_size="2")
    )
    (run,) = MlflowClient().search_runs(["0"])
    assert run.data.params["data"] == f"msd:{SPLEEN}"
    assert run.data.tags["ldm.num_scans"] == "5"
    assert not [value for value in run.data.tags.values() if str(tmp_path) in value]
