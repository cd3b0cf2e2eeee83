"""Stores of other MLflows are read and left as they are; what cannot be read is told in a word."""

import gzip
import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, UNAUTHENTICATED

from mlflow_carbon.cli import cli
from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.store.access import open_client, store_errors, write_twice_if_raced
from mlflow_carbon.store.schema import newest_revision, read_sqlite_schema, sqlite_path

FIXTURES = Path(__file__).parent / "fixtures"
RELEASES = ("2.22", "3.0", "3.5", "3.10")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, in which nothing may appear."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def old_store(release, tmp_path):
    path = tmp_path / f"{release}.db"
    path.write_bytes(gzip.decompress((FIXTURES / f"mlflow_{release}.db.gz").read_bytes()))
    return path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(*command):
    return CliRunner().invoke(cli, list(command), catch_exceptions=False)


def answer(path, *command):
    done = run(*command, "--tracking-uri", f"sqlite:///{path}")
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    "release", ["2.22", *(pytest.param(it, marks=pytest.mark.slow) for it in RELEASES[1:])]
)
def test_store_of_an_older_mlflow_is_read_and_keeps_every_byte(release, tmp_path, folder, caplog):
    path = old_store(release, tmp_path)
    before = digest(path)
    (row,) = json.loads(answer(path, "compare", "--experiment", "kept", "--format", "json"))
    # runs of 0.2 and 0.4 kWh
    assert (row["num_runs"], row["energy_kwh_mean"]) == (2, pytest.approx(0.3))
    assert f"is a store of MLflow {release}." in caplog.text
    assert digest(path) == before
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_every_reading_command_leaves_an_older_store_as_it_is(tmp_path, folder):
    path = old_store("3.5", tmp_path)
    before = digest(path)
    assert json.loads(answer(path, "models", "--format", "json"))[0]["co2e_kg"] == 0.075
    assert "passes" in answer(path, "gate", "models:/ldm/1", "--max-co2e-kg", "1")
    assert "co2_eq_emissions" in answer(path, "card", "models:/ldm/1")
    assert "250.0" in answer(path, "predict", "a", "--units", "10")  # 10 samples of 25 Wh
    assert "EU27" in answer(path, "advise", "latest", "--region", "EU27,SE")
    assert "Nothing to backfill" in answer(path, "backfill", "--experiment", "kept", "--dry-run")
    assert digest(path) == before
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "command", [("tag-models", "--all"), ("recover",), ("backfill", "--experiment", "kept")]
)
def test_command_that_writes_refuses_an_older_store(command, tmp_path, folder):
    path = old_store("3.5", tmp_path)
    before = digest(path)
    done = run(*command, "--tracking-uri", f"sqlite:///{path}")
    assert done.exit_code == 1
    assert "is of MLflow 3.5 (schema bf29a5ff90ea)" in done.output
    assert "make a copy of the database first" in done.output
    assert f"mlflow db upgrade sqlite:///{path}" in done.output
    assert digest(path) == before
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_errors_name_the_store_and_not_its_copy(tmp_path, folder):
    path = old_store("3.10", tmp_path)
    done = run("compare", "--experiment", "kep", "--tracking-uri", f"sqlite:///{path}")
    assert f"No experiment 'kep' in sqlite:///{path}. Nearest: 'kept'" in done.output


@pytest.mark.slow
def test_store_of_a_newer_mlflow_is_refused(empty_store, tmp_path, folder):
    path = tmp_path / "newer.db"
    shutil.copy(empty_store, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'abcdef012345'")
        database.commit()
    before = digest(path)
    with pytest.raises(
        TrackingStoreError, match=r"of another MLflow \(schema abcdef012345\).* --upgrade mlflow"
    ):
        open_client(f"sqlite:///{path}")
    assert digest(path) == before


def test_database_of_something_else_is_no_store(tmp_path, folder):
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE cats (name TEXT)")
    before = digest(path)
    with pytest.raises(TrackingStoreError, match=r"No tracking store .* no tables of MLflow"):
        open_client(f"sqlite:///{path}")
    assert digest(path) == before


@pytest.mark.slow
def test_store_whose_default_experiment_was_purged_is_not_given_another(
    empty_store, tmp_path, folder
):
    path = tmp_path / "purged.db"
    shutil.copy(empty_store, path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM experiments")
        database.commit()
    before = digest(path)
    open_client(f"sqlite:///{path}").search_experiments()
    assert digest(path) == before


@pytest.mark.slow
def test_separate_registry_of_an_older_mlflow_is_not_migrated(store, tmp_path, folder, monkeypatch):
    path = old_store("3.5", tmp_path)
    before = digest(path)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{path}")
    with pytest.raises(TrackingStoreError, match=r"3\.5\.db is of MLflow 3\.5"):
        open_client(store)
    assert digest(path) == before


@pytest.mark.parametrize("release", RELEASES)
def test_schema_says_which_mlflow_it_is_of(release, tmp_path):
    schema = read_sqlite_schema(old_store(release, tmp_path))
    assert (schema.release, schema.is_current, schema.is_older) == (
        f"MLflow {release}",
        False,
        True,
    )


def test_newest_schema_is_the_one_that_mlflow_makes(empty_store):
    assert read_sqlite_schema(empty_store).revision == newest_revision()
    assert read_sqlite_schema(empty_store).is_current


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", "b.db"),
        ("sqlite+pysqlite:////a/b.db?timeout=9", "/a/b.db"),
        ("sqlite:////a%20b/c.db", "/a b/c.db"),
        ("sqlite:///file:/a/b.db?mode=ro&uri=true", "/a/b.db"),
        ("sqlite:///file:///a/b.db?mode=ro&uri=true", "/a/b.db"),
        ("sqlite:///file:b.db?uri=true", "b.db"),
        ("sqlite:///file:memory?mode=memory&uri=true", None),
        ("sqlite:///:memory:", None),
        ("sqlite://", None),
        ("postgresql://host/db", None),
        ("http://host", None),
    ],
)
def test_path_of_a_store_on_sqlite(uri, path):
    assert sqlite_path(uri) == (None if path is None else Path(path))


def test_read_only_uri_of_sqlite_is_a_store(store, tmp_path, folder):
    mlflow.create_experiment("exp")
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"
    client = open_client(uri)
    assert {experiment.name for experiment in client.search_experiments()} == {"Default", "exp"}
    with pytest.raises(MlflowException, match="readonly"):
        client.create_experiment("other")
    assert list(folder.iterdir()) == []


def test_read_only_uri_without_a_file_is_no_store(tmp_path, folder):
    with pytest.raises(TrackingStoreError, match="No tracking store at sqlite:///file:"):
        open_client(f"sqlite:///file:{tmp_path}/none.db?mode=ro&uri=true")
    assert list(folder.iterdir()) == []


def test_folder_without_a_store_is_not_made_one(folder):
    with pytest.raises(TrackingStoreError, match=r"No tracking store at \./mlruns"):
        open_client("./mlruns")
    assert list(folder.iterdir()) == []


def test_database_without_its_driver_is_told_which(folder):
    with pytest.raises(TrackingStoreError, match="without the driver pymssql: pip install pymssql"):
        open_client("mssql+pymssql://me:secret@127.0.0.1/db")


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (sqlite3.OperationalError("database or disk is full"), "Free some space"),
        (sqlite3.OperationalError("database is locked"), "try again"),
        (sqlite3.OperationalError("attempt to write a readonly database"), "ask its owner"),
        (MlflowException("Permission denied", PERMISSION_DENIED), "the permission READ"),
        (MlflowException("Who are you?", UNAUTHENTICATED), "MLFLOW_TRACKING_USERNAME"),
        (sqlite3.DatabaseError("file is not a database"), "Check its address"),
    ],
)
def test_advice_fits_the_reason(error, advice):
    with pytest.raises(TrackingStoreError, match=advice) as told, store_errors("sqlite:///a.db"):
        raise error
    assert ("Check its address" in str(told.value)) == (advice == "Check its address")


def test_error_that_is_not_of_the_store_is_none_of_ours():
    with pytest.raises(ZeroDivisionError), store_errors("sqlite:///a.db"):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "reason",
    [
        "UNIQUE constraint failed: tags.key",
        'duplicate key value violates unique constraint "tag_pk"',
        "Duplicate entry 'a' for key 'PRIMARY'",
    ],
)
def test_what_another_node_wrote_at_the_same_time_is_written_again(reason):
    refusals = [MlflowException(reason)]
    written = []

    def write():
        if refusals:
            raise refusals.pop()
        written.append("figure")

    write_twice_if_raced(write)
    assert written == ["figure"]


def test_other_refusals_are_not_asked_twice():
    asked = []

    def write():
        asked.append("once")
        raise MlflowException("Permission denied")

    with pytest.raises(MlflowException):
        write_twice_if_raced(write)
    assert asked == ["once"]
