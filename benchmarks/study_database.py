"""Keeps a study as a small database: its runs out of a store, without what names people or places.

Run it as ``python -m benchmarks.study_database mlflow.db benchmarks/measured/study/laptop.db.xz``;
the newest study of the store, unless the id of another one's run comes last. What is kept is an
SQLite store of MLflow's, compressed by xz: ``opened`` lends it to ``study-report``.
"""

import lzma
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from mlflow_carbon.contract.study_tags import TAG_PROCESS, TAG_STUDY
from mlflow_carbon.errors import InvalidInputError, NoRunsError

WHOLE_TABLES = ("alembic_version", "workspaces", "experiments")
KEPT_TAGS = (MLFLOW_RUN_NAME, MLFLOW_PARENT_RUN_ID)
KEPT_TAG_PREFIXES = ("study.", "carbon.")


def keep_study(store: Path, kept: Path, study_run_id: str | None = None) -> int:
    """Writes the runs of a study to a compressed database.

    Args:
        store: an SQLite store; it is read only.
        kept: the file to write.
        study_run_id: of the study's run; ``None`` takes the newest study.

    Returns:
        How many runs it kept.

    Raises:
        InvalidInputError: there is no such store.
        NoRunsError: the store has no such study.
    """
    if not store.is_file():
        raise InvalidInputError(f"store is {str(store)!r}, which is no file.")
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "study.db"
        with (
            closing(sqlite3.connect(f"file:{store.absolute()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(copy)) as database,
        ):
            source.backup(database)
            run_ids = _run_ids(database, study_run_id)
            _keep_only(database, run_ids)
            database.commit()
            database.execute("VACUUM")
        kept.write_bytes(lzma.compress(copy.read_bytes(), preset=9 | lzma.PRESET_EXTREME))
    return len(run_ids)


@contextmanager
def opened(kept: Path) -> Iterator[str]:
    """Lends the tracking URI of a copy of a kept study."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "study.db"
        path.write_bytes(lzma.decompress(kept.read_bytes()))
        yield f"sqlite:///{path}"


def _run_ids(database: sqlite3.Connection, study_run_id: str | None) -> list[str]:
    """Returns the ids of a study's run and of its cells' runs."""
    query = (
        "SELECT runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
        "WHERE tags.key = ? AND runs.run_uuid = coalesce(?, runs.run_uuid) "
        "ORDER BY runs.start_time DESC LIMIT 1"
    )
    found = database.execute(query, (TAG_STUDY, study_run_id)).fetchone()
    if found is None:
        named = "" if study_run_id is None else f" whose run is {study_run_id!r}"
        raise NoRunsError(f"No study{named} in this store.")
    children = database.execute(
        "SELECT run_uuid FROM tags WHERE key = ? AND value = ?", (MLFLOW_PARENT_RUN_ID, found[0])
    )
    return [found[0], *(run_id for (run_id,) in children)]


def _keep_only(database: sqlite3.Connection, run_ids: list[str]) -> None:
    """Deletes all but some runs, and what says who ran them and where."""
    places = ", ".join("?" * len(run_ids))
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        if "run_uuid" in columns:
            database.execute(f'DELETE FROM "{table}" WHERE run_uuid NOT IN ({places})', run_ids)
        elif table not in WHOLE_TABLES and not table.startswith("sqlite_"):
            database.execute(f'DELETE FROM "{table}"')
    database.execute(
        "DELETE FROM experiments WHERE experiment_id NOT IN (SELECT experiment_id FROM runs)"
    )
    database.execute("UPDATE experiments SET artifact_location = ''")
    database.execute(
        "UPDATE runs SET user_id = '', source_name = '', source_version = '', artifact_uri = ''"
    )
    tags = database.execute("SELECT DISTINCT key FROM tags").fetchall()
    for (key,) in tags:
        is_kept = key in KEPT_TAGS or key.startswith(KEPT_TAG_PREFIXES)
        if not is_kept or key == TAG_PROCESS:
            database.execute("DELETE FROM tags WHERE key = ?", (key,))


def main() -> None:
    """Keeps the study that the arguments name."""
    if len(sys.argv) not in (3, 4):
        raise SystemExit("usage: python -m benchmarks.study_database STORE.db KEPT.db.xz [RUN_ID]")
    kept = Path(sys.argv[2])
    num_runs = keep_study(Path(sys.argv[1]), kept, *sys.argv[3:])
    print(f"Wrote {kept}: {num_runs} runs, {kept.stat().st_size / 1000:.0f} kB.")


if __name__ == "__main__":
    main()
