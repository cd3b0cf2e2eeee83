"""Metered runs as a Parquet file: written in batches, and read back through DuckDB.

A row is a run: its id, name, experiment and status, its start and end in ms since 1970, and three
maps: the latest value of each metric of the contract, the parameters, and the tags.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_summary import FIGURE_TAGS
from mlflow_carbon.errors import InvalidInputError, ParquetMissingError
from mlflow_carbon.store.stored_runs import Progress, StoredRun, Wanted

PACKAGES = ("pyarrow", "duckdb")
ROWS_PER_BATCH = 2_000
COLUMNS = (
    "run_id",
    "run_name",
    "experiment",
    "status",
    "start_ms",
    "end_ms",
    "metrics",
    "params",
    "tags",
)


def write_runs(
    path: Path, runs: Iterable[StoredRun], experiment_names_by_id: Mapping[str, str]
) -> int:
    """Writes runs to a Parquet file, batch by batch; returns how many.

    The file appears once it is whole; one of that name is replaced. No run, no file.

    Args:
        path: of the file.
        runs: metered ones, with all their parameters and tags.
        experiment_names_by_id: the name of each experiment.

    Raises:
        ParquetMissingError: a package is not installed.
        InvalidInputError: the file cannot be written.
    """
    require_parquet()
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.map_(pa.string(), pa.string())
    types = (*[pa.string()] * 4, pa.int64(), pa.int64(), pa.map_(pa.string(), pa.float64()))
    schema = pa.schema(list(zip(COLUMNS, (*types, texts, texts), strict=True)))
    rows = (_row(run, experiment_names_by_id) for run in runs)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    num_runs = 0
    try:
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            while batch := list(islice(rows, ROWS_PER_BATCH)):
                columns = zip(*batch, strict=True)
                writer.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema))
                num_runs += len(batch)
        if num_runs:
            unfinished.replace(path)
    except OSError as error:
        raise InvalidInputError(
            f"out is {str(path)!r}, which cannot be written: {error.strerror or error}.",
            arguments=["out"],
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return num_runs


@dataclass(frozen=True)
class ExportedRuns:
    """The runs of exported files, of any number of stores; a run in several files counts once.

    Attributes:
        files: written by ``write_runs``.
        experiment_names: where to look; empty looks everywhere.
        on_progress: is told how many runs have been read, and of how many.
    """

    files: Sequence[Path]
    experiment_names: Sequence[str] = ()
    on_progress: Progress | None = None

    def experiments(self) -> list[str]:
        """Returns the names of the experiments that have a run.

        Raises:
            ParquetMissingError: a package is not installed.
            InvalidInputError: a file is none of ours, or an experiment is in none of them.
        """
        found = [name for (name,) in self._asked("SELECT DISTINCT experiment", "ORDER BY 1")]
        for name in self.experiment_names:
            if name not in found:
                have = ", ".join(map(repr, found[:5]))
                raise InvalidInputError(
                    f"No experiment {name!r} in the files; they have {have}.",
                    arguments=["experiment"],
                )
        return list(self.experiment_names) or found

    def ways(self, wanted: Wanted) -> Iterator[Callable[[], Iterator[StoredRun]]]:
        """Yields the one way to read the runs."""
        yield partial(self._runs, wanted)

    def _runs(self, wanted: Wanted) -> Iterator[StoredRun]:
        """Yields the metered runs; an experiment's name stands for its id."""
        chosen = set(self.experiments())
        ((num_rows,),) = self._asked("SELECT count(*)")
        seen: set[str] = set()
        asked = self._asked(f"SELECT {', '.join(COLUMNS)}")
        for num_read, row in enumerate(asked, start=1):
            run_id, name, experiment, status, start_ms, end_ms, metrics, params, tags = row
            if self.on_progress is not None:
                self.on_progress(num_read, num_rows)
            if run_id in seen or experiment not in chosen or keys.TAG_SCHEMA not in tags:
                continue
            seen.add(run_id)
            figure_tags = {key: tags.pop(key) for key in FIGURE_TAGS if key in tags}
            yield StoredRun(
                run_id,
                name,
                experiment,
                status,
                metrics,
                wanted.params_of(params),
                tags,
                figure_tags,
                start_ms,
                end_ms,
            )

    def _asked(self, select: str, order: str = "") -> Iterator[tuple[Any, ...]]:
        """Yields the rows that DuckDB finds in the files, in batches of flat memory."""
        require_parquet()
        import duckdb

        for path in self.files:
            if not path.is_file():
                raise InvalidInputError(
                    f"No file {str(path)!r}. `mlflow-carbon export --out {path.name}` writes one.",
                    arguments=["from_parquet"],
                )
        # extensions are neither fetched nor loaded: no socket is opened
        settings: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        names = [str(path) for path in self.files]
        with duckdb.connect(config=settings) as database:
            try:
                found = database.execute(f"{select} FROM read_parquet(?) {order}", [names])
                while batch := found.fetchmany(ROWS_PER_BATCH):
                    yield from batch
            except duckdb.Error as error:
                raise InvalidInputError(
                    f"{', '.join(names)} cannot be read as exported runs: "
                    f"{str(error).splitlines()[0]}",
                    arguments=["from_parquet"],
                ) from error


def require_parquet() -> None:
    """Checks that the packages are installed, without importing them.

    Raises:
        ParquetMissingError: one is not; the message says how to install it.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ParquetMissingError(
            f"Parquet files need {' and '.join(missing)}: pip install 'mlflow-carbon[parquet]'."
        )


def _row(run: StoredRun, experiment_names_by_id: Mapping[str, str]) -> tuple[Any, ...]:
    """Returns the values of ``COLUMNS``."""
    metrics = {key: it for key, it in run.metrics.items() if key.startswith(keys.METRIC_PREFIX)}
    return (
        run.run_id,
        run.name,
        experiment_names_by_id[run.experiment_id],
        run.status,
        run.start_ms,
        run.end_ms,
        list(metrics.items()),
        list(run.params.items()),
        list({**run.tags, **run.figure_tags}.items()),
    )
