"""Model cards: metadata that Hugging Face reads, a paragraph to quote, and sources to cite."""

import re

import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard, ModelCardData, metadata_load
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput

from mlflow_carbon.cli import cli
from mlflow_carbon.registry.run_models import record_run_models
from tests.fakes.metered_runs import experiment_id, write_run

TAGS = {
    "carbon.hardware": "1 × NVIDIA A100",
    "carbon.tracker": "carbontracker 2.4.7",
    "carbon.intensity_source": "EEA",
    "carbon.intensity_basis": "production; direct",
}


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def train(client, name, energies_kwh=(3.0, 5.0), **figures):
    """Registers a model of windows of 100 iterations, at PUE 1.5 and 250 g/kWh; returns its id."""
    windows = [(energy_kwh, 100.0) for energy_kwh in energies_kwh]
    figures = {"tags": TAGS, "unit": "iteration", **figures}
    run_id = write_run(client, "train", windows=windows, **figures)
    model = client.create_logged_model(experiment_id(client, "train"), "m", source_run_id=run_id)
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model.model_id}", run_id)
    record_run_models(client, run_id)
    return model.model_id


def card(*args):
    result = CliRunner().invoke(cli, ["card", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_card_is_read_by_hugging_face(client, tmp_path):
    train(client, "ldm", region="SE")
    path = tmp_path / "README.md"
    path.write_text(card("models:/ldm/1"))
    data = ModelCard.load(path).data
    assert isinstance(data, ModelCardData)
    # 8 kWh x 1.5 x 250 g/kWh = 3 kg, in grams
    assert data.to_dict() == {
        "co2_eq_emissions": {
            "emissions": 3000.0,
            "source": "carbontracker 2.4.7 by mlflow-carbon; SE 250 g/kWh "
            "(2022, paper_table1) by EEA, PUE 1.5",
            "training_type": "pre-training",
            "geographical_location": "Sweden",
            "hardware_used": "1 × NVIDIA A100",
        }
    }
    # what Hugging Face writes back is the same
    assert metadata_load(path) == data.to_dict()
    assert ModelCardData(**data.to_dict()).to_yaml() == data.to_yaml()


@pytest.mark.slow
def test_card_takes_a_default_region_for_no_location(client):
    train(client, "ldm", tags=TAGS | {"carbon.default.region": "EU27"})
    data = ModelCard(card("models:/ldm/1")).data
    assert "geographical_location" not in data.co2_eq_emissions
    assert "Assumed, not chosen: region." in card("models:/ldm/1")


@pytest.mark.slow
def test_card_tells_the_lineage_when_asked_to(client):
    vqgan = train(client, "vqgan", (4.0,))
    train(client, "ldm")
    run_id = client.get_model_version("ldm", "1").run_id
    client.log_inputs(run_id, models=[LoggedModelInput(vqgan)])
    text = card("models:/ldm/1", "--lineage", "--training-type", "fine-tuning")
    block = ModelCard(text).data.co2_eq_emissions
    assert (block["emissions"], block["training_type"]) == (4500.0, "fine-tuning")
    assert "With all 2 trainings that it rests on: 4.500 kg CO2e." in text


def test_paragraph_names_method_source_and_spread(client):
    train(client, "ldm")
    text = card("models:/ldm/1").split("## Emissions\n\n")[1]
    # windows of 100 iterations: 0.03 and 0.05 kWh each, mean 0.04, std 0.0141
    assert text == (
        "Training models:/ldm/1 took 8.000 kWh of IT energy in 2 min. By energy × PUE × carbon "
        "intensity, with PUE 1.5 and 250 g CO2e/kWh (European Union (27) 2022; set paper_table1: "
        "EEA; production; direct), that is 3.000 kg CO2e. One iteration took 40 ± 14 Wh (mean ± "
        "sample standard deviation of the windows inside this run, n = 2 windows). By "
        "carbontracker 2.4.7: cpu energy was read from energy counters; counters or samples "
        "observed 100% of the time.\n"
    )


def test_paragraph_says_that_one_window_has_no_spread(client):
    train(client, "ldm", (8.0,))
    assert "One iteration took 80.00 Wh (n = 1 window: no spread is known)." in card(
        "models:/ldm/1"
    )


def test_paragraph_tells_the_power_of_a_run_that_has_no_windows(client):
    train(client, "ldm", (8.0,), unit="minute")
    # 0.08 kWh a minute: 0.08 x 60 x 1000 W
    assert "Its mean power was 4800 W, of one window: no spread is known." in card("models:/ldm/1")


def test_card_has_emissions_without_noise_of_the_arithmetic(client):
    train(client, "ldm", (0.1, 0.2))  # 0.30000000000000004 x 1.5 x 250
    assert "  emissions: 112.5\n" in card("models:/ldm/1")


def test_bibtex_cites_meter_intensity_and_equation(client):
    train(client, "ldm")
    text = card("models:/ldm/1", "--bibtex")
    entries = re.findall(r"^@misc\{(\w+),", text, re.MULTILINE)
    assert entries == [
        "seyfarth2024latentpollution",
        "anthony2020carbontracker",
        "intensitypaper_table1EU272022",
    ]
    assert text.count("{") == text.count("}")
    assert "arXiv:2007.03051" in text  # as the installed package's own description says
    assert r"\url{https://www.eea.europa.eu/en/analysis/indicators/" in text


@pytest.mark.slow
def test_bibtex_of_a_given_intensity_names_no_page(client):
    tags = TAGS | {"carbon.intensity_set": "given", "carbon.period": "given"}
    train(client, "ldm", region="my lab", tags=tags | {"carbon.tracker": "by hand"})
    text = card("models:/ldm/1", "--bibtex")
    assert "anthony" not in text
    assert text.count("howpublished") == 1  # the paper's own
    assert "note={250 g/kWh; my lab given; production; direct}" in text


def test_card_of_an_unmeasured_model_says_why_there_is_none(client):
    run_id = write_run(client, "train", windows=[], tags={"carbon.error": "No energy source."})
    client.create_registered_model("unknown")
    client.create_model_version("unknown", "s3://bucket/model", run_id)
    result = CliRunner().invoke(cli, ["card", "models:/unknown/1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "could not be measured: No energy source." in result.stderr
