"""When the models of ended runs get their emissions: at once, or those of many runs together."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient

from mlflow_carbon.recording.delivery import CLOSE_TIMEOUT_S
from mlflow_carbon.registry.run_models import record_models_of_runs, record_run_models
from mlflow_carbon.tracking.mlflow_seams import without_prompt_checks
from mlflow_carbon.tracking.patience import within

_logger = logging.getLogger("mlflow.carbon")

MAX_PUT_OFF = 100  # runs of one look-up


@dataclass(frozen=True)
class NewRun:
    """A run that this process has created, and has not seen a model of."""

    client: MlflowClient
    run_id: str
    experiment_id: str


class ModelLookups:
    """Puts off look-ups of models in runs where only another process can have made any.

    A look-up after each trial of a sweep would cost as much as writing the trial's figures.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._put_off: list[NewRun] = []

    def put_off(self, run: NewRun) -> None:
        """Looks for a run's models with those of others, when there are many or ``catch_up``."""
        with self._lock:
            self._put_off.append(run)
            is_full = len(self._put_off) >= MAX_PUT_OFF
        if is_full:
            self.catch_up()

    def catch_up(self) -> None:
        """Puts figures on the models of all runs that were put off."""
        with self._lock:
            runs, self._put_off = self._put_off, []
        by_store: dict[str, list[NewRun]] = {}
        for run in runs:
            by_store.setdefault(str(run.client.tracking_uri), []).append(run)
        for of_store in by_store.values():
            run_ids = [run.run_id for run in of_store]
            experiment_ids = sorted({run.experiment_id for run in of_store})
            client = without_prompt_checks(of_store[0].client)
            _in_time(run_ids, partial(record_models_of_runs, client, run_ids, experiment_ids))


def record_models(client: MlflowClient, run_id: str, experiment_id: str | None) -> None:
    """Puts a run's figures on its models; waits no longer for the store than a run may.

    Args:
        client: of the run's store.
        run_id: the metered run.
        experiment_id: where it is, if its windows are none of samples; then a run without models
            is told from one with models before it is read. ``None`` reads it.
    """
    client = without_prompt_checks(client)
    record = partial(record_run_models, client, run_id)
    if experiment_id is not None:
        record = partial(record_models_of_runs, client, [run_id], [experiment_id])
    _in_time([run_id], record)


def _in_time(run_ids: list[str], record: Callable[[], bool]) -> None:
    if within(CLOSE_TIMEOUT_S, record) is None:
        _logger.warning(
            "The models of run %s did not get their emissions in %g s; "
            "`mlflow-carbon tag-models --all` writes them.",
            ", ".join(run_ids),
            CLOSE_TIMEOUT_S,
        )
