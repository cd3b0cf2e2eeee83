"""MLflow's local project backend, with two things that a project may ask for.

A project asks by a top-level key of its MLproject, which MLflow itself ignores::

    mlflow_carbon:
      without_conda: current_environment
      experiment: NAME

With the first, ``mlflow run`` uses the environment it was started from where conda is missing,
instead of failing and leaving a run in RUNNING. With the second, runs go to that experiment where
the user of ``mlflow run`` names none. Every other project gets MLflow's own behaviour.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import mlflow
import yaml
from mlflow.environment_variables import MLFLOW_EXPERIMENT_ID, MLFLOW_EXPERIMENT_NAME
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from mlflow_carbon.tracking import mlflow_seams

OPT_IN_KEY = "mlflow_carbon"
OPT_IN_SETTING = "without_conda"
OPT_IN_VALUE = "current_environment"
EXPERIMENT_SETTING = "experiment"
ACTIVE = "active"  # the lifecycle stage of an experiment that is not deleted
CONDA_ENVIRONMENT = "conda_env"  # the key of an MLproject that asks for one
CURRENT_ENVIRONMENT = "local"  # `mlflow run --env-manager local`


class CurrentEnvironmentBackend(AbstractBackend):
    """Runs a project as MLflow does, in the current environment where it opted in."""

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
        """Runs one entry point; see ``AbstractBackend.run`` for the arguments."""
        experiment_id = own_experiment(project_uri, experiment_id, tracking_uri)
        run_as_mlflow_does: Callable[..., SubmittedRun] = mlflow_seams.local_backend().run
        manager_key = mlflow_seams.environment_manager_key()
        arguments = (entry_point, params, version, backend_config, tracking_uri, experiment_id)
        asked_for = backend_config.get(manager_key)
        if asked_for not in (None, CURRENT_ENVIRONMENT) or (asked_for is None and _has_conda()):
            return run_as_mlflow_does(project_uri, *arguments)
        work_dir = Path(mlflow_seams.fetch_project(project_uri, version, entry_point, params))
        if not opts_in(work_dir):
            return run_as_mlflow_does(project_uri, *arguments)
        if asked_for is None:
            print(
                f"mlflow-carbon: conda is not installed; running in the current environment "
                f"({sys.prefix}), as this project's MLproject asks.",
                file=sys.stderr,
            )
            backend_config[manager_key] = CURRENT_ENVIRONMENT
        with _current_python_first(), _absolute_sqlite_uri():
            return run_as_mlflow_does(project_uri, *arguments)


def opts_in(work_dir: Path) -> bool:
    """Returns whether the project asks to run in the current environment where conda is missing."""
    content = _project_file(work_dir)
    return _wishes(content).get(OPT_IN_SETTING) == OPT_IN_VALUE and CONDA_ENVIRONMENT in content


def own_experiment(project_uri: str, experiment_id: str, tracking_uri: str) -> str:
    """Returns the experiment that a local project asks for, made if need be.

    Args:
        project_uri: where the project is; one that is not on this machine asks for none.
        experiment_id: MLflow's choice, which stays where the user has named an experiment.
        tracking_uri: of the store.
    """
    name = _wishes(_project_file(Path(project_uri))).get(EXPERIMENT_SETTING)
    if name is None or is_experiment_named():
        return experiment_id
    client = mlflow.MlflowClient(tracking_uri)
    known = client.get_experiment_by_name(str(name))
    if known is None:
        return str(client.create_experiment(str(name)))
    if known.lifecycle_stage == ACTIVE:
        return str(known.experiment_id)
    print(
        f"mlflow-carbon: experiment {name!r} is deleted; the run goes to another.", file=sys.stderr
    )
    return experiment_id


def is_experiment_named() -> bool:
    """Returns whether the user of ``mlflow run`` has named an experiment or a run.

    Code that calls ``mlflow.projects.run`` has chosen: MLflow then decides.
    """
    if MLFLOW_EXPERIMENT_ID.get() or MLFLOW_EXPERIMENT_NAME.get():
        return True
    context = click.get_current_context(silent=True)
    if context is None:
        return True
    return any(context.params.get(name) for name in ("experiment_name", "experiment_id", "run_id"))


def _project_file(work_dir: Path) -> dict[str, Any]:
    """Returns the content of a folder's MLproject; empty where there is none."""
    path = work_dir / "MLproject"
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    return content if isinstance(content, dict) else {}


def _wishes(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings in an MLproject that are for this backend."""
    wishes = content.get(OPT_IN_KEY)
    return wishes if isinstance(wishes, dict) else {}


def _has_conda() -> bool:
    return shutil.which(mlflow_seams.conda_executable()) is not None


@contextmanager
def _current_python_first() -> Iterator[None]:
    """Makes the ``python`` of an entry point this one, also where its venv was never activated."""
    previous = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), previous])
    try:
        yield
    finally:
        os.environ["PATH"] = previous


@contextmanager
def _absolute_sqlite_uri() -> Iterator[None]:
    """Lets the entry point, which runs in the project's folder, find a store named relatively."""
    uri = mlflow.get_tracking_uri()
    scheme = "sqlite:///"
    if not uri.startswith(scheme) or uri.startswith(scheme + "/"):
        yield
        return
    mlflow.set_tracking_uri(scheme + str(Path(uri.removeprefix(scheme)).resolve()))
    try:
        yield
    finally:
        mlflow.set_tracking_uri(uri)
