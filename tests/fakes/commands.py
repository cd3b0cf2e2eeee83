"""The project's commands as a test calls them: by their parameters, through the door."""

from ldm_project.config import RunConfig
from ldm_project.runs import commands
from ldm_project.settings import settings_of


def run_command(config: RunConfig) -> list[str]:
    """Runs the command of some parameters; returns its lines."""
    return commands.run_command(settings_of(config))
