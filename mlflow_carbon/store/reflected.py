"""Runs read straight from the tables of MLflow's database, by reflection and without writing.

MLflow's own search makes an object of every metric, parameter and tag. Here the database joins a
run's tags into one text, and hands over only what a record is made of and what is asked for.
"""

import importlib.util
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_summary import FIGURE_TAGS
from mlflow_carbon.store.schema import is_sqlite, newest_revision, open_read_only, sqlite_path
from mlflow_carbon.store.stored_runs import (
    ASIDE_PREFIX,
    ASIDE_TAGS,
    OTHER_TAGS,
    PROGRAM_PREFIXES,
    Progress,
    Scope,
    StoredRun,
    Wanted,
)

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Select, Table

_logger = logging.getLogger("mlflow.carbon")

# What is read, and so must be there.
_COLUMNS_BY_TABLE = {
    "runs": {"run_uuid", "name", "status", "lifecycle_stage", "experiment_id"}
    | {"start_time", "end_time"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
    "params": {"run_uuid", "key", "value"},
    "tags": {"run_uuid", "key", "value"},
    "alembic_version": {"version_num"},
}
_NO_STATUS = "UNKNOWN"  # of a run whose row has none
_RUNS_PER_QUERY = 1000  # what is in memory at a time
_EXPERIMENTS_PER_QUERY = 500  # a database takes a limited number of values
_NUM_TEXTS_KEPT = 4096  # of tags, as runs of one kind have the same


# Id, name, status, experiment, start and end in ms.
_Head = tuple[str, str | None, str, int, int | None, int | None]


class UnknownTablesError(Exception):
    """The store's tables are not those known here, or could not be read directly."""


def reads_database(uri: str) -> bool:
    """Returns whether a store's tables can be read: sqlite in a file, or PostgreSQL."""
    if importlib.util.find_spec("sqlalchemy") is None:  # mlflow-skinny
        return False
    if is_sqlite(uri):
        return sqlite_path(uri) is not None
    return uri.partition(":")[0].partition("+")[0] == "postgresql"


def reflected_runs(
    uri: str,
    scope: Scope,
    wanted: Wanted,
    on_progress: Progress | None = None,
) -> Iterator[StoredRun]:
    """Yields the active runs of a scope, in the order of ``listing.each_run``.

    No more than a query's worth of runs is in memory at a time.

    Args:
        uri: of a database, as ``reads_database`` takes it.
        scope: which runs.
        wanted: parameters and tags to read besides the tags of the contract.
        on_progress: is told how many runs have been read, and of how many.

    Raises:
        UnknownTablesError: these tables cannot be read so.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = _read_only_engine(uri)
    except (SQLAlchemyError, ImportError) as error:
        raise UnknownTablesError(str(error)) from error
    try:
        with _connected(engine) as connection:
            tables = _known_tables(connection)
            queries = _Queries.of(tables, wanted, engine.dialect.name)
            heads = _heads(connection, tables, scope)
            num_runs = len(heads)
            heads.reverse()  # so that those read can be taken off its end
            while heads:
                newest = heads[-_RUNS_PER_QUERY:]
                del heads[-_RUNS_PER_QUERY:]
                yield from queries.runs(connection, newest[::-1])
                if on_progress is not None:
                    on_progress(num_runs - len(heads), num_runs)
    except (SQLAlchemyError, engine.dialect.loaded_dbapi.Error) as error:
        raise UnknownTablesError(str(error)) from error
    finally:
        engine.dispose()


@dataclass(frozen=True)
class _Tables:
    """The reflected tables."""

    runs: "Table"
    metrics: "Table"
    params: "Table"
    tags: "Table"


def _read_only_engine(uri: str) -> "Engine":
    import sqlalchemy
    from sqlalchemy.pool import NullPool

    path = sqlite_path(uri)
    if path is not None:
        return sqlalchemy.create_engine(
            "sqlite://", creator=lambda: open_read_only(path), poolclass=NullPool
        )
    return sqlalchemy.create_engine(uri, poolclass=NullPool)


@contextmanager
def _connected(engine: "Engine") -> Iterator["Connection"]:
    """Gives a connection that cannot write; of PostgreSQL it sees one state of the store.

    A connection of sqlite sees a new state in each query, so that it never locks out a writer for
    longer than a query.
    """
    options = {}
    if engine.dialect.name == "postgresql":
        options = {"postgresql_readonly": True, "isolation_level": "REPEATABLE READ"}
    with engine.connect().execution_options(**options) as connection:
        yield connection


def _known_tables(connection: "Connection") -> _Tables:
    """Returns the tables.

    Raises:
        UnknownTablesError: a table or column is missing, or the schema is of another MLflow.
    """
    import sqlalchemy

    known = sqlalchemy.MetaData()
    known.reflect(connection, only=list(_COLUMNS_BY_TABLE), resolve_fks=False)
    for name, columns in _COLUMNS_BY_TABLE.items():
        if missing := columns - set(known.tables[name].columns.keys()):
            raise UnknownTablesError(f"{name} has no {', '.join(sorted(missing))}")
    version = connection.execute(sqlalchemy.select(known.tables["alembic_version"])).scalar()
    if version != newest_revision():
        raise UnknownTablesError(f"the schema is {version}, not {newest_revision()}")
    return _Tables(*(known.tables[name] for name in ("runs", "latest_metrics", "params", "tags")))


def _heads(connection: "Connection", tables: _Tables, scope: Scope) -> list[_Head]:
    """Returns the head of each active run of a scope, the oldest first.

    Runs without a start come last, as MLflow's own order has it.
    """
    import sqlalchemy

    runs, tags = tables.runs, tables.tags
    is_metered = (
        sqlalchemy.select(sqlalchemy.literal(1))
        .where(
            tags.c.run_uuid == runs.c.run_uuid,
            tags.c.key == keys.TAG_SCHEMA,
            tags.c.value.is_not(None),
        )
        .exists()
    )
    query = (
        sqlalchemy.select(
            *(runs.c.run_uuid, runs.c.name, runs.c.status, runs.c.experiment_id),
            *(runs.c.start_time, runs.c.end_time),
        )
        .where(
            runs.c.experiment_id.in_(sqlalchemy.bindparam("experiments", expanding=True)),
            runs.c.lifecycle_stage == "active",
            *([] if scope.has_unmetered else [is_metered]),
            *([] if scope.since_ms is None else [runs.c.start_time >= scope.since_ms]),
        )
        .order_by(runs.c.start_time.is_(None), runs.c.start_time, runs.c.run_uuid)
    )
    ids = list(map(int, scope.experiment_ids))
    found: list[Any] = []
    statuses: dict[Any, Any] = {}  # each kept once
    for start in range(0, len(ids), _EXPERIMENTS_PER_QUERY):
        asked = {"experiments": ids[start : start + _EXPERIMENTS_PER_QUERY]}
        for run_id, name, status, *rest in connection.execute(query, asked):
            found.append((run_id, name, statuses.setdefault(status, status), *rest))
    return found


@dataclass(frozen=True)
class _Queries:
    """What is asked of each table for the ids of some runs; ``None`` asks for no parameters."""

    metrics: "Select[Any]"
    params: "Select[Any] | None"
    tags: "Select[Any]"
    names: "Select[Any]"

    @classmethod
    def of(cls, tables: _Tables, wanted: Wanted, dialect: str) -> "_Queries":
        import sqlalchemy
        from sqlalchemy import func

        metrics, params, tags = tables.metrics, tables.params, tables.tags
        value = sqlalchemy.case((metrics.c.is_nan, sqlalchemy.null()), else_=metrics.c.value)
        is_sqlite_ = dialect == "sqlite"
        reads_param = [] if wanted.params is None else [params.c.key.in_(list(wanted.params))]
        joined = func.json_group_object if is_sqlite_ else func.json_object_agg

        def text(table: "Table") -> "ColumnElement[str]":
            return sqlalchemy.cast(joined(table.c.key, table.c.value), sqlalchemy.Text)

        def is_asked(table: "Table") -> "ColumnElement[bool]":
            return _is_asked(table, is_sqlite_)

        return cls(
            metrics=sqlalchemy.select(metrics.c.run_uuid, metrics.c.key, value).where(
                is_asked(metrics), _begins(metrics.c.key, keys.METRIC_PREFIX)
            ),
            params=None
            if wanted.params is not None and not wanted.params
            else sqlalchemy.select(params.c.run_uuid, text(params))
            .where(is_asked(params), *reads_param)
            .group_by(params.c.run_uuid),
            tags=sqlalchemy.select(
                tags.c.run_uuid,
                sqlalchemy.cast(
                    joined(tags.c.key, tags.c.value).filter(tags.c.key.not_in(FIGURE_TAGS)),
                    sqlalchemy.Text,
                ),
                *(func.max(tags.c.value).filter(tags.c.key == key) for key in FIGURE_TAGS),
            )
            .where(is_asked(tags), *_reads_tag(tags, wanted))
            .group_by(tags.c.run_uuid),
            names=sqlalchemy.select(tags.c.run_uuid, tags.c.value).where(
                is_asked(tags), tags.c.key == MLFLOW_RUN_NAME
            ),
        )

    def runs(self, connection: "Connection", heads: Sequence[_Head]) -> Iterator[StoredRun]:
        """Yields the runs of these heads."""
        asked = {"runs": [head[0] for head in heads]}
        metrics: dict[str, dict[str, float]] = {run_id: {} for run_id in asked["runs"]}
        for run_id, key, value in _rows(connection, self.metrics, asked):
            # sqlite keeps text in a column of numbers; so no figure is known
            metrics[run_id][key] = value if isinstance(value, int | float) else math.nan
        params: dict[str, Mapping[str, str]] = {}
        if self.params is not None:
            for run_id, text in _rows(connection, self.params, asked):
                params[run_id] = json.loads(text)
        tags: dict[str, tuple[Mapping[str, str], Mapping[str, str]]] = {}
        for run_id, text, *figures in _rows(connection, self.tags, asked):
            texts = (figure if isinstance(figure, str) else None for figure in figures)
            tags[run_id] = _tags_of(text), _named(tuple(texts))
        nameless = {"runs": [head[0] for head in heads if not head[1]]}
        names = dict(_rows(connection, self.names, nameless)) if nameless["runs"] else {}
        for run_id, name, status, experiment_id, start_ms, end_ms in heads:
            shared, figure_tags = tags.get(run_id, ({}, {}))
            yield StoredRun(
                run_id,
                _text(name) or _text(names.get(run_id)),
                str(experiment_id),
                status or _NO_STATUS,
                metrics[run_id],
                params.get(run_id, {}),
                shared,
                figure_tags,
                start_ms if isinstance(start_ms, int) else None,
                end_ms if isinstance(end_ms, int) else None,
            )


def _text(value: object) -> str:
    """Returns a text; empty for bytes, which sqlite keeps in a column of texts too."""
    return value if isinstance(value, str) else ""


def _rows(
    connection: "Connection", query: "Select[Any]", asked: Mapping[str, Sequence[str]]
) -> Sequence[tuple[Any, ...]]:
    """Returns a query's rows as the driver gives them, which is faster than as objects."""
    bound: Mapping[str, Any] = asked
    if connection.dialect.name == "sqlite":
        bound = {name: json.dumps(ids) for name, ids in asked.items()}
    result = connection.execute(query, bound)
    rows: Sequence[tuple[Any, ...]] = result.cursor.fetchall() if result.cursor else ()
    result.close()
    return rows


def _is_asked(table: "Table", is_sqlite_: bool) -> "ColumnElement[bool]":
    """Returns whether a row is of one of the runs asked for, given as one value: a list of ids."""
    import sqlalchemy
    from sqlalchemy import func
    from sqlalchemy.dialects.postgresql import ARRAY

    if is_sqlite_:
        ids = func.json_each(sqlalchemy.bindparam("runs", type_=sqlalchemy.Text))
        return table.c.run_uuid.in_(sqlalchemy.select(ids.table_valued("value").c.value))
    listed = sqlalchemy.bindparam("runs", type_=ARRAY(sqlalchemy.Text))
    return table.c.run_uuid == sqlalchemy.any_(listed)


def _reads_tag(tags: "Table", wanted: Wanted) -> list["ColumnElement[bool]"]:
    """Returns which tags to read: those wanted, and those that a summary is made of."""
    if wanted.tags is None and wanted.program_tags is None:
        return []
    key = tags.c.key
    is_of_summary = (
        _begins(key, keys.TAG_PREFIX) & key.not_in(ASIDE_TAGS) & ~_begins(key, ASIDE_PREFIX)
    )
    if wanted.tags is not None:
        return [is_of_summary | key.in_([*OTHER_TAGS, *wanted.tags])]
    is_users = ~(_begins(key, PROGRAM_PREFIXES[0]) | _begins(key, PROGRAM_PREFIXES[1]))
    return [is_of_summary | is_users | key.in_([*OTHER_TAGS, *(wanted.program_tags or ())])]


def _begins(column: "ColumnElement[str]", prefix: str) -> "ColumnElement[bool]":
    """Returns whether a text begins so; LIKE takes capitals for small letters in sqlite."""
    from sqlalchemy import func

    return func.substr(column, 1, len(prefix)) == prefix


@lru_cache(maxsize=_NUM_TEXTS_KEPT)
def _tags_of(text: str | None) -> Mapping[str, str]:
    """Returns the tags in a text of the database; runs of the same text share them."""
    tags: Mapping[str, str] = {} if text is None else json.loads(text)
    return tags


@lru_cache(maxsize=_NUM_TEXTS_KEPT)
def _named(figures: tuple[str | None, ...]) -> Mapping[str, str]:
    """Returns the tags of ``FIGURE_TAGS`` that a run has, of their texts in that order."""
    named = zip(FIGURE_TAGS, figures, strict=True)
    return {key: text for key, text in named if text is not None}
