"""What a models:/ URI names is asked of the client that was named, and of no other."""

from contextlib import contextmanager

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_carbon.cli import cli
from mlflow_carbon.registry.model_uris import ModelUri, find_version, parse_model_uri
from mlflow_carbon.registry.run_models import tag_models
from tests.fakes.metered_runs import experiment_id, write_run


@pytest.mark.parametrize(
    ("uri", "parsed"),
    [
        ("models:/m-0123", ModelUri("m-0123")),
        ("models:/ldm/3", ModelUri(name="ldm", version="3")),
        ("models:/ldm@best", ModelUri(name="ldm", alias="best")),
        ("models:/a@b@best", ModelUri(name="a@b", alias="best")),
        ("models:/ldm/latest", ModelUri(name="ldm", stage="latest")),
        ("models:/ldm/Production", ModelUri(name="ldm", stage="Production")),
        ("models:/my model/3", ModelUri(name="my model", version="3")),
    ],
)
def test_parts_of_a_uri(uri, parsed):
    assert parse_model_uri(uri) == parsed


@pytest.mark.parametrize(
    "uri",
    ["models:/", "models:/a/b/c", "models:/a//", "runs:/123", "ldm", "s3://b/m", "models:/ /3"],
)
def test_what_is_no_uri_of_a_model(uri):
    with pytest.raises(MlflowException, match="no URI of a model"):
        parse_model_uri(uri)


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store, registry_uri=store)


@contextmanager
def away(tmp_path):
    """Makes a store the current one that does not even exist, and must not come to be."""
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/current.db")
    yield
    assert not (tmp_path / "current.db").exists()


def register(client, name, energy_kwh, *, tags=None):
    """Registers a model of 375 g/kWh that names its logged model as its source."""
    run_id = write_run(client, "exp", windows=[(energy_kwh, 100.0)], unit="iteration", tags=tags)
    model = client.create_logged_model(experiment_id(client, "exp"), "m", source_run_id=run_id)
    client.create_registered_model(name)
    client.create_model_version(name, f"models:/{model.model_id}", run_id)
    return run_id


def test_version_is_found_by_number_alias_stage_and_as_the_latest(client, tmp_path):
    register(client, "ldm", 2.0)
    client.create_model_version("ldm", "s3://bucket/model")
    client.set_registered_model_alias("ldm", "best", "1")
    uris = {"models:/ldm/1": 1, "models:/ldm@best": 1, "models:/ldm/latest": 2}
    with away(tmp_path):
        for uri, number in uris.items():
            assert int(find_version(client, parse_model_uri(uri)).version) == number
        with pytest.raises(MlflowException, match="no version in stage 'Production'"):
            find_version(client, parse_model_uri("models:/ldm/Production"))


@pytest.mark.slow
def test_lineage_of_another_store_has_no_false_problem(client, tmp_path):
    register(client, "base", 2.0)
    register(client, "ldm", 8.0, tags={"carbon.parent_model": "models:/base/1"})
    with away(tmp_path):
        for tagged in tag_models(client, ["base", "ldm"]):
            assert tagged.problems == ()
        tags = client.get_model_version("ldm", "1").tags
    assert tags["carbon.lineage_co2e_kg"] == "3.75"  # (2 + 8) x 0.375
    assert "carbon.lineage_problem" not in tags


@pytest.mark.slow
def test_gate_with_lineage_reads_the_store_that_was_named(client, store, tmp_path):
    register(client, "base", 2.0)
    register(client, "ldm", 8.0, tags={"carbon.parent_model": "models:/base/latest"})
    command = ["gate", "models:/ldm/1", "--lineage", "--max-co2e-kg", "4"]
    with away(tmp_path):
        done = CliRunner().invoke(cli, [*command, "--tracking-uri", store], catch_exceptions=False)
    assert (done.exit_code, "3.75 kg CO2e of the 2 trainings" in done.output) == (0, True)
