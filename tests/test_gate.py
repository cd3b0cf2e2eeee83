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


# The last window of a run is the minute before 22:13:20, the one before it in the slot before.
HOURLY = """timestamp,g_per_kwh
2023-11-14T22:11:20Z,400
2023-11-14T22:12:20Z,100
"""


def train(client, name, energy_kwh, *, num_windows=1, **figures):
    """Registers a model that cost this energy at PUE 1.5 and 250 g/kWh; returns its id."""
    part = None if energy_kwh is None else (energy_kwh / num_windows, 100.0)
    windows = [] if part is None else [part] * num_windows
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
        "(as recorded: EU27 250 g/kWh (2022, paper_table1), PUE 1.5).\n"
    )


def test_gate_refuses_what_is_above_the_limit(client):
    train(client, "ldm", 8.0)
    result = gate("models:/ldm/1", "--max-co2e-kg", "2.9")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "Error: models:/ldm/1 is refused: 3 kg CO2e of its own training is above the limit of "
        "2.9 kg (as recorded: EU27 250 g/kWh (2022, paper_table1), PUE 1.5).\n"
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
    alone = gate("models:/vqgan/1", "--max-co2e-kg", "5", "--lineage")
    assert "3 kg CO2e of the one training that it rests on is at or under" in alone.stdout
    result = gate("models:/ldm/1", "--max-co2e-kg", "5", "--lineage")
    assert result.exit_code == 1
    assert "6 kg CO2e of the 2 trainings that it rests on is above" in result.stderr


def test_gate_prices_in_another_region_with_another_pue(client):
    train(client, "ldm", 8.0)
    # 8 kWh x 7 g/kWh x PUE 1.0: the recorded set is looked in first
    result = gate("models:/ldm/1", "--max-co2e-kg", "0.1", "--region", "Sweden", "--pue", "1")
    assert result.exit_code == 0, result.output
    assert "passes: 56 g CO2e" in result.stdout
    assert "(SE 7 g/kWh (2022, paper_table1), PUE 1)" in result.stdout


def test_gate_prices_each_training_by_its_own_times(client, tmp_path):
    (tmp_path / "hourly.csv").write_text(HOURLY)
    vqgan = train(client, "vqgan", 8.0, num_windows=2)  # half at 400, half at 100: 250 g/kWh
    train(client, "ldm", 8.0)
    client.log_inputs(client.get_model_version("ldm", "1").run_id, models=[LoggedModelInput(vqgan)])
    args = ("models:/ldm/1", "--max-co2e-kg", "4", "--intensity-file", "hourly.csv")
    # 8 kWh x 1.5 x 100 g/kWh = 1.2 kg, and 8 x 1.5 x 250 = 3 kg more
    result = gate(*args, "--region", "my lab")
    assert result.exit_code == 0, result.output
    assert "passes: 1.2 kg CO2e of its own training" in result.stdout
    assert "(my lab 100 g/kWh (2023-11-14T22:12" in result.stdout
    assert "refused: 4.2 kg CO2e of the 2 trainings" in gate(*args, "--lineage").stderr


def test_gate_does_not_pass_a_training_that_the_file_does_not_cover(client, tmp_path):
    (tmp_path / "hourly.csv").write_text(HOURLY.replace("2023", "2022"))
    train(client, "ldm", 8.0)
    result = gate("models:/ldm/1", "--max-co2e-kg", "1e9", "--intensity-file", "hourly.csv")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No intensity for run " in result.stderr


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
        (("ldm", "--max-co2e-kg", "5"), "'ldm' names no model version; give models:/name/3 or"),
        (("models:/ldm", "--max-co2e-kg", "5"), "'models:/ldm' names no model version"),
        (("models:/ldm/1/2", "--max-co2e-kg", "5"), "'models:/ldm/1/2' names no model version"),
        (("models:/ldm@", "--max-co2e-kg", "5"), "'models:/ldm@' names no model version"),
        (("models:/ldm/one", "--max-co2e-kg", "5"), "No model version 'models:/ldm/one'"),
        (("models:/ldm@prod", "--max-co2e-kg", "5"), "No model version 'models:/ldm@prod'"),
        (("models:/ldm/1", "--max-co2e-kg", "nan"), "max_co2e_kg is nan"),
        (("models:/ldm/1", "--max-co2e-kg", "-1"), "max_co2e_kg is -1"),
        (("models:/ldm/1", "--max-co2e-kg", "5", "--region", "Atlantis"), "Atlantis"),
        (("models:/ldm/1", "--max-co2e-kg", "5", "--intensity-file", "none.csv"), "'none.csv'"),
        (
            ("models:/ldm/1", "--max-co2e-kg", "5", "--provider", "me", "--region", "DE"),
            "provider is 'me'",
        ),
    ],
)
def test_gate_exits_with_1_and_one_message_on_what_the_user_can_fix(client, args, message):
    train(client, "ldm", 8.0)
    result = gate(*args)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr


def test_gate_does_not_call_a_model_missing_that_it_could_not_ask_for(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    nobody = "http://bob:secret@127.0.0.1:9"
    result = gate("models:/ldm/1", "--max-co2e-kg", "5", "--tracking-uri", nobody)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "The tracking server http://***@127.0.0.1:9 does not answer" in result.stderr
    assert "No model version" not in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Give --max-co2e-kg, or --against MODEL"),
        (("--max-co2e-kg", "five"), "'five' is not a valid float"),
        (("--max-co2e-kg", "5", "--provider", "uk-carbon-intensity"), "--provider needs --region"),
        (("--max-co2e-kg", "5", "--month", "2022-02"), "--month and --intensity-set need --region"),
    ],
)
def test_gate_exits_with_2_on_wrong_usage(args, message):
    result = gate("models:/ldm/1", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def tag_models(*args):
    return CliRunner().invoke(cli, ["tag-models", *args])


@pytest.mark.slow
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
    assert result.stdout == "ldm: 1 version, 2 changed.\n"
    assert result.stderr.endswith("Error: 1 model or version could not be tagged.\n")
    assert "Not written on model 'gone'" in result.stderr


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("args", [(), ("ldm", "--all")])
def test_tag_models_takes_names_or_all(args):
    result = tag_models(*args)
    assert result.exit_code == 2
    assert "Give the names of registered models, or --all." in result.stderr


@pytest.mark.slow
def test_search_finds_logged_models_under_a_limit(client):
    small, big = train(client, "small", 8.0), train(client, "big", 20.0)  # 3 and 7.5 kg
    for name in ("small", "big"):
        record_run_models(client, client.get_model_version(name, "1").run_id)
    experiment_ids = [experiment_id(client, "train")]
    found = client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` < 5")
    assert [model.model_id for model in found] == [small]
    found = client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` >= 5")
    assert [model.model_id for model in found] == [big]
