"""Where the project keeps what it can make again: the states of unfinished trainings."""

import os
from pathlib import Path

CACHE_VARIABLE = "LDM_PROJECT_CACHE"
DEFAULT_CACHE = "~/.cache/ldm_project"


def cache_folder() -> Path:
    """Returns the folder that ``LDM_PROJECT_CACHE`` names, else one in the user's home."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()
