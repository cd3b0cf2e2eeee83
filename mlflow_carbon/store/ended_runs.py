"""The newest metered runs that have ended, also where MLflow's search refuses one among them."""

import logging

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus

from mlflow_carbon.contract import keys
from mlflow_carbon.store.listing import newest_runs
from mlflow_carbon.store.reflected import UnknownTablesError, reads_database, reflected_runs
from mlflow_carbon.store.stored_runs import Scope, StoredRun, Wanted

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

_ENDED = f"tags.`{keys.TAG_SCHEMA}` LIKE '%' AND attributes.status != 'RUNNING'"
_RUNNING = RunStatus.to_string(RunStatus.RUNNING)
_NUM_NAMED = 3  # runs that a warning lists


def newest_ended_runs(
    client: MlflowClient,
    experiment_ids: list[str],
    *,
    name: str | None,
    name_filter: str,
    max_runs: int,
) -> list[Run]:
    """Returns the runs that started last of those that have ended, the newest first.

    One run without a start makes MLflow refuse all runs that it finds with it; the tables of a
    database then tell the others.

    Args:
        client: of the store.
        experiment_ids: where to look.
        name: of the runs; ``None`` takes all.
        name_filter: the same for MLflow's search; empty takes all.
        max_runs: how many, at most.

    Raises:
        Exception: whatever the store raises, if its tables cannot be read.
    """
    asked = " AND ".join(filter(None, [_ENDED, name_filter]))
    try:
        return newest_runs(client, experiment_ids, asked, max_runs=max_runs)
    except Exception:  # a run's, MLflow's or the database's: what its tables hold tells which
        ended = [run for run in _ended(client, experiment_ids) if name in (None, run.name)]
        startless = [run.run_id for run in ended if run.start_ms is None]
        if not startless:
            raise
    _warn_of(startless)
    started = [run for run in ended if run.start_ms is not None]
    started.sort(key=_start_ms, reverse=True)
    return [client.get_run(run.run_id) for run in started[:max_runs]]


def _ended(client: MlflowClient, experiment_ids: list[str]) -> list[StoredRun]:
    """Returns the metered runs that have ended; none where the tables cannot be read."""
    uri = str(client.tracking_uri)
    if not reads_database(uri):
        return []
    try:
        found = list(reflected_runs(uri, Scope(experiment_ids), Wanted(params=(), tags=())))
    except UnknownTablesError:
        return []
    return [run for run in found if run.status != _RUNNING]


def _warn_of(run_ids: list[str]) -> None:
    more = f" and {len(run_ids) - _NUM_NAMED} more" if len(run_ids) > _NUM_NAMED else ""
    _logger.warning(
        "Left out without a start_time, which MLflow needs: run %s%s. Its owner can correct or "
        "delete it.",
        ", ".join(run_ids[:_NUM_NAMED]),
        more,
    )


def _start_ms(run: StoredRun) -> int:
    return run.start_ms or 0
