"""The project's commands as a test calls them, by their parameters, and the runs that they left."""

from mlflow import MlflowClient
from mlflow.entities import Run

from ldm_project.config import RunConfig
from ldm_project.resolution import settings_of
from ldm_project.runs import commands


def run_command(config: RunConfig) -> list[str]:
    """Runs the command of some parameters; returns its lines."""
    return commands.run_command(settings_of(config))


def command_of(run: Run) -> str:
    """Returns the entry point that a run belongs to."""
    return str(run.data.tags["mlflow.project.entryPoint"])


def runs_of(command: str) -> list[Run]:
    """Returns a command's runs, the newest first; those of the settings of ``quality`` are not."""
    wanted = [
        run
        for run in MlflowClient().search_runs(["0"])
        if "ldm.quality_run_id" not in run.data.tags
    ]
    return [run for run in wanted if command_of(run) == command]
