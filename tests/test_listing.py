"""Listings are read to their end, each item once, also while others write to the store."""

import sqlite3
from contextlib import closing

import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.registry.run_models import record_run_models, tag_models
from mlflow_carbon.store.listing import PAGE_SIZE, all_experiments, all_runs, newest_runs
from mlflow_carbon.store.run_windows import find_run
from tests.fakes.metered_runs import copy_run, experiment_id, write_run

WINDOWS = [(1e-6, 4.0)]
NUM_RUNS = PAGE_SIZE + 100


class BusyClient(MlflowClient):
    """A client between whose first and second page something happens to the store."""

    happens = None
    num_pages = 0

    def search_runs(self, *args, **kwargs):
        self.num_pages += 1
        if self.num_pages == 2:
            self.happens()
        return super().search_runs(*args, **kwargs)


@pytest.fixture
def client(store):
    return BusyClient(tracking_uri=store)


def database(client):
    return closing(sqlite3.connect(client.tracking_uri.removeprefix("sqlite:///")))


def many_runs(client, *, start_ms_apart=1):
    """Makes more runs than a page holds, each started so many ms after the one before it."""
    first = write_run(client, "exp", windows=WINDOWS)
    copy_run(client, first, num_copies=NUM_RUNS - 1)
    with database(client) as opened:
        opened.execute("UPDATE runs SET start_time = 1000 WHERE run_uuid = ?", (first,))
        opened.execute(
            "UPDATE runs SET start_time = 2000 + (rowid % 100000) * ? WHERE run_uuid != ?",
            (start_ms_apart, first),
        )
        opened.commit()
    return first


def ids(client):
    return [run.info.run_id for run in all_runs(client, [experiment_id(client, "exp")])]


def many_experiments(client):
    """Makes more experiments than a page holds, all younger than those that are there."""
    with database(client) as opened:
        rows = opened.execute("SELECT * FROM experiments WHERE name = 'exp'")
        names = [column[0] for column in rows.description]
        row = dict(zip(names, rows.fetchone(), strict=True))
        copies = [
            row
            | {"experiment_id": 10**6 + number, "name": f"x{number}"}
            | dict.fromkeys(("creation_time", "last_update_time"), 10**13 + number)
            for number in range(PAGE_SIZE + 5)
        ]
        marks = ", ".join(f":{name}" for name in names)
        opened.executemany(f"INSERT INTO experiments VALUES ({marks})", copies)
        opened.commit()


def test_all_experiments_reads_every_page(client):
    experiment_id(client, "exp")
    many_experiments(client)
    assert len(all_experiments(client)) == PAGE_SIZE + 7  # Default and exp are two more


@pytest.mark.slow
def test_run_is_found_behind_a_thousand_experiments(client):
    client.happens = lambda: None
    run_id = write_run(client, "exp", windows=WINDOWS, name="mytrain")
    many_experiments(client)
    assert find_run(client, "mytrain").info.run_id == run_id
    assert find_run(client, "latest").info.run_id == run_id


@pytest.mark.slow
def test_tag_models_keeps_what_was_sampled_behind_a_thousand_experiments(client):
    client.happens = lambda: None
    run_id = write_run(client, "train", windows=WINDOWS, unit="iteration")
    model_id = client.create_logged_model(
        experiment_id(client, "train"), "m", source_run_id=run_id
    ).model_id
    client.create_registered_model("m")
    client.create_model_version("m", f"models:/{model_id}", run_id)
    sampling = write_run(client, "exp", windows=WINDOWS)
    client.log_inputs(sampling, models=[LoggedModelInput(model_id)])
    assert record_run_models(client, sampling)
    # 1e-6 kWh of 4 samples x 1.5 x 250 g/kWh
    key, expected = "carbon.inference_co2e_g_per_sample", "9.375e-05"
    assert client.get_model_version("m", "1").tags[key] == expected
    many_experiments(client)
    list(tag_models(client, ["m"]))
    assert client.get_model_version("m", "1").tags[key] == expected


@pytest.mark.slow
def test_all_runs_come_oldest_first(client):
    client.happens = lambda: None
    first = many_runs(client)
    found = all_runs(client, [experiment_id(client, "exp")])
    starts_ms = [run.info.start_time for run in found]
    assert (found[0].info.run_id, len(found)) == (first, NUM_RUNS)
    assert starts_ms == sorted(starts_ms)


@pytest.mark.slow
def test_runs_that_start_between_two_pages_count_once(client):
    many_runs(client)
    client.happens = lambda: [write_run(client, "exp", windows=WINDOWS) for _ in range(3)]
    found = ids(client)
    assert len(found) == len(set(found)) == NUM_RUNS + 3


@pytest.mark.slow
def test_runs_that_are_deleted_between_two_pages_hide_no_other(client):
    many_runs(client)
    client.happens = lambda: None
    known = ids(client)
    client.num_pages = 0
    client.happens = lambda: [client.delete_run(run_id) for run_id in known[10:30]]
    assert set(ids(client)) == set(known)  # the deleted ones had been read already


@pytest.mark.slow
def test_runs_of_one_millisecond_fill_more_than_a_page(client):
    client.happens = lambda: None
    many_runs(client, start_ms_apart=0)
    found = ids(client)
    assert len(found) == len(set(found)) == NUM_RUNS


def test_runs_of_very_many_experiments_are_asked_for_in_portions(client):
    client.happens = lambda: None
    old = write_run(client, "exp", windows=WINDOWS)
    new = write_run(client, "other", windows=WINDOWS)
    with database(client) as opened:
        opened.execute("UPDATE runs SET start_time = 1000 WHERE run_uuid = ?", (old,))
        opened.commit()
    places = [experiment_id(client, "other"), *map(str, range(100, 1300))]
    places.append(experiment_id(client, "exp"))
    assert [run.info.run_id for run in all_runs(client, places)] == [old, new]
    assert [run.info.run_id for run in newest_runs(client, places, "", max_runs=1)] == [new]


class NoAdministrator(MlflowClient):
    """A client of a server that forbids to ask for what is there under no id."""

    def get_run(self, _):
        raise MlflowException("Permission denied", PERMISSION_DENIED)


@pytest.mark.parametrize("text", ["latest", "mytrain"])
def test_run_is_asked_for_by_id_only_if_the_text_may_be_one(store, text):
    client = NoAdministrator(tracking_uri=store)
    run_id = write_run(client, "exp", windows=WINDOWS, name="mytrain")
    assert find_run(client, text).info.run_id == run_id


def test_latest_run_is_none_that_was_deleted(client):
    client.happens = lambda: None
    client.delete_run(write_run(client, "exp", windows=WINDOWS, name="mytrain"))
    for text in ("latest", "mytrain"):
        with pytest.raises(NoRunsError):
            find_run(client, text)


def test_latest_of_no_run_at_all_is_not_advised_to_be_latest(store):
    with pytest.raises(NoRunsError, match=r"^No metered run has ended yet; mlflow_carbon\.track"):
        find_run(MlflowClient(), "latest")
