"""MLflow's project backend ``carbon``: waits for the start of least CO2e, then runs locally."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import RunStatus
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from mlflow_carbon.accounting.start_plan import StartPlan
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.grid.wait_settings import WaitSettings
from mlflow_carbon.project_backend import CurrentEnvironmentBackend, own_experiment
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.waiting import (
    DayClock,
    WaitingClock,
    digest_of,
    last_duration_s,
    note_saving,
    tags_of,
    wait_for_start,
)

FINISHED, FAILED = "FINISHED", "FAILED"


class CarbonBackend(AbstractBackend):
    """Runs a project as ``mlflow run`` does on this machine, once its electricity is cleanest."""

    def __init__(self, clock: WaitingClock | None = None, folder: Path | None = None) -> None:
        """Prepares a backend; MLflow passes no argument.

        Args:
            clock: tells the time; ``None`` for this machine's.
            folder: of chosen starts; ``None`` for the usual one.
        """
        self._clock = DayClock() if clock is None else clock
        self._folder = folder

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: dict[str, Any],
        version: str | None,
        backend_config: dict[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> SubmittedRun:
        """Waits, then runs one entry point to its end; see ``AbstractBackend.run``.

        MLflow does not wait for the runs of a plugin's backend on its command line, so this does.

        Raises:
            ExecutionException: a setting is wrong, or the entry point failed.
        """
        mlflow_seams.fetch_project(project_uri, version, entry_point, params)  # or fails, now
        experiment_id = own_experiment(project_uri, experiment_id, tracking_uri)
        is_local = "://" not in project_uri
        project = str(Path(project_uri).resolve()) if is_local else project_uri
        command = digest_of(project, version, entry_point, params)
        try:
            settings = WaitSettings.from_config(_own_settings(backend_config), os.environ)
            plan = wait_for_start(
                settings,
                command=command,
                last_duration_s=lambda: last_duration_s(MlflowClient(), experiment_id, command),
                say=_say,
                clock=self._clock,
                folder=self._folder,
            )
        except MlflowCarbonError as error:
            raise ExecutionException(f"backend carbon: {error}") from error
        is_awaited = backend_config[mlflow_seams.synchronous_key()]
        config = {**_mlflow_settings(backend_config), mlflow_seams.synchronous_key(): True}
        submitted = CurrentEnvironmentBackend().run(
            project_uri, entry_point, params, version, config, tracking_uri, experiment_id
        )
        _run_to_its_end(submitted, plan, command, is_awaited=is_awaited)
        return submitted


def _run_to_its_end(
    submitted: SubmittedRun, plan: StartPlan, command: str, *, is_awaited: bool
) -> None:
    """Waits for a started run, and notes on it what its wait has saved.

    Args:
        submitted: that was started.
        plan: by which it started.
        command: digest of the work.
        is_awaited: whether MLflow reports the end of the run.

    Raises:
        ExecutionException: the run failed, and MLflow would not say so.
    """
    client, run_id = MlflowClient(), submitted.run_id
    for key, value in tags_of(plan, command).items():
        client.set_tag(run_id, key, value)
    try:
        has_succeeded = submitted.wait()
    except KeyboardInterrupt:
        submitted.cancel()
        _end(client, run_id, FAILED)
        raise
    note_saving(client, run_id, plan)
    if is_awaited:
        return
    _end(client, run_id, FINISHED if has_succeeded else FAILED)
    if not has_succeeded:
        raise ExecutionException(f"Run (ID '{run_id}') failed")


def _end(client: MlflowClient, run_id: str, status: str) -> None:
    """Closes a run that the entry point has not closed itself."""
    if not RunStatus.is_terminated(client.get_run(run_id).info.status):
        client.set_terminated(run_id, status)


def _own_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that are not those that MLflow adds."""
    others = mlflow_seams.project_setting_keys()
    return {name: value for name, value in config.items() if not _is_mlflows(name, others)}


def _mlflow_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    others = mlflow_seams.project_setting_keys()
    return {name: value for name, value in config.items() if _is_mlflows(name, others)}


def _is_mlflows(name: str, others: frozenset[str]) -> bool:
    return name in others or name.startswith("_")


def _say(sentence: str) -> None:
    print(f"mlflow-carbon: {sentence}", file=sys.stderr, flush=True)
