"""The commands of the project from data to registered model to images, on a real store."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import mlflow
import nibabel as nib
import numpy as np
import pandas as pd
import pydicom.data
import pytest
from mlflow import MlflowClient

from ldm_project.config import SynthConfig, TrainRunConfig, VqganRunConfig
from ldm_project.diffusion.checkpoints import load_ldm, save_ldm
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.models import ModelSpec, build_unet
from ldm_project.errors import CheckpointError, DataError
from mlflow_carbon.errors import NoIntensityError
from tests.fakes.commands import command_of, run_command, runs_of
from tests.fakes.recorded import recorded, windows_of

# Enough to pass every step of the training, not to make a good model.
SHORT = {"iterations": 12, "vqgan_iterations": 12}
SMALL_SIZE = {2: "32", 3: "16"}
STEPS = 30  # so many that one image takes longer than the CPU's counter takes to move

pytestmark = pytest.mark.slow


def small(dims: int, **parameters) -> SynthConfig:
    defaults = {"num_samples": "5", "batch_size": "2", "steps": STEPS}
    return SynthConfig(dims=dims, size=SMALL_SIZE[dims], **SHORT, **{**defaults, **parameters})


def slices_were_sampled(_) -> None:
    """Fills a store by one command, which trains what is missing."""
    run_command(small(2))


def volumes_were_sampled(_) -> None:
    """Does the same in 3D."""
    run_command(small(3))


SAMPLED = {2: slices_were_sampled, 3: volumes_were_sampled}


def runs_by_command() -> dict[str, mlflow.entities.Run]:
    return {command_of(run): run for run in MlflowClient().search_runs(["0"])}


def artifacts_of(run: mlflow.entities.Run) -> set[str]:
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id))
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def ct_folder(tmp_path):
    """Real CT slices that pydicom ships, as two DICOM series, and a volume as NIfTI."""
    folder = tmp_path / "ct"
    series = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent / "dicomdirtests"
    shutil.copytree(series / "98892001" / "CT5N", folder / "series")
    values = np.random.default_rng(0).normal(0, 20, (40, 40, 20))
    values[:8] = -1000
    nib.save(nib.Nifti1Image(values.astype(np.int16), np.eye(4)), folder / "volume.nii.gz")
    return folder


@pytest.mark.parametrize("dims", [2, 3])
def test_synth_trains_what_is_missing_in_runs_of_their_own_that_have_ended_before(
    filled_store, dims
):
    filled_store(SAMPLED[dims])
    runs = runs_by_command()
    assert set(runs) == {"vqgan", "train", "synth"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert all("mlflow.parentRunId" not in run.data.tags for run in runs.values())
    triggered_by = "carbon.triggered_by_run_id"
    assert runs["train"].data.tags[triggered_by] == runs["synth"].info.run_id
    assert runs["vqgan"].data.tags[triggered_by] == runs["train"].info.run_id
    first_window = windows_of(runs["synth"].info.run_id)[1]
    assert first_window.start_unix_s * 1000 >= runs["train"].info.end_time - 1
    assert runs["synth"].data.tags["carbon.unit"] == "sample"
    assert runs["train"].data.tags["carbon.unit"] == "iteration"


@pytest.mark.parametrize("dims", [2, 3])
def test_synth_measures_each_batch_and_saves_each_image(filled_store, dims):
    filled_store(SAMPLED[dims])
    run = runs_by_command()["synth"]
    # 5 samples in batches of 2: windows of 2, 2 and 1
    windows = windows_of(run.info.run_id)
    assert [window.num_units for window in windows.values()] == [2, 2, 1]
    assert recorded(run)["energy_kwh_per_sample"] > 0
    assert run.data.tags["carbon.num_units"] == "5"
    saved = artifacts_of(run)
    assert {f"samples/{index:05d}.nii.gz" for index in range(5)} <= saved
    assert {f"samples/{index:05d}.png" for index in range(5)} <= saved or dims == 3
    assert "preview.png" in saved


def test_synth_logs_its_arithmetic_and_what_a_tflop_costs(filled_store):
    filled_store(SAMPLED[2])
    synth = runs_by_command()["synth"]
    metrics = synth.data.metrics
    expected = cost_of(ModelSpec(2, (32, 32), "tiny")).sample_tflop(small(2).steps)
    assert metrics["ldm/tflop_per_sample"] == pytest.approx(expected)
    joules = recorded(synth)["energy_kwh_per_sample"] * 3.6e6
    assert metrics["ldm/joules_per_tflop"] == pytest.approx(joules / expected)
    for name in ("vqgan", "train"):
        trained = runs_by_command()[name]
        joules = recorded(trained)["energy_kwh_per_iteration"] * 3.6e6
        per_tflop = joules / trained.data.metrics["ldm/tflop_per_iteration"]
        assert trained.data.metrics["ldm/joules_per_tflop"] == pytest.approx(per_tflop)


def test_samples_are_in_hounsfield_units(filled_store):
    filled_store(SAMPLED[3])
    run = runs_by_command()["synth"]
    path = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="samples/00000.nii.gz"
    )
    voxels = np.asarray(nib.load(path).dataobj)
    assert voxels.shape == (16, 16, 16)
    assert voxels.min() >= -1000
    assert voxels.max() <= 1000
    assert np.ptp(voxels) > 50


def test_second_synth_uses_the_registered_model_and_trains_nothing(filled_store):
    filled_store(SAMPLED[2])
    run_command(small(2))
    names = [command_of(run) for run in MlflowClient().search_runs(["0"])]
    assert sorted(names) == ["synth", "synth", "train", "vqgan"]


def test_images_depend_on_the_seed_and_not_on_the_batch_size_or_backend(filled_store):
    filled_store(SAMPLED[2])
    run_command(small(2, batch_size="3"))
    run_command(small(2, backend="generative"))
    run_command(small(2, seed=1))
    runs = runs_of("synth")
    images = [
        np.asarray(
            nib.load(
                mlflow.artifacts.download_artifacts(
                    run_id=run.info.run_id, artifact_path="samples/00004.nii.gz"
                )
            ).dataobj
        )
        for run in sorted(runs, key=lambda run: run.info.start_time)
    ]
    first, other_batch, other_backend, other_seed = images
    # the quantiser may send a latent that lies between two codes to either
    assert np.median(np.abs(first - other_batch)) <= 1
    assert np.median(np.abs(first - other_backend)) <= 1
    assert np.median(np.abs(first - other_seed)) > 1


@pytest.mark.parametrize("dims", [2, 3])
def test_registered_model_predicts_images_and_holds_no_pickle(filled_store, dims):
    filled_store(SAMPLED[dims])
    size = (int(SMALL_SIZE[dims]),) * dims
    name = f"ldm-ct-{dims}d-{size[0]}-tiny"
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    images = model.predict(pd.DataFrame({"index": [0, 1]}), params={"steps": 3})
    assert images.shape == (2, 1, *size)
    assert images.min() >= -1000
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{name}/1"))
    files = {path.name: path for path in folder.rglob("*") if path.is_file()}
    assert {"unet.safetensors", "vqgan.safetensors", "config.json"} <= set(files)
    for path in files.values():
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".bin"}
        # a pickle's first opcode names its protocol; a safetensors file's first bytes are a length
        is_pickle = path.read_bytes()[:2] in {bytes([0x80, protocol]) for protocol in range(2, 6)}
        assert not is_pickle, f"{path.name} is a pickle"


def test_model_can_be_a_folder_or_an_alias(filled_store):
    filled_store(SAMPLED[2])
    client = MlflowClient()
    client.set_registered_model_alias("ldm-ct-2d-32-tiny", "champion", "1")
    logged = mlflow.artifacts.download_artifacts(artifact_uri="models:/ldm-ct-2d-32-tiny/1")
    run_command(small(2, model="models:/ldm-ct-2d-32-tiny@champion"))
    run_command(small(2, model=f"{logged}/artifacts/checkpoint"))
    names = [command_of(run) for run in client.search_runs(["0"])]
    assert (names.count("synth"), names.count("train")) == (3, 1)


def test_registered_model_with_another_models_files_is_refused_before_it_is_measured(store):
    run_command(small(2))
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/ldm-ct-2d-32-tiny/1"))
    checkpoint = folder / "artifacts" / "checkpoint"
    ldm = load_ldm(checkpoint, backend="core", device="cpu")
    save_ldm(checkpoint, replace(ldm, unet=build_unet(ldm.spec)))  # whole, but another model
    with pytest.raises(CheckpointError, match=r"holds the weights unet .* was registered with"):
        run_command(small(2))
    failed, *_ = MlflowClient().search_runs(["0"])
    assert failed.info.status == "FAILED"
    assert not failed.data.metrics


def test_registered_vqgan_reconstructs_images(store):
    run_command(VqganRunConfig(size="32", vqgan_iterations=12))
    model = mlflow.pyfunc.load_model("models:/vqgan-ct-2d-32-tiny/1")
    images = np.full((2, 1, 32, 32), -1000, dtype=np.float32)
    assert model.predict(images).shape == images.shape


def test_model_version_and_registered_model_carry_emissions_with_lineage(filled_store):
    filled_store(SAMPLED[2])
    client = MlflowClient()
    synth = recorded(runs_of("synth")[0])
    own = recorded(runs_of("train")[0])
    vqgan = recorded(runs_of("vqgan")[0])
    for tags in (
        client.get_model_version("ldm-ct-2d-32-tiny", "1").tags,
        client.get_registered_model("ldm-ct-2d-32-tiny").tags,
    ):
        assert float(tags["carbon.co2e_kg"]) == pytest.approx(own["co2e_g"] / 1000, rel=1e-4)
        both_kg = (own["co2e_g"] + vqgan["co2e_g"]) / 1000
        assert float(tags["carbon.lineage_co2e_kg"]) == pytest.approx(both_kg, rel=1e-4)
        per_sample_g = float(tags["carbon.inference_co2e_g_per_sample"])
        assert per_sample_g == pytest.approx(synth["co2e_g_per_sample"], rel=1e-4)
        assert tags["carbon.band"] == "A"
        assert tags["carbon.region"] == "WORLD"
    found = mlflow.search_logged_models(
        experiment_ids=["0"], filter_string="metrics.`carbon/co2e_kg` < 0.5", output_format="list"
    )
    assert {model.name for model in found} == {"ldm-ct-2d-32-tiny", "vqgan-ct-2d-32-tiny"}
    assert client.search_registered_models("tags.`carbon.band` = 'A'")
    assert not client.search_registered_models("tags.`carbon.band` = 'B'")


@pytest.mark.parametrize("dims", [2, 3])
def test_whole_way_on_a_folder_of_dicom_and_nifti(store, ct_folder, dims):
    shared = {"dims": dims, "size": SMALL_SIZE[dims], "data": str(ct_folder)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run_command(VqganRunConfig(vqgan_iterations=12, **shared))
        run_command(TrainRunConfig(**SHORT, **shared))
        run_command(small(dims, data=str(ct_folder)))
    runs = runs_by_command()
    assert len(runs_of("vqgan")) == 1
    tags = runs["train"].data.tags
    assert tags["ldm.data"] == "files"
    # in 3D five slices are less than half of 16 voxels: the series is skipped
    assert (
        (tags["ldm.num_scans"], tags["ldm.num_skipped_files"]) == ("2", "0")
        if dims == 2
        else ("1", "1")
    )
    assert dims == 2 or any("Skipped" in str(warning.message) for warning in caught)
    written = json.dumps([run.data.tags for run in runs.values()], default=str)
    assert str(ct_folder) not in written.replace(json.dumps(runs["train"].data.params), "")


def test_model_trained_on_other_data_is_not_taken_for_these(filled_store, ct_folder):
    filled_store(SAMPLED[2])
    run_command(small(2, data=str(ct_folder)))
    assert len(runs_of("train")) == 2


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"model": "models:/nothing/1"}, CheckpointError, "'models:/nothing/1' cannot be read"),
        ({"model": "nowhere"}, CheckpointError, "No ldm checkpoint folder 'nowhere'"),
        ({"model_size": "medium"}, CheckpointError, "No model 'ldm-ct-2d-32-medium' is registered"),
        ({"data": "nowhere"}, DataError, "No folder, file or glob 'nowhere'"),
        ({"region": "Atlantis"}, NoIntensityError, "region 'Atlantis'"),
        ({"region": "Poland", "month": "2022-02"}, NoIntensityError, "PL in 2022-02"),
    ],
)
def test_what_cannot_be_done_is_one_error_and_no_run_stays_running(
    store, parameters, error, message
):
    with pytest.raises(error) as caught:
        run_command(small(2, **parameters))
    assert message in str(caught.value)
    statuses = {run.info.status for run in MlflowClient().search_runs(["0"])}
    assert statuses <= {"FAILED"}


def test_model_of_another_size_is_refused(filled_store):
    filled_store(SAMPLED[2])
    with pytest.raises(CheckpointError, match="makes 32x32 images, not 64x64"):
        run_command(SynthConfig(model="models:/ldm-ct-2d-32-tiny/1", steps=2))
