"""The cache folder: downloads, crops, latents, and the states of unfinished trainings."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from ldm_project.errors import CacheError

CACHE_VARIABLE = "LDM_PROJECT_CACHE"
DEFAULT_CACHE = "~/.cache/ldm_project"


def cache_folder() -> Path:
    """Returns the folder that ``LDM_PROJECT_CACHE`` names, else one in the user's home."""
    return Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE).expanduser()


@contextmanager
def filled_alone(folder: Path) -> Iterator[None]:
    """Makes a folder, and lets one process at a time into the block that fills it.

    Raises:
        CacheError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire()
    except OSError as error:
        raise CacheError(
            f"Cannot fill {folder}: {error}. Name another folder by {CACHE_VARIABLE}."
        ) from error
    try:
        yield
    finally:
        lock.release()
