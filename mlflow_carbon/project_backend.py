"""MLflow's local project backend, except that a project may ask to do without conda.

A project opts in by a top-level key of its MLproject, which MLflow itself ignores::

    mlflow_carbon:
      without_conda: current_environment

Then ``mlflow run`` uses the environment it was started from where conda is missing, instead of
failing and leaving a run in RUNNING. Every other project gets MLflow's own behaviour.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from mlflow_carbon.tracking import mlflow_seams

OPT_IN_KEY = "mlflow_carbon"
OPT_IN_SETTING = "without_conda"
OPT_IN_VALUE = "current_environment"
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
    project_file = work_dir / "MLproject"
    if not project_file.is_file():
        return False
    content = yaml.safe_load(project_file.read_text(encoding="utf-8"))
    settings = content.get(OPT_IN_KEY)
    return (
        isinstance(settings, dict)
        and settings.get(OPT_IN_SETTING) == OPT_IN_VALUE
        and CONDA_ENVIRONMENT in content
    )


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
