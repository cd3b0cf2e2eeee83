"""``quality`` into the tracking store: a run for each setting, anchors, the answer, and compare."""

import json

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from ldm_project.config import QualityConfig, TrainRunConfig
from ldm_project.diffusion.iso_quality import Setting
from ldm_project.diffusion.quality import Estimate, Quality
from ldm_project.errors import CheckpointError, DataError, InvalidInputError
from ldm_project.resolution import quality_settings, settings_of
from ldm_project.runs.quality import QualityReport, quality_metrics, report_lines
from mlflow_carbon.cli import cli
from tests.fakes.commands import run_command, runs_of
from tests.fakes.ct_scans import volume_hu, write_nifti
from tests.fakes.recorded import recorded

SETTINGS = {"ddpm 1000", "unipc 200", "dpmpp_sde 200"}


def quality(kid):
    return Quality(
        frechet=Estimate(1.5, 1.0, 2.0),
        kid=Estimate(kid, kid - 0.1, kid + 0.1),
        plane_frechet=Estimate(2.0, 1.5, 2.5),
        hu_wasserstein=10.0,
        pair_ms_ssim=0.3,
        memorised_fraction=0.0,
        repeated_fraction=0.0,
        accepted_fraction=1.0,
    )


def test_every_sampler_meets_every_step_count_after_1000_steps():
    settings = quality_settings(QualityConfig(samplers="unipc, ddim", step_counts="20,10")).grid
    assert [(setting.sampler, setting.steps) for setting in settings] == [
        ("ddpm", 1000),
        ("unipc", 20),
        ("unipc", 10),
        ("ddim", 20),
        ("ddim", 10),
    ]
    assert {setting.num_samples for setting in settings} == {64}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"samplers": "unipc,euler"}, "sampler is 'euler'; use one of auto, ddpm"),
        ({"step_counts": "20,many"}, "step_counts is 'many'; give a whole number above zero"),
        ({"step_counts": "2000"}, "steps is 2000; give 1 to 1000"),
    ],
)
def test_bad_grid_is_told_before_any_work(parameters, message):
    with pytest.raises(InvalidInputError, match=message):
        settings_of(QualityConfig(**parameters))


def test_features_of_no_network_are_told_before_any_work(store, tmp_path):
    (tmp_path / "weights.pth").write_text("none")
    with pytest.raises(CheckpointError, match="cannot be read"):
        run_command(QualityConfig(features=str(tmp_path / "weights.pth")))
    assert MlflowClient().search_registered_models() == []  # nothing was trained


def test_volume_of_one_patient_is_refused_before_any_work(store, tmp_path):
    write_nifti(tmp_path / "chest.nii.gz", volume_hu((20, 20, 20)))
    config = QualityConfig(dims=3, size="16", data=str(tmp_path))
    with (
        pytest.warns(UserWarning, match="none is held out"),
        pytest.raises(DataError, match=r"1 volume\(s\) to train on, 1 to judge by"),
    ):
        run_command(config)
    assert MlflowClient().search_registered_models() == []  # nothing was trained


def test_report_fits_80_columns_and_ends_with_the_answer():
    reference = Setting("ddpm", 1000, 0.1, quality(0.5))
    cheap, poor = Setting("unipc", 20, 0.002, quality(0.55)), Setting("ddim", 10, 0.001, quality(9))
    report = QualityReport(
        settings=(reference, cheap, poor),
        best=cheap,
        front=(poor, cheap, reference),
        real=quality(0.0),
        reconstruction=quality(0.2),
    )
    lines = report_lines(report)
    assert max(map(len, lines)) <= 80
    assert lines[-1] == "iso-quality: unipc 20, 2 mg CO2e: 50 times less than ddpm 1000"


def test_report_of_what_cannot_be_judged_names_no_setting_and_no_ratio():
    reference, cheap = (
        Setting("ddpm", 1000, 0.1, quality(0.5)),
        Setting("unipc", 1, 0.002, quality(0.5)),
    )
    reasons = (
        "the autoencoder erases what would differ: reconstructions have KID 1.2.",
        "8 samples of each setting are too few to tell settings apart; 16 at least are needed.",
    )
    report = QualityReport(
        (reference, cheap), None, (cheap,), quality(0.0), quality(0.2), doubts=reasons
    )
    lines = report_lines(report)
    assert max(map(len, lines)) <= 80
    assert "iso-quality: cannot be judged, so no setting is named:" in lines
    assert "times less" not in " ".join(lines)
    assert all(reason in " ".join(lines) for reason in reasons)


def test_columns_of_a_model_that_learnt_nothing_stay_apart():
    far = Setting("ddpm", 1000, 0.1, quality(2345.6))
    report = QualityReport((far,), far, (far,), quality(-0.01234), quality(0.2))
    row, anchor = (line.split() for line in report_lines(report)[1:3])
    assert row[2:4] == ["100", "2346"]
    assert anchor[2] == "-0.012"


def test_setting_that_nothing_could_measure_has_no_price():
    unmeasured = Setting("ddpm", 1000, None, quality(0.5))
    report = QualityReport((unmeasured,), None, (), quality(0.0), quality(0.2))
    assert report_lines(report)[1].split()[2] == "-"
    assert "no setting that is as good" in report_lines(report)[-1]


def test_anchors_have_keys_of_their_own():
    assert quality_metrics(quality(0.5))["ldm/kid"] == 0.5
    assert quality_metrics(quality(0.5), of="real")["ldm/real/kid"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "size"), [(2, "32"), (3, "16")])
def test_settings_are_runs_that_compare_groups_by_sampler_and_steps(store, dims, size):
    config = QualityConfig(
        dims=dims,
        size=size,
        data="phantom:30",
        num_samples="6",
        batch_size="6",
        samplers="unipc,dpmpp_sde",
        step_counts="200",
        iterations=8,
        vqgan_iterations=8,
    )
    run_command(config)
    client = MlflowClient()
    runs = client.search_runs(["0"])
    (own,) = runs_of("quality")
    settings = [run for run in runs if "ldm.quality_run_id" in run.data.tags]
    assert {run.data.tags["ldm.setting"] for run in settings} == SETTINGS
    for run in settings:
        assert run.data.tags["ldm.quality_run_id"] == own.info.run_id
        assert recorded(run)["energy_kwh_per_sample"] > 0
        assert run.data.metrics["ldm/kid_low"] <= run.data.metrics["ldm/kid_high"]
    assert {"ldm/real/kid", "ldm/reconstruction/kid", "ldm/reference/kid"} <= set(own.data.metrics)
    assert "energy_kwh" not in recorded(own.data)  # measured in the settings' runs
    # Six images of a model that learnt nothing are no ground for an answer.
    assert "6 samples of each setting are too few" in own.data.tags["ldm.iso_quality_doubts"]
    assert "ldm.iso_quality" not in own.data.tags
    assert not any(key.startswith("ldm/iso_quality") for key in own.data.metrics)
    report = json.loads(mlflow.artifacts.load_text(f"runs:/{own.info.run_id}/quality.json"))
    assert [entry["steps"] for entry in report["settings"]] == [1000, 200, 200]
    # the stochastic solver's images had ddpm's noise, and are nearly its images
    ddpm, _, solver = (entry["quality"]["frechet"]["value"] for entry in report["settings"])
    assert solver == pytest.approx(ddpm, rel=0.05)
    shown = CliRunner().invoke(
        cli, ["compare", "--group-by", "sampler,steps,ldm.kid", "--format", "csv"]
    )
    assert shown.exit_code == 0, shown.output
    assert all(run.data.tags["ldm.kid"] in shown.stdout for run in settings)
    assert {name.replace(" ", ",") for name in SETTINGS} <= {
        ",".join(line.split(",")[:2]) for line in shown.stdout.split()
    }


@pytest.mark.slow
def test_models_are_judged_by_the_phantoms_they_were_trained_on(store):
    small = {"dims": 3, "size": "16", "iterations": 4, "vqgan_iterations": 4}
    run_command(TrainRunConfig(**small, data="phantom:12"))
    run_command(QualityConfig(**small, num_samples="2", samplers="dpmpp_sde", step_counts="5"))
    (own,) = runs_of("quality")
    assert [run.data.params["data"] for run in runs_of("train")] == ["phantom:12"]
    # a fifth of 12 is held out; of the usual 80 phantoms it would be 16
    assert "2 held-out images are too few" in own.data.tags["ldm.iso_quality_doubts"]
