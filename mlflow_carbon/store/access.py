"""Opens a store, for reading without changing it or for writing, and explains its errors."""

import importlib.util
import logging
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, RunInfo, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2
from mlflow.protos.databricks_pb2 import ErrorCode
from mlflow.store.entities import PagedList

from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.redaction import reason_of, redact
from mlflow_carbon.store.migrated_copies import (
    migrated_copy_of_file,
    migrated_copy_of_server,
)
from mlflow_carbon.store.reachable import require_answer
from mlflow_carbon.store.schema import (
    Schema,
    is_file_uri,
    is_sqlite,
    read_database_schema,
    read_sqlite_schema,
    sqlite_path,
)

PERMISSION_DENIED = ErrorCode.Name(databricks_pb2.PERMISSION_DENIED)

_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_FORBIDDEN, _UNAUTHORIZED = 403, 401
# A database's error messages, in lower case, and their remedies.
_CHECK_ADDRESS = "Check its address."
_ADVICE_BY_REASON = {
    "disk is full": "Free some space on the disk that holds it, or on the one for temporary files.",
    "no space left": "Free some space on the disk that holds it.",
    "database is locked": "Another process writes to it; try again when that has ended.",
    "readonly database": "This user may only read it; ask its owner.",
    "cannot be none": "One of its runs lacks that; its owner can correct or delete the run.",
    "unable to open database file": "This user may not read the file; ask its owner.",
}
# Messages of sqlite, PostgreSQL and MySQL when another process has already added the row.
_SIGNS_OF_A_RACE = ("unique constraint", "duplicate entry")

_logger = logging.getLogger("mlflow.carbon")


class ReadingClient(MlflowClient):
    """A client whose runs have texts as names, parameters and tags, whatever sqlite has kept.

    A column of texts may hold bytes, and one of numbers texts: such a value says nothing.
    """

    def get_run(self, run_id: str) -> Run:
        """Returns a run without values of another kind."""
        return _readable(super().get_run(run_id))

    def search_runs(
        self,
        experiment_ids: list[str],
        filter_string: str = "",
        run_view_type: int = ViewType.ACTIVE_ONLY,
        max_results: int = 1000,  # as MLflow's
        order_by: list[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList[Run]:
        """Returns a page of runs without values of another kind."""
        page = super().search_runs(
            experiment_ids, filter_string, run_view_type, max_results, order_by, page_token
        )
        page[:] = map(_readable, page)
        return page


class CopyClient(ReadingClient):
    """A client of a copy of a store; messages name the original's place."""

    def __init__(self, copy_uri: str, original_uri: str) -> None:
        super().__init__(tracking_uri=copy_uri, registry_uri=copy_uri)
        self.original_uri = original_uri


def open_client(tracking_uri: str | None = None, *, is_for_writing: bool = False) -> MlflowClient:
    """Returns a client of a store that exists.

    MLflow itself would create a missing database, and would migrate an older release's, which
    its owner's MLflow could then no longer open. Here a missing database is refused, and of an
    older one a copy is read.

    Args:
        tracking_uri: ``None`` takes MLflow's own choice (``MLFLOW_TRACKING_URI``, else
            ``sqlite:///mlflow.db`` in the working folder).
        is_for_writing: whether the store itself is needed, not a copy.

    Raises:
        TrackingStoreError: there is no store at that place, a server does not answer within 10 s,
            it is of another MLflow, or MLflow refuses the URI.
    """
    uri = tracking_uri or mlflow.get_tracking_uri()
    _check_exists(uri)
    require_answer(uri)
    with store_errors(uri):
        schema = _schema(uri)
    registry_uri = mlflow.get_registry_uri()
    if registry_uri != mlflow.get_tracking_uri():  # the user chose a separate registry
        _check_exists(registry_uri)
        require_answer(registry_uri)
        with store_errors(registry_uri):
            _check_current(registry_uri, _schema(registry_uri))
    if schema is not None and _must_copy(uri, schema, is_for_writing):
        if schema.is_older:
            _logger.warning(
                "%s is a store of %s. A copy of it, migrated to MLflow %s, is read instead; "
                "the store stays as it is.",
                redact(uri),
                schema.release,
                mlflow.__version__,
            )
        path = sqlite_path(uri)
        with store_errors(uri):
            copy = migrated_copy_of_server(uri) if path is None else migrated_copy_of_file(path)
            return CopyClient(copy, uri)
    _check_current(uri, schema)
    with store_errors(uri):
        return ReadingClient(tracking_uri=_opened_by_mlflow(uri))


def _must_copy(uri: str, schema: Schema, is_for_writing: bool) -> bool:
    """Returns whether a store to be read must be copied, as opening it would change it."""
    if is_for_writing or (is_sqlite(uri) and sqlite_path(uri) is None):  # a database in memory
        return False
    return schema.is_older or (schema.is_current and not schema.has_default_experiment)


@contextmanager
def store_errors(store: MlflowClient | str) -> Iterator[None]:
    """Turns the errors of MLflow and its database into one that the user can act on.

    Args:
        store: client or URI of the store.

    Raises:
        TrackingStoreError: the block could not read the store.
    """
    try:
        yield
    except Exception as error:
        if not isinstance(error, _kinds_of_store_error()):
            raise
        reason = reason_of(error)
        advice = _advice(error, reason)
        stop = "" if reason.endswith((".", "!", "?")) else "."
        raise TrackingStoreError(
            f"The tracking store {place_of(store)} cannot be read: {reason}{stop} {advice}",
            arguments=["tracking_uri"] if advice is _CHECK_ADDRESS else [],
        ) from error


def place_of(store: MlflowClient | str) -> str:
    """Returns the URI of a store, without credentials; for a copy, the original's."""
    if isinstance(store, str):
        return redact(store)
    return redact(str(getattr(store, "original_uri", store.tracking_uri)))


def may_hide_runs(client: MlflowClient) -> bool:
    """Returns whether the store is a server, which may hide runs from this user."""
    return not _is_database(str(client.tracking_uri))


def write_twice_if_raced(write: Callable[[], object]) -> None:
    """Writes, and writes again if another process, as a second node, has just written the same.

    Raises:
        Exception: any other error of the store.
    """
    try:
        write()
    except Exception as error:
        if not any(sign in str(error).lower() for sign in _SIGNS_OF_A_RACE):
            raise
        write()


def _readable(run: Run) -> Run:
    """Returns a run without names, parameters, tags and times of another kind."""
    for texts in (run.data.params, run.data.tags):
        for key in [key for key, text in texts.items() if not isinstance(text, str)]:
            del texts[key]
    info = run.info
    has_name = isinstance(info.run_name, str | None)
    if has_name and isinstance(info.start_time, int) and isinstance(info.end_time, int | None):
        return run
    known = RunInfo(
        run_id=info.run_id,
        experiment_id=info.experiment_id,
        user_id=info.user_id,
        status=info.status,
        start_time=info.start_time if isinstance(info.start_time, int) else 0,
        end_time=info.end_time if isinstance(info.end_time, int) else None,
        lifecycle_stage=info.lifecycle_stage,
        artifact_uri=info.artifact_uri,
        run_name=info.run_name if has_name else None,
    )
    return Run(known, run.data, run.inputs, run.outputs)


def _kinds_of_store_error() -> tuple[type[Exception], ...]:
    """Returns the exceptions of MLflow, and of the database if one has been read."""
    sqlalchemy_errors = sys.modules.get("sqlalchemy.exc")
    kinds = [MlflowException, sqlite3.Error]
    if sqlalchemy_errors is not None:
        kinds.append(sqlalchemy_errors.SQLAlchemyError)
    return tuple(kinds)


def _advice(error: Exception, reason: str) -> str:
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    if status == _FORBIDDEN:
        return "Ask who runs the server for the permission READ."
    if status == _UNAUTHORIZED:
        return (
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    lower = reason.lower()
    matching = (advice for text, advice in _ADVICE_BY_REASON.items() if text in lower)
    return next(matching, _CHECK_ADDRESS)


def _check_exists(uri: str) -> None:
    """Refuses a place without a store, which MLflow would make there.

    Raises:
        TrackingStoreError: there is no store.
    """
    path = sqlite_path(uri) or _folder(uri)
    if path is not None and not path.exists():
        raise TrackingStoreError(
            f"No tracking store at {redact(uri)}. "
            "Change to its folder, set MLFLOW_TRACKING_URI, or give its address.",
            arguments=["tracking_uri"],
        )


def _folder(uri: str) -> Path | None:
    """Returns the folder of a store of files, which some releases of MLflow read."""
    if uri.startswith("file:"):
        return Path(uri.removeprefix("file:").removeprefix("//"))
    return None if ":" in uri else Path(uri)


def _schema(uri: str) -> Schema | None:
    """Returns the schema of a database; ``None`` for any other store.

    Raises:
        TrackingStoreError: reading a database needs packages that are not installed.
    """
    if not _is_database(uri):
        return None
    if (
        importlib.util.find_spec("sqlalchemy") is None
        or importlib.util.find_spec("alembic") is None
    ):
        raise TrackingStoreError(
            f"{redact(uri)} is a database, and mlflow-skinny reads none. "
            "Install the whole package (pip install mlflow), or give the URI of a server."
        )
    if not is_sqlite(uri):
        try:
            return read_database_schema(uri)
        except ModuleNotFoundError as error:
            raise TrackingStoreError(
                f"{redact(uri)} cannot be read without the driver {error.name}: "
                f"pip install {error.name}."
            ) from error
    path = sqlite_path(uri)
    return None if path is None else read_sqlite_schema(path)


def _is_database(uri: str) -> bool:
    return uri.partition(":")[0].partition("+")[0] in _DATABASES


def _check_current(uri: str, schema: Schema | None) -> None:
    """Refuses a database that does not have the installed MLflow's schema.

    Raises:
        TrackingStoreError: the database has another schema, or holds no store.
    """
    if schema is None or schema.is_current:
        return
    place, version = redact(uri), mlflow.__version__
    if schema.revision is None:
        raise TrackingStoreError(
            f"No tracking store at {place}: the database has no tables of MLflow. {_CHECK_ADDRESS}",
            arguments=["tracking_uri"],
        )
    found = f"The tracking store {place} is of {schema.release} (schema {schema.revision})"
    if not schema.is_older:
        raise TrackingStoreError(
            f"{found}, which MLflow {version} does not know. "
            "Use the MLflow that wrote it (pip install --upgrade mlflow)."
        )
    raise TrackingStoreError(
        f"{found}; MLflow {version} has another schema and would have to migrate it, after which "
        "the MLflow that wrote it cannot open it. Use that MLflow, or make a copy of the "
        f"database first, and then migrate: mlflow db upgrade {place}"
    )


def _opened_by_mlflow(uri: str) -> str:
    """Returns the URI to give to MLflow, which takes ``sqlite:///file:`` for a folder."""
    if not is_file_uri(uri):
        return uri
    return f"sqlite+pysqlite:{uri.partition(':')[2]}"
