"""Emissions on LoggedModels, versions and registered models, and models found by them."""

import sqlite3
import time
from contextlib import closing

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_carbon.contract import keys
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.registry.model_tags import show_version
from mlflow_carbon.registry.run_models import record_run_models, record_version, tag_models
from mlflow_carbon.reporting.model_list import price_models, read_models
from tests.fakes.metered_runs import experiment_id, write_run

SOURCE = "s3://bucket/model"  # never opened


class ReadOnlyRegistry(MlflowClient):
    """A client whose user may only read registered models, as a server with basic-auth says it."""

    def set_model_version_tag(self, *_):
        raise MlflowException("Permission denied")

    def set_registered_model_tag(self, *_):
        raise MlflowException("Permission denied")


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def train(client, energy_kwh, **figures):
    """Returns the run of a training that cost this energy, at PUE 1.5 and 250 g/kWh."""
    return write_run(client, "exp", windows=[(energy_kwh, 100.0)], unit="iteration", **figures)


def log_model(client, run_id):
    model = client.create_logged_model(experiment_id(client, "exp"), "m", source_run_id=run_id)
    return model.model_id


def register(client, run_id, name="m"):
    """Returns the number of the new version."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    version = client.create_model_version(name, SOURCE, run_id)
    return version.version


def trained_model(client, energy_kwh, name="m"):
    """Returns the version of a model that was trained, registered and recorded."""
    run_id = train(client, energy_kwh)
    version = register(client, run_id, name)
    assert record_run_models(client, run_id)
    return version


def list_models(client, **prices):
    return price_models(read_models(client), **prices)


def carbon_tags(entity):
    return {key: value for key, value in entity.tags.items() if key.startswith("carbon.")}


def test_version_carries_the_tags_of_the_contract(client):
    version = trained_model(client, 8.0)
    # 8 kWh x 1.5 x 250 g/kWh = 3 kg: band C, under 10 kg and all higher limits.
    assert carbon_tags(client.get_model_version("m", version)) == {
        "carbon.co2e": "3 kg",
        "carbon.co2e_kg": "3",
        "carbon.energy_kwh": "8",
        "carbon.pue": "1.5",
        "carbon.region": "EU27",
        "carbon.period": "2022",
        "carbon.intensity_set": "paper_table1",
        "carbon.intensity_basis": "production; direct",
        "carbon.method.cpu": "counter",
        "carbon.band": "C",
        "carbon.under_10kg": "true",
        "carbon.under_100kg": "true",
        "carbon.under_1000kg": "true",
        "carbon.under_10000kg": "true",
    }


def test_version_loses_the_tags_of_an_earlier_record(client):
    version = trained_model(client, 8.0)
    client.set_model_version_tag("m", version, "carbon.under_1kg", "true")
    assert record_version(client, client.get_model_version("m", version))
    assert "carbon.under_1kg" not in client.get_model_version("m", version).tags


@pytest.mark.slow
def test_registered_model_is_found_by_the_filter_of_its_band(client):
    trained_model(client, 0.2, name="small")  # 0.2 kWh x 1.5 x 250 g/kWh = 75 g: band A
    trained_model(client, 8.0, name="big")
    found = client.search_registered_models("tags.`carbon.band` = 'A'")
    assert [model.name for model in found] == ["small"]
    found = client.search_registered_models("tags.`carbon.co2e` LIKE '% g'")
    assert [model.name for model in found] == ["small"]
    found = client.search_registered_models("tags.`carbon.under_10kg` = 'true'")
    assert [model.name for model in found] == ["big", "small"]


@pytest.mark.slow
def test_registered_model_shows_its_newest_version_only(client):
    trained_model(client, 0.2)
    newest = trained_model(client, 8.0)
    shown = carbon_tags(client.get_registered_model("m"))
    # 75 g was under every limit; 3 kg is no longer under 0.1 and 1 kg.
    assert shown == carbon_tags(client.get_model_version("m", newest))
    assert "carbon.under_1kg" not in shown


@pytest.mark.slow
def test_registered_model_keeps_its_newest_version_when_an_older_one_is_recorded(client):
    old_run_id = train(client, 8.0)
    register(client, old_run_id)
    trained_model(client, 0.2)
    assert record_run_models(client, old_run_id)
    assert client.get_registered_model("m").tags["carbon.band"] == "A"


@pytest.mark.slow
def test_registered_model_compares_versions_as_numbers(client):
    for _ in range(9):
        register(client, train(client, 0.2))
    trained_model(client, 8.0)  # version 10, after 9 in number and before it as text
    assert client.get_registered_model("m").tags["carbon.band"] == "C"


@pytest.mark.slow
def test_registered_model_shows_nothing_when_its_newest_version_was_not_measured(client):
    trained_model(client, 0.2)
    run_id = write_run(client, "exp", windows=[])
    version = register(client, run_id)
    assert record_run_models(client, run_id)
    assert carbon_tags(client.get_model_version("m", version)) == {}
    assert carbon_tags(client.get_registered_model("m")) == {}


@pytest.mark.slow
def test_registered_model_keeps_the_tags_of_others(client):
    trained_model(client, 0.2)
    client.set_registered_model_tag("m", "owner", "lab")
    client.set_registered_model_tag("m", "carbon.budget_kg", "7")
    trained_model(client, 8.0)
    tags = client.get_registered_model("m").tags
    assert (tags["owner"], tags["carbon.budget_kg"]) == ("lab", "7")


def test_registered_model_may_have_an_apostrophe_in_its_name(client):
    run_id = train(client, 8.0)
    client.create_registered_model("Anna's")
    client.create_model_version("Anna's", SOURCE, run_id)
    assert record_run_models(client, run_id)
    assert client.get_registered_model("Anna's").tags["carbon.band"] == "C"


def test_logged_model_is_found_by_a_number(client):
    run_id = train(client, 8.0)
    model_id = log_model(client, run_id)
    assert record_run_models(client, run_id)
    experiment_ids = [experiment_id(client, "exp")]
    found = client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` < 5")
    assert [model.model_id for model in found] == [model_id]
    assert not client.search_logged_models(experiment_ids, "metrics.`carbon/co2e_kg` < 2.9")


def test_logged_model_gets_one_figure_and_no_curve(client):
    run_id = train(client, 8.0)
    model_id = log_model(client, run_id)
    record_run_models(client, run_id)
    metrics = {m.key: m.value for m in client.get_logged_model(model_id).metrics}
    assert metrics == {"carbon/co2e_kg": pytest.approx(3.0)}  # 8 kWh x 1.5 x 250 g/kWh


def test_recording_twice_changes_nothing(client):
    run_id = train(client, 8.0)
    model_id = log_model(client, run_id)
    register(client, run_id)
    for _ in range(2):
        assert record_run_models(client, run_id)
    assert len(client.get_metric_history(run_id, keys.CO2E_KG)) == 1
    logged = [metric.key for metric in client.get_logged_model(model_id).metrics]
    assert len(logged) == len(set(logged))


def test_read_only_user_gets_one_warning_and_no_error(store, client, caplog):
    run_id = train(client, 8.0)
    model_id = log_model(client, run_id)
    register(client, run_id)
    assert not record_run_models(ReadOnlyRegistry(tracking_uri=store), run_id)
    assert [record.name for record in caplog.records].count("mlflow.carbon") == 1
    assert "version 1 of 'm' (Permission denied)" in caplog.text
    assert carbon_tags(client.get_registered_model("m")) == {}
    # The experiment is the user's own: the LoggedModel is found all the same.
    assert keys.CO2E_KG in {m.key for m in client.get_logged_model(model_id).metrics}


def test_missing_run_is_no_error(client, caplog):
    assert not record_run_models(client, "0" * 32)
    assert [record.name for record in caplog.records].count("mlflow.carbon") == 1


def test_version_of_a_registration_that_comes_later_is_recorded(client):
    run_id = train(client, 8.0)
    record_run_models(client, run_id)
    version = register(client, run_id)
    assert record_version(client, client.get_model_version("m", version))
    assert client.get_model_version("m", version).tags["carbon.co2e_kg"] == "3"
    assert client.get_registered_model("m").tags["carbon.band"] == "C"


class FailingOnce(MlflowClient):
    """A registry that breaks off in the middle of a version's tags."""

    num_written = 0

    def set_model_version_tag(self, *arguments):
        self.num_written += 1
        if self.num_written == 4:
            raise MlflowException("connection lost")
        super().set_model_version_tag(*arguments)


def test_version_has_all_tags_or_none(store, client):
    run_id = train(client, 8.0)
    version = register(client, run_id)
    assert not record_run_models(FailingOnce(tracking_uri=store), run_id)
    assert carbon_tags(client.get_model_version("m", version)) == {}
    assert carbon_tags(client.get_registered_model("m")) == {}


@pytest.mark.slow
def test_registered_model_shows_its_best_version_when_told_to(client):
    trained_model(client, 0.2)
    trained_model(client, 8.0)
    (tagged,) = tag_models(client, ["m"], show="best")
    assert tagged.problems == ()
    shown = client.get_registered_model("m").tags
    assert (shown["carbon.co2e_kg"], shown["carbon.shows"]) == ("0.075", "best")
    trained_model(client, 4.0)  # a later record keeps to the rule
    assert client.get_registered_model("m").tags["carbon.co2e_kg"] == "0.075"
    list(tag_models(client, ["m"], show="newest"))
    shown = client.get_registered_model("m").tags
    assert (shown["carbon.co2e_kg"], "carbon.shows" in shown) == ("1.5", False)


def test_registered_model_shows_nothing_as_best_where_nothing_was_measured(client):
    register(client, write_run(client, "exp", windows=[]))
    list(tag_models(client, ["m"], show="best"))
    assert carbon_tags(client.get_registered_model("m")) == {"carbon.shows": "best"}


@pytest.mark.slow
def test_tagging_all_models_twice_changes_nothing_the_second_time(client):
    for energy_kwh in (0.2, 8.0):
        register(client, train(client, energy_kwh))
    (first,) = tag_models(client, ["m"])
    (second,) = tag_models(client, ["m"])
    # two versions and the registered model
    assert (first.num_versions, first.num_changed) == (2, 3)
    assert (second.num_versions, second.num_changed) == (2, 0)


def test_list_models_gives_numbers(client):
    trained_model(client, 8.0)
    row = list_models(client).iloc[0]
    assert (row["name"], row["version"], row["band"], row["region"]) == ("m", 1, "C", "EU27")
    assert (row["co2e_kg"], row["energy_kwh"], row["pue"]) == (3.0, 8.0, 1.5)


@pytest.mark.slow
def test_list_models_takes_versions_at_or_under_the_limit(client):
    for energy_kwh in (0.2, 8.0, 9.0):  # 0.075, 3 and 3.375 kg
        trained_model(client, energy_kwh)
    assert list(list_models(client, max_co2e_kg=3.0)["co2e_kg"]) == [0.075, 3.0]


def test_list_models_leaves_versions_without_emissions_empty(client):
    register(client, train(client, 8.0))
    assert list(list_models(client)["co2e_kg"].isna()) == [True]
    assert list_models(client, max_co2e_kg=1e9).empty


def test_list_models_prices_in_another_region(client):
    trained_model(client, 8.0)
    sweden = lookup_intensity("Sweden", intensity_set="paper_table1")
    row = list_models(client, intensity=sweden).iloc[0]
    # 8 kWh x 1.5 x 7 g/kWh = 84 g: band A
    assert row["co2e_kg"] == pytest.approx(0.084)
    assert (row["region"], row["band"]) == (sweden.region, "A")


def test_list_models_prices_with_another_pue(client):
    trained_model(client, 8.0)
    # 8 kWh x 1.0 x 250 g/kWh = 2 kg
    assert list_models(client, pue=1.0).iloc[0]["co2e_kg"] == pytest.approx(2.0)


def test_list_models_limits_after_pricing(client):
    trained_model(client, 8.0)
    register(client, train(client, 8.0))  # a version without emissions is no obstacle
    sweden = lookup_intensity("Sweden", intensity_set="paper_table1")
    assert len(list_models(client, intensity=sweden, max_co2e_kg=0.1)) == 1
    assert len(list_models(client, max_co2e_kg=0.1)) == 0


def test_list_models_of_an_empty_registry_is_empty(client):
    assert list_models(client).empty


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "text"),
    [(keys.TAG_MODEL_PUE, "high"), (keys.TAG_MODEL_PUE, "0.5"), (keys.TAG_MODEL_CO2E_KG, "inf")],
)
def test_list_models_leaves_out_a_version_of_impossible_figures_by_name(client, caplog, key, text):
    version = trained_model(client, 8.0)
    trained_model(client, 0.2, name="sound")
    client.set_model_version_tag("m", version, key, text)
    assert list(list_models(client)["name"]) == ["sound"]
    assert f"Left out version 1 of model 'm': {key} is {text!r}." in caplog.text


@pytest.mark.slow
def test_best_version_is_one_whose_figure_is_a_number(client):
    trained_model(client, 8.0)
    broken = trained_model(client, 9.0)
    client.set_model_version_tag("m", broken, keys.TAG_MODEL_CO2E_KG, "nobody knows")
    assert show_version(client, "m", show="best")
    assert client.get_registered_model("m").tags["carbon.co2e_kg"] == "3"  # 8 x 0.375


@pytest.mark.slow
def test_each_of_many_logged_models_gets_its_figure(client):
    run_id = train(client, 0.2)
    model_ids = [log_model(client, run_id) for _ in range(103)]  # a page holds 100
    assert record_run_models(client, run_id)
    assert [len(model_points(client, model_id)) for model_id in model_ids] == [1] * 103


def model_points(client, model_id, key=keys.CO2E_KG):
    """Returns the values of a model's points."""
    metrics = client.get_logged_model(model_id).metrics or []
    return [point.value for point in metrics if point.key == key]


def resume(client, run_id, energy_kwh, *, start_ms):
    """Writes the totals of a run of one hour more, which began at this time."""
    earlier_s = client.get_run(run_id).data.metrics[keys.DURATION_S]
    totals = {
        keys.ENERGY_KWH: energy_kwh,
        keys.CO2E_G: energy_kwh * 1.5 * 250,
        keys.DURATION_S: earlier_s + 3600.0,
    }
    for key, value in totals.items():
        client.log_metric(run_id, key, value, timestamp=start_ms + 3_600_000, step=0)


def test_model_of_an_earlier_part_keeps_its_figure_when_the_run_is_resumed(client):
    run_id = train(client, 0.2)
    old = log_model(client, run_id)
    assert record_run_models(client, run_id)
    resume(client, run_id, 0.5, start_ms=round(time.time() * 1000) + 1000)
    assert record_run_models(client, run_id)
    assert model_points(client, old) == [pytest.approx(0.075)]  # kg: 0.2 kWh x 1.5 x 250 g/kWh


def test_model_of_the_last_part_gets_the_figure_of_the_whole_run(client):
    run_id = train(client, 0.2)
    resume(client, run_id, 0.5, start_ms=round(time.time() * 1000) - 1000)
    new = log_model(client, run_id)
    assert record_run_models(client, run_id)
    assert model_points(client, new) == [pytest.approx(0.1875)]  # kg of 0.5 kWh


def test_model_of_an_earlier_part_that_has_no_figure_gets_one(client):
    run_id = train(client, 0.2)
    old = log_model(client, run_id)
    resume(client, run_id, 0.5, start_ms=round(time.time() * 1000) + 1000)
    assert record_run_models(client, run_id)
    assert model_points(client, old) == [pytest.approx(0.1875)]  # kg of 0.5 kWh


def test_version_keeps_its_tags_where_its_run_cannot_be_read(client):
    version = trained_model(client, 8.0)
    run_id = client.get_model_version("m", version).run_id
    with closing(sqlite3.connect(client.tracking_uri.removeprefix("sqlite:///"))) as database:
        for table in ("tags", "metrics", "latest_metrics", "runs"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (run_id,))
        database.commit()
    (tagged,) = tag_models(client, ["m"])
    assert "cannot be read" in tagged.problems[0]
    assert client.get_model_version("m", version).tags["carbon.co2e_kg"] == "3"
