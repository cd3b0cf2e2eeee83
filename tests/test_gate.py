"""The gate: a model passes only if its emissions are known and under the limit."""

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput

from mlflow_carbon.cli import cli
from mlflow_carbon.registry.run_models import record_run_models
from tests.fakes.metered_runs import experiment_id, write_run


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def train(client, name, energy_kwh, **figures):
    """Registers a model that cost this energy at PUE 1.5 and 250 g/kWh; returns its id."""
    windows = [] if energy_kwh is None else [(energy_kwh, 100.0)]
    run_id = write_run(client, "train", windows=windows, unit="iteration", **figures)
    model = client.create_logged_model(experiment_id(client, "train"), "m", source_run_id=run_id)
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model.model_id}", run_id)
    return model.model_id


def gate(*args):
    return CliRunner().invoke(cli, ["gate", *args])


def test_gate_says_what_passed(client):
    train(client, "ldm", 8.0)  # 8 kWh x 1.5 x 250 g/kWh = 3 kg
    result = gate("models:/ldm/1", "--max-co2e-kg", "3")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (
        "models:/ldm/1 passes: 3 kg CO2e of its own training is at or under the limit of 3 kg "
        "(as recorded: EU27 2022, 250 g/kWh, PUE 1.5).\n"
    )


def test_gate_refuses_what_is_above_the_limit(client):
    train(client, "ldm", 8.0)
    result = gate("models:/ldm/1", "--max-co2e-kg", "2.9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: models:/ldm/1 is refused: 3 kg CO2e of its own training is above the limit of "
        "2.9 kg (as recorded: EU27 2022, 250 g/kWh, PUE 1.5).\n"
    )


def test_gate_judges_the_version_of_an_alias(client):
    train(client, "ldm", 8.0)
    client.set_registered_model_alias("ldm", "champion", "1")
    assert gate("models:/ldm@champion", "--max-co2e-kg", "5").exit_code == 0
    result = gate("models:/ldm@champion", "--max-co2e-kg", "1")
    assert result.exit_code == 1
    assert "models:/ldm@champion (version 1) is refused: 3 kg" in result.stderr


def test_gate_counts_the_lineage_when_asked_to(client):
    vqgan = train(client, "vqgan", 8.0)
    train(client, "ldm", 8.0)
    run_id = client.get_model_version("ldm", "1").run_id
    client.log_inputs(run_id, models=[LoggedModelInput(vqgan)])
    assert gate("models:/ldm/1", "--max-co2e-kg", "5").exit_code == 0
    result = gate("models:/ldm/1", "--max-co2e-kg", "5", "--lineage")
    assert result.exit_code == 1
    assert "6 kg CO2e of the 2 trainings that it rests on is above" in result.stderr


def test_gate_prices_in_another_region_with_another_pue(client):
    train(client, "ldm", 8.0)
    # 8 kWh x 7 g/kWh x PUE 1.0: the recorded set is looked in first
    result = gate("models:/ldm/1", "--max-co2e-kg", "0.1", "--region", "Sweden", "--pue", "1")
    assert result.exit_code == 0, result.output
    assert "passes: 0.056 kg" in result.stdout
    assert "(SE 2022, 7 g/kWh, PUE 1)" in result.stdout


def test_gate_refuses_a_model_that_was_not_measured(client):
    train(client, "unknown", None, tags={"carbon.error": "No energy source."})
    result = gate("models:/unknown/1", "--max-co2e-kg", "1e9")
    assert result.exit_code == 1
    assert "could not be measured: No energy source." in result.stderr


def test_gate_refuses_a_model_without_a_run(client):
    client.create_registered_model("bought")
    client.create_model_version("bought", "s3://bucket/model")
    result = gate("models:/bought/1", "--max-co2e-kg", "1e9")
    assert result.exit_code == 1
    assert "refused: it names no run that trained it" in result.stderr


def test_gate_refuses_an_unknown_lineage(client):
    train(client, "ldm", 8.0, tags={"carbon.parent_model": "models:/gone/1"})
    result = gate("models:/ldm/1", "--max-co2e-kg", "1e9", "--lineage")
    assert result.exit_code == 1
    assert "its lineage is not known: models:/gone/1 cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("models:/gone/1", "--max-co2e-kg", "5"), "No model version 'models:/gone/1'"),
        (("gone", "--max-co2e-kg", "5"), "Give models:/name/3 or models:/name@alias"),
        (("models:/ldm/1", "--max-co2e-kg", "nan"), "max_co2e_kg is nan"),
        (("models:/ldm/1", "--max-co2e-kg", "-1"), "max_co2e_kg is -1"),
        (("models:/ldm/1", "--max-co2e-kg", "5", "--region", "Atlantis"), "Atlantis"),
    ],
)
def test_gate_exits_with_1_and_one_message_on_what_the_user_can_fix(client, args, message):
    train(client, "ldm", 8.0)
    result = gate(*args)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr


def tag_models(*args):
    return CliRunner().invoke(cli, ["tag-models", *args])


def test_tag_models_tags_what_was_registered_without_the_plugin(client):
    train(client, "ldm", 8.0)
    train(client, "vqgan", 0.2)
    assert tag_models("ldm").stdout == "ldm: 1 version, 2 changed.\n"
    assert tag_models("--all").stdout == (
        "ldm: 1 version, nothing changed.\nvqgan: 1 version, 2 changed.\n"
    )
    assert client.get_registered_model("vqgan").tags["carbon.band"] == "A"


def test_tag_models_says_what_could_not_be_written(client):
    train(client, "ldm", 8.0)
    result = tag_models("ldm", "gone")
    assert result.exit_code == 1
    assert result.stdout.startswith("ldm: 1 version, 2 changed.\n")
    assert "Not written on model 'gone'" in result.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("args", [(), ("ldm", "--all")])
def test_tag_models_takes_names_or_all(args):
    result = tag_models(*args)
    assert result.exit_code == 2
    assert "Give the names of registered models, or --all." in result.stderr


def test_search_finds_logged_models_under_a_limit(client):
    small, big = train(client, "small", 8.0), train(client, "big", 20.0)  # 3 and 7.5 kg
    for name in ("small", "big"):
        record_run_models(client, client.get_model_version(name, "1").run_id)
    experiment_ids = [experiment_id(client, "train")]
    found = client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` < 5")
    assert [model.model_id for model in found] == [small]
    found = client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` >= 5")
    assert [model.model_id for model in found] == [big]
