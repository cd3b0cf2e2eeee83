"""A store on a real PostgreSQL: read, as a copy where it is of an older MLflow, never changed."""

import gzip
import json
from pathlib import Path

import mlflow
import pytest
import sqlalchemy
from alembic import command
from alembic.config import Config
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.initial_models import Base

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import write_run
from tests.fakes.postgres import postgres_server

pytestmark = pytest.mark.postgres

FIXTURES = Path(__file__).parent / "fixtures"
SCHEMAS = {
    "2.22": "0584bdc529eb",
    "3.0": "bda7b8c39065",
    "3.5": "bf29a5ff90ea",
    "3.10": "1b5f0d9ad7c1",
}


@pytest.fixture
def database(monkeypatch, tmp_path):
    """The URI of an empty database; the working folder is an empty one."""
    pytest.importorskip("psycopg2")
    monkeypatch.chdir(tmp_path)
    with postgres_server() as uri:
        yield uri


def make_older(uri, schema):
    """Makes the tables of an older MLflow by MLflow's own scripts."""
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    config = Config()
    scripts = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("sqlalchemy.url", uri)
    command.upgrade(config, schema)


def fill_from(file, uri):
    """Copies the rows of an sqlite store to tables of the same MLflow that are there already."""
    source, target = sqlalchemy.create_engine(f"sqlite:///{file}"), sqlalchemy.create_engine(uri)
    tables = sqlalchemy.MetaData()
    tables.reflect(target)
    with source.connect() as read, target.begin() as written:
        for table in tables.sorted_tables:
            written.execute(table.delete())
            rows = [dict(row) for row in read.execute(table.select()).mappings()]
            if rows:
                written.execute(table.insert(), rows)
    source.dispose()
    target.dispose()


def contents(uri):
    """Returns the columns of all tables, and their rows."""
    engine = sqlalchemy.create_engine(uri)
    tables = sqlalchemy.MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        columns = connection.execute(
            sqlalchemy.text(
                "SELECT table_name, column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = 'public' ORDER BY 1, 2"
            )
        ).fetchall()
        rows = {
            table.name: sorted(map(repr, connection.execute(table.select()).fetchall()))
            for table in tables.sorted_tables
        }
    engine.dispose()
    return columns, rows


def compare(uri):
    arguments = ["compare", "--experiment", "exp", "--tracking-uri", uri]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_store_of_this_mlflow_is_read(database):
    write_run(MlflowClient(tracking_uri=database), "exp", windows=[(0.2, 4.0)])
    done = compare(database)
    assert (done.exit_code, "EU27" in done.stdout) == (0, True), done.output


@pytest.mark.parametrize("release", SCHEMAS)
def test_store_of_an_older_mlflow_is_read_as_a_copy(release, database, tmp_path, caplog):
    file = tmp_path / f"{release}.db"
    file.write_bytes(gzip.decompress((FIXTURES / f"mlflow_{release}.db.gz").read_bytes()))
    make_older(database, SCHEMAS[release])
    fill_from(file, database)
    file.unlink()
    before = contents(database)

    def answer(*arguments):
        done = CliRunner().invoke(
            cli, [*arguments, "--tracking-uri", database], catch_exceptions=False
        )
        assert done.exit_code == 0, done.output
        return done.stdout

    (row,) = json.loads(answer("compare", "--experiment", "kept", "--format", "json"))
    # runs of 0.2 and 0.4 kWh
    assert (row["num_runs"], row["energy_kwh_mean"]) == (2, pytest.approx(0.3))
    assert "250.0" in answer("predict", "a", "--units", "10")  # 10 samples of 25 Wh
    assert json.loads(answer("models", "--format", "json"))[0]["co2e_kg"] == 0.075
    assert f"is a store of MLflow {release}." in caplog.text
    assert contents(database) == before
    assert list(tmp_path.iterdir()) == []


def test_store_without_the_default_experiment_does_not_get_one(database):
    write_run(MlflowClient(tracking_uri=database), "exp", windows=[(0.2, 4.0)])
    engine = sqlalchemy.create_engine(database)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("DELETE FROM experiments WHERE experiment_id = 0"))
    engine.dispose()
    before = contents(database)
    done = compare(database)
    assert (done.exit_code, "EU27" in done.stdout) == (0, True), done.output
    assert contents(database) == before


def test_command_that_writes_refuses_a_store_of_an_older_mlflow(database, tmp_path):
    make_older(database, SCHEMAS["3.5"])
    before = contents(database)
    done = CliRunner().invoke(cli, ["tag-models", "--all", "--tracking-uri", database])
    assert done.exit_code == 1
    assert f"is of MLflow 3.5 (schema {SCHEMAS['3.5']})" in done.output
    assert "make a copy of the database first" in done.output
    assert contents(database) == before
    assert list(tmp_path.iterdir()) == []


def test_empty_database_is_no_store_and_stays_empty(database):
    done = compare(database)
    assert done.exit_code == 1
    assert "No tracking store at postgresql+psycopg2://***@127.0.0.1" in done.output
    assert contents(database) == ([], {})
