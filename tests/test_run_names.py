"""Names of the project's runs, what ``auto`` became, and the names that users gave."""

from dataclasses import asdict

import pytest

from ldm_project.config import EstimateConfig, SynthConfig, TrainRunConfig, VqganRunConfig
from ldm_project.resolution import settings_of
from ldm_project.runs.command_runs import resolved_params
from ldm_project.runs.dataset_inputs import source_name
from ldm_project.runs.run_names import is_chosen, run_name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (SynthConfig(steps=200, seed=1), "synth 2D 64² dpmpp_sde-200 seed 1"),
        (
            SynthConfig(dims=3, size="256x256x192", model_size="medium", sampler="ddim"),
            "synth 3D 256×256×192 medium ddim-50 seed 0",
        ),
        (EstimateConfig(dims=3), "estimate 3D 32³ unipc-50 seed 0"),
        (TrainRunConfig(objective="rflow"), "train 2D 64² rflow 500 iterations seed 0"),
        (VqganRunConfig(vqgan_iterations=9), "vqgan 2D 64² 9 iterations seed 0"),
    ],
)
def test_a_name_tells_what_was_run(config, name):
    assert run_name(settings_of(config)) == name


def test_what_auto_became_is_a_parameter_and_what_was_given_is_not_repeated():
    config = SynthConfig(num_samples="8", dims=3)
    params = resolved_params(settings_of(config), asdict(config))
    assert params == {
        "resolved.size": "32x32x32",
        "resolved.batch_size": params["resolved.batch_size"],
        "resolved.num_processes": "1",
        "resolved.sampler": "unipc",
    }
    assert int(params["resolved.batch_size"]) >= 1


def test_names_that_mlflow_made_up_are_replaced_and_names_that_users_chose_stay():
    assert not is_chosen("agreeable-ray-123")
    assert not is_chosen(None)
    assert is_chosen("night run 3")


def test_the_name_of_a_folder_stays_out_of_the_store():
    assert source_name("/home/clinic/Miller, John") == "files"
    assert source_name("msd:Task09_Spleen") == "msd:Task09_Spleen"
    assert source_name("phantom") == "phantom"
