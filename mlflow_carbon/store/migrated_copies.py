"""Copies of stores of an older MLflow, migrated to the installed one; no store is changed."""

import atexit
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow

from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.redaction import redact
from mlflow_carbon.store.schema import open_read_only

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

ROWS_AT_ONCE = 10_000


def migrated_copy_of_file(path: Path) -> str:
    """Returns the URI of a copy of an sqlite store, kept until the process ends.

    Raises:
        sqlite3.Error: the file cannot be read, or the copy not be written.
        TrackingStoreError: MLflow cannot migrate it.
    """
    copy = _new_file()
    with closing(open_read_only(path)) as original, closing(sqlite3.connect(copy)) as written:
        original.backup(written)
    return _migrated(copy, str(path))


def migrated_copy_of_server(uri: str) -> str:
    """Returns the URI of an sqlite copy of a store on a database server, kept as the other is.

    The server is asked by SELECT alone, in one transaction, which sees one state of the store.

    Raises:
        SQLAlchemyError: the database cannot be read, or the copy not be written.
        TrackingStoreError: MLflow cannot migrate it.
    """
    import sqlalchemy

    copy = _new_file()
    source, target = sqlalchemy.create_engine(uri), sqlalchemy.create_engine(f"sqlite:///{copy}")
    tables = sqlalchemy.MetaData()
    try:
        with source.connect() as read, target.begin() as written:
            read = read.execution_options(isolation_level="REPEATABLE READ")
            tables.reflect(read)
            for table in tables.sorted_tables:
                _make_portable(table)
            tables.create_all(written)
            for table in tables.sorted_tables:
                _copy_rows(table, read, written)
    finally:
        source.dispose()
        target.dispose()
    return _migrated(copy, redact(uri))


def _make_portable(table: "Table") -> None:
    """Gives the columns of a reflected table types that each database has, and no defaults.

    Its checks, in the words of its database, pass every row; a migration may ask for their names.
    """
    from sqlalchemy import CheckConstraint, true

    for constraint in table.constraints:
        if isinstance(constraint, CheckConstraint):
            constraint.sqltext = true()
    for column in table.columns:
        column.type = column.type.as_generic(allow_nulltype=True)
        column.server_default = column.identity = column.computed = None


def _copy_rows(table: "Table", read: "Connection", written: "Connection") -> None:
    found = read.execution_options(yield_per=ROWS_AT_ONCE).execute(table.select())
    for rows in found.mappings().partitions():
        written.execute(table.insert(), [dict(row) for row in rows])


def _new_file() -> Path:
    """Returns the path of a file to write, in a folder that goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="mlflow-carbon-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder / "copy.db"


def _migrated(copy: Path, original: str) -> str:
    """Returns the URI of an sqlite store after its migration to the installed MLflow's schema."""
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    uri = f"sqlite:///{copy}"
    config = Config()
    config.set_main_option(
        "script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations")
    )
    config.set_main_option("sqlalchemy.url", uri.replace("%", "%%"))
    try:
        command.upgrade(config, "heads")
    except CommandError as error:
        raise TrackingStoreError(f"A copy of {original} cannot be migrated: {error}") from error
    return uri
