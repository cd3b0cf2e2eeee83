"""Reads which MLflow a database belongs to, without MLflow, which would migrate the database."""

import ast
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import mlflow

# The newest schema of each release, by its migration scripts.
_RELEASE_BY_REVISION = {
    "0584bdc529eb": "2.22",
    "bda7b8c39065": "3.0",
    "bf29a5ff90ea": "3.5",
    "1b5f0d9ad7c1": "3.10",
    "dc11669786a5": "3.17",
}
_ASSIGNMENT = re.compile(r"^(revision|down_revision)\b[^=\n]*=\s*(.+)$", re.MULTILINE)
_CREATED = re.compile(r"^Create Date: (\d{4}-\d\d)", re.MULTILINE)
_MIGRATIONS = Path(mlflow.__file__).parent / "store" / "db_migrations" / "versions"
_DEFAULT_EXPERIMENT_ID = 0  # MLflow creates this experiment if it is missing


@dataclass(frozen=True)
class Schema:
    """The schema of a database.

    Attributes:
        revision: of the schema; ``None`` if the database holds no MLflow store.
        has_default_experiment: whether MLflow would add no experiment when it opens the store.
    """

    revision: str | None
    has_default_experiment: bool = True

    @property
    def is_current(self) -> bool:
        """Whether this is the schema of the installed MLflow."""
        return self.revision == newest_revision()

    @property
    def is_older(self) -> bool:
        """Whether the installed MLflow can migrate this schema."""
        return not self.is_current and self.revision in _migrations()

    @property
    def release(self) -> str:
        """The release of MLflow that the schema belongs to, as far as known."""
        if self.revision in _RELEASE_BY_REVISION:
            return f"MLflow {_RELEASE_BY_REVISION[self.revision]}"
        if self.revision in _migrations():
            return f"an MLflow of {_migrations()[self.revision].created or 'before'}"
        return "another MLflow"


@dataclass(frozen=True)
class _Migration:
    """One migration script of the installed MLflow: the revision it replaces, and its month."""

    replaces: object
    created: str


def newest_revision() -> str | None:
    """Returns the newest schema of the installed MLflow; ``None`` if that has no scripts."""
    replaced = {migration.replaces for migration in _migrations().values()}
    heads = [revision for revision in _migrations() if revision not in replaced]
    return heads[0] if len(heads) == 1 else None


@cache
def _migrations() -> Mapping[str | None, _Migration]:
    """Returns the installed MLflow's migrations, by the revision that they lead to."""
    found: dict[str | None, _Migration] = {}
    for script in _MIGRATIONS.glob("*.py"):
        text = script.read_text(encoding="utf-8")
        values = {name: ast.literal_eval(value) for name, value in _ASSIGNMENT.findall(text)}
        created = _CREATED.search(text)
        if "revision" in values:
            found[values["revision"]] = _Migration(
                values.get("down_revision"), created[1] if created else ""
            )
    return found


def sqlite_path(uri: str) -> Path | None:
    """Returns the file that a URI of sqlite names; ``None`` for memory and any other store.

    Both forms are read: ``sqlite:///path`` and ``sqlite:///file:path?mode=ro&uri=true``.
    """
    if not is_sqlite(uri):
        return None
    database, _, query = uri.partition("://")[2].partition("/")[2].partition("?")
    options = parse_qs(query)
    if not database or database == ":memory:" or options.get("mode") == ["memory"]:
        return None
    if is_file_uri(uri):
        database = database.removeprefix("file:")
        if database.startswith("//"):  # an authority, empty or localhost
            database = "/" + database[2:].partition("/")[2]
    return Path(unquote(database))


def is_sqlite(uri: str) -> bool:
    """Returns whether a URI names a database of sqlite."""
    return re.match(r"sqlite(\+\w+)?:", uri) is not None


def is_file_uri(uri: str) -> bool:
    """Returns whether an sqlite URI contains one in sqlite's own form, with options."""
    return re.match(r"sqlite(\+\w+)?:///file:", uri) is not None


def read_sqlite_schema(path: Path) -> Schema:
    """Returns the schema of a database file, without changing the file.

    Raises:
        sqlite3.Error: the file cannot be read, or is no database.
    """
    with closing(open_read_only(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        if not {"alembic_version", "experiments"} <= tables:
            return Schema(None)
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        default = database.execute(
            "SELECT 1 FROM experiments WHERE experiment_id = ?", (_DEFAULT_EXPERIMENT_ID,)
        ).fetchone()
    return Schema(None if row is None else row[0], default is not None)


def open_read_only(path: Path) -> sqlite3.Connection:
    """Returns a connection that cannot write."""
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True)


def read_database_schema(uri: str) -> Schema:
    """Returns the schema of a database on a server, using only SELECT.

    Raises:
        SQLAlchemyError: the database cannot be read.
    """
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        inspector = sqlalchemy.inspect(engine)
        if not all(map(inspector.has_table, ("alembic_version", "experiments"))):
            return Schema(None)
        with engine.connect() as connection:
            query = sqlalchemy.text("SELECT version_num FROM alembic_version")
            row: Any = connection.execute(query).fetchone()
            query = sqlalchemy.text("SELECT 1 FROM experiments WHERE experiment_id = :id")
            default = connection.execute(query, {"id": _DEFAULT_EXPERIMENT_ID}).fetchone()
    finally:
        engine.dispose()
    return Schema(None if row is None else row[0], default is not None)
