"""Finished metered runs of a tracking store, as one tidy frame."""

import gc
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.contract.run_summary import RunSummary, SummaryReader
from mlflow_carbon.errors import (
    BadRecordError,
    InvalidInputError,
    NoRunsError,
)
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.experiments import experiment_names_by_id
from mlflow_carbon.store.exported import ExportedRuns, write_runs
from mlflow_carbon.store.reflected import UnknownTablesError
from mlflow_carbon.store.run_columns import NUMBER_COLUMNS as NUMBER_COLUMNS
from mlflow_carbon.store.run_columns import PARAM_COLUMN_PREFIX as PARAM_COLUMN_PREFIX
from mlflow_carbon.store.run_columns import TAG_COLUMN_PREFIX as TAG_COLUMN_PREFIX
from mlflow_carbon.store.run_columns import RunColumns
from mlflow_carbon.store.run_columns import methods as methods
from mlflow_carbon.store.run_columns import unquoted as unquoted
from mlflow_carbon.store.run_columns import words_of as words_of
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.store.run_source import RunSource
from mlflow_carbon.store.stored_runs import Progress, Scope, StoredRun, Wanted

_logger = logging.getLogger("mlflow.carbon")

_NUM_FAULTS_TOLD = 5
_WAY_OUT = (
    "Meter runs with mlflow_carbon.track(), or name another experiment; --all-experiments reads "
    "every one."
)

Cell = str | float | None

INCLUDED = {"failed": ("FAILED", "KILLED"), "running": ("RUNNING", "SCHEDULED")}
PARTIAL = "partial"  # unfinished runs of any status, as a process that was killed leaves RUNNING


def read_runs(
    client: MlflowClient,
    *,
    experiment_names: Sequence[str],
    include: Collection[str] = (),
    filter_string: str = "",
    names: Collection[str] | None = None,
    group_by: Collection[str] | None = None,
    is_direct: bool = True,
    on_progress: Progress | None = None,
) -> pd.DataFrame:
    """Reads the finished metered runs of experiments, one row each.

    Columns: ``TEXT_COLUMNS``, ``NUMBER_COLUMNS`` (kWh, s, g as their names say; NaN where the
    run has no such value), and parameters and tags as ``params.<name>``, ``tags.<name>``.
    ``scope`` is ``parent`` for a run whose energy contains that of metered children, whether the
    run is tagged so or only its children name it.

    A run with an impossible figure (infinite energy, a PUE below 1) is left out, and named.

    Args:
        client: of the store.
        experiment_names: where to look; none looks everywhere.
        include: ``failed``, ``running`` or ``partial`` (both): unfinished runs too, without a total
            by the sum of their windows as a lower bound of their energy.
        filter_string: what the runs must fit, in MLflow's syntax.
        names: of the parameters and tags to read; ``None`` reads all, as does a name that no run
            has, so that an error can tell those there are.
        group_by: keys of a comparison, which needs all parameters and all tags of the user, but of
            those that programs write only a few, and these.
        is_direct: whether to read the tables of a database, where they are known; the same runs
            come from MLflow's search, only later.
        on_progress: is told how many runs have been read, and of how many where that is known.

    Raises:
        InvalidInputError: MLflow cannot read the filter, or ``include`` names something else.
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: no metered run of these experiments is finished, or none can be read.
    """
    statuses = _included_statuses(include)
    with store_errors(client):
        names_by_id = experiment_names_by_id(client, experiment_names)
        scope = Scope(list(names_by_id))
        source = RunSource(client, scope, filter_string, is_direct, on_progress)
        wanted = Wanted.of(names) if group_by is None else Wanted.for_groups(group_by)
        found = _found(source, wanted, statuses)
        if names is not None and not found.columns.has_all(names):
            found = _found(source, Wanted(), statuses)
    listed = ", ".join(repr(name) for name in names_by_id.values())
    if len(names_by_id) > _NUM_FAULTS_TOLD:
        listed = f"any of {len(names_by_id)}"
    _tell(found, listed)
    return found.columns.frame(names_by_id, found.parent_run_ids)


def read_exported_runs(
    files: Sequence[Path],
    *,
    experiment_names: Sequence[str] = (),
    group_by: Collection[str] = (),
    on_progress: Progress | None = None,
) -> pd.DataFrame:
    """Reads the finished metered runs of exported files, as ``read_runs`` does those of a store.

    Args:
        files: that ``export_runs`` wrote, of one store or many; a run in several counts once.
        experiment_names: where to look; none looks everywhere.
        group_by: keys of a comparison.
        on_progress: is told how many runs have been read, and of how many.

    Raises:
        ParquetMissingError: a package that reads such files is not installed.
        InvalidInputError: a file cannot be read, or has no such experiment.
        NoRunsError: no metered run is finished, or none can be read.
    """
    source = ExportedRuns(files, experiment_names, on_progress)
    names = source.experiments()
    found = _found(source, Wanted.for_groups(group_by), ())
    _tell(found, ", ".join(map(repr, names[:_NUM_FAULTS_TOLD])))
    return found.columns.frame({name: name for name in names}, found.parent_run_ids)


def export_runs(
    client: MlflowClient,
    path: Path,
    *,
    experiment_names: Sequence[str],
    filter_string: str = "",
    on_progress: Progress | None = None,
) -> int:
    """Writes the metered runs of experiments to a Parquet file; returns how many.

    Args:
        client: of the store.
        path: of the file, which appears once it is whole.
        experiment_names: where to look; none looks everywhere.
        filter_string: what the runs must fit, in MLflow's syntax.
        on_progress: is told how many runs have been read, and of how many where that is known.

    Raises:
        ParquetMissingError: a package that writes such files is not installed.
        InvalidInputError: MLflow cannot read the filter, or the file cannot be written.
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: there is no metered run; no file is written, and one that is there stays.
    """
    with store_errors(client):
        names_by_id = experiment_names_by_id(client, experiment_names)
        source = RunSource(client, Scope(list(names_by_id)), filter_string, on_progress=on_progress)
        for each_run in source.ways(Wanted()):
            try:
                num_runs = write_runs(path, each_run(), names_by_id)
            except UnknownTablesError as error:
                _logger.debug("The tables of the store are not read directly: %s", error)
                continue
            if not num_runs:
                raise NoRunsError(_none_to_export(experiment_names, filter_string))
            return num_runs
    raise AssertionError("MLflow's way never raises UnknownTablesError")


def _included_statuses(include: Collection[str]) -> set[str]:
    """Returns the statuses of the unfinished runs to include."""
    unknown = [name for name in include if name not in (*INCLUDED, PARTIAL)]
    if unknown:
        raise InvalidInputError(
            f"include is {unknown[0]!r}; give {', '.join(INCLUDED)} or {PARTIAL}.",
            arguments=["include"],
        )
    names = INCLUDED if PARTIAL in include else include
    return {status for name in names for status in INCLUDED[name]}


@dataclass
class _Found:
    """Runs as they are read, and what is to be said of those that are left out."""

    columns: RunColumns
    reader: SummaryReader = field(default_factory=SummaryReader)
    parent_run_ids: set[str | None] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    num_metered: int = 0
    num_finished: int = 0
    num_unfinished_added: int = 0
    num_partial: int = 0

    def add(self, run: StoredRun) -> bool:
        """Takes a run if it is finished; returns whether it is."""
        self.num_metered += 1
        # A failed child is still inside its parent's energy, so unfinished children count here.
        self.parent_run_ids.add(run.tags.get(MLFLOW_PARENT_RUN_ID))
        if run.status != "FINISHED":
            return False
        self.num_finished += 1
        try:
            summary = self.reader.read(run.run_id, run.metrics, run.tags, run.figure_tags)
        except BadRecordError as error:
            self.faults.append(error.reason)
        else:
            self.columns.add(run, summary)
        return True

    def add_partial(self, client: MlflowClient, run_id: str) -> None:
        """Takes an unfinished run by its windows, if it has any."""
        run = client.get_run(run_id)
        try:
            record = read_record(client, run, has_components=False).or_lower_bound()
        except BadRecordError as error:
            self.faults.append(error.reason)
            return
        if record.total is not None and record.total.energy_kwh is not None:
            self.num_unfinished_added += 1
            self.num_partial += record.is_partial
            self.columns.add(StoredRun.of(run), RunSummary.of(record))


def _found(source: RunSource | ExportedRuns, wanted: Wanted, statuses: Collection[str]) -> _Found:
    """Returns the runs of the store, read from its tables or, if that fails, by MLflow.

    Args:
        source: of the runs.
        wanted: parameters and tags.
        statuses: of the unfinished runs to include.
    """
    for each_run in source.ways(wanted):
        found, unfinished = _Found(RunColumns(wanted)), []
        try:
            with _uncollected():
                for run in each_run():
                    if not found.add(run) and run.status in statuses:
                        unfinished.append(run.run_id)
        except UnknownTablesError as error:
            _logger.debug("The tables of the store are not read directly: %s", error)
            continue
        if isinstance(source, RunSource):  # a file has no windows to sum up
            for run_id in unfinished:
                found.add_partial(source.client, run_id)
        return found
    raise AssertionError("MLflow's way never raises UnknownTablesError")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Lets no garbage be looked for: a million texts are read, and none is in a cycle."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _tell(found: _Found, listed: str) -> None:
    """Says which runs are partial or left out.

    Raises:
        NoRunsError: none is left.
    """
    num_compared = found.num_finished + found.num_unfinished_added
    num_unfinished = found.num_metered - num_compared
    if found.num_partial:
        _logger.warning(
            "%d of %d runs in the comparison are partial: their energy is a lower bound.",
            found.num_partial,
            num_compared,
        )
    if not num_compared:
        raise NoRunsError(_none_finished(listed, num_unfinished))
    if not len(found.columns):
        raise NoRunsError(
            f"No metered run in experiment {listed} can be read: {told(found.faults)}"
        )
    if num_unfinished:
        _logger.warning(
            "Left out %d of %d metered runs in %s: not finished.",
            num_unfinished,
            found.num_metered,
            listed,
        )
    if found.faults:
        _logger.warning("Left out %s", told(found.faults))


def _none_to_export(experiment_names: Sequence[str], filter_string: str) -> str:
    """Returns the error for a store that has no metered run to export."""
    where = f" in experiment {', '.join(map(repr, experiment_names))}" if experiment_names else ""
    fitting = f" that fits {filter_string!r}" if filter_string else ""
    return f"No metered run{where}{fitting}, so nothing was written. {_WAY_OUT}"


def _none_finished(listed: str, num_unfinished: int) -> str:
    """Returns the error for a store or a file that has no finished metered run."""
    where = f" in experiment {listed}" if listed else ""
    if num_unfinished:
        runs = "run is" if num_unfinished == 1 else "runs are"
        return (
            f"No finished metered run{where}; {num_unfinished} metered {runs} not finished, which "
            "`compare --include failed,running` reads, too."
        )
    return f"No metered run{where}. {_WAY_OUT}"


def told(faults: Sequence[str]) -> str:
    """Lists the first few faults, and the number of further ones."""
    rest = len(faults) - _NUM_FAULTS_TOLD
    more = [f"and {rest} more"] if rest > 0 else []
    return "; ".join([*faults[:_NUM_FAULTS_TOLD], *more]) + "."


def visibility_notice(client: MlflowClient, num_runs: int) -> str | None:
    """Returns a notice of how many runs a server showed this user; ``None`` without a server."""
    if not client.tracking_uri.startswith(("http://", "https://")):
        return None
    runs_word = "run" if num_runs == 1 else "runs"
    return f"The server let you see {num_runs} finished metered {runs_word} of these experiments."
