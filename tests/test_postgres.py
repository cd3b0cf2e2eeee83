"""A store on a real PostgreSQL: read where it is of this MLflow, left alone where it is not."""

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

SCHEMA_OF_3_5 = "bf29a5ff90ea"


@pytest.fixture
def database(monkeypatch, tmp_path):
    """The URI of an empty database; the working folder is an empty one."""
    pytest.importorskip("psycopg2")
    monkeypatch.chdir(tmp_path)
    with postgres_server() as uri:
        yield uri


def make_older(uri):
    """Makes the tables of MLflow 3.5 by MLflow's own scripts."""
    engine = sqlalchemy.create_engine(uri)
    Base.metadata.create_all(engine)
    engine.dispose()
    config = Config()
    scripts = Path(mlflow.__file__).parent / "store" / "db_migrations"
    config.set_main_option("script_location", str(scripts))
    config.set_main_option("sqlalchemy.url", uri)
    command.upgrade(config, SCHEMA_OF_3_5)


def contents(uri):
    """Returns the columns of all tables, and the revision."""
    engine = sqlalchemy.create_engine(uri)
    with engine.connect() as connection:
        columns = connection.execute(
            sqlalchemy.text(
                "SELECT table_name, column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = 'public' ORDER BY 1, 2"
            )
        ).fetchall()
        revision = None
        if any(column.table_name == "alembic_version" for column in columns):
            query = sqlalchemy.text("SELECT version_num FROM alembic_version")
            revision = connection.execute(query).scalar()
    engine.dispose()
    return columns, revision


def compare(uri):
    arguments = ["compare", "--experiment", "exp", "--tracking-uri", uri]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_store_of_this_mlflow_is_read(database):
    write_run(MlflowClient(tracking_uri=database), "exp", windows=[(0.2, 4.0)])
    done = compare(database)
    assert (done.exit_code, "EU27" in done.stdout) == (0, True), done.output


def test_store_of_an_older_mlflow_is_refused_and_left_as_it_is(database, tmp_path):
    make_older(database)
    before = contents(database)
    done = compare(database)
    assert done.exit_code == 1
    assert f"is of MLflow 3.5 (schema {SCHEMA_OF_3_5})" in done.output
    assert "make a copy of the database first" in done.output
    assert contents(database) == before
    assert list(tmp_path.iterdir()) == []


def test_empty_database_is_no_store_and_stays_empty(database):
    done = compare(database)
    assert done.exit_code == 1
    assert "No tracking store at postgresql+psycopg2://***@127.0.0.1" in done.output
    assert contents(database) == ([], None)
