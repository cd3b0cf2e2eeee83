"""Turns ``data=`` into files: of a folder, a glob, or a public data set (downloaded if needed)."""

from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from ldm_project.ct.decathlon import task_images
from ldm_project.ct.tcia import collection_files
from ldm_project.errors import DataError

DECATHLON_SCHEME, TCIA_SCHEME = "msd:", "tcia:"
# Series to take from a collection by default: all of them can be hundreds of gigabytes.
DEFAULT_NUM_SERIES = 20
# macOS puts this prefix on the metadata files that it writes beside other files.
MACOS_PREFIX = "._"


def source_files(source: str) -> list[Path]:
    """Returns the files of a source in order; downloads a public data set at first use.

    Args:
        source: ``msd:TASK``, ``tcia:COLLECTION`` or ``tcia:COLLECTION:NUMBER``; else a folder
            (with its subfolders), a glob, or a file.

    Raises:
        DataError: the source has no files, or cannot be downloaded.
        CacheError: the folder for the download cannot be made.
    """
    if source.startswith(DECATHLON_SCHEME):
        return task_images(source.removeprefix(DECATHLON_SCHEME))
    if source.startswith(TCIA_SCHEME):
        return collection_files(*_collection(source))
    return _local_files(source)


def _collection(source: str) -> tuple[str, int]:
    """Returns a collection's name and the number of its series to take."""
    name, _, number = source.removeprefix(TCIA_SCHEME).partition(":")
    if not number:
        return name, DEFAULT_NUM_SERIES
    if not number.isdecimal() or int(number) == 0:
        raise DataError(
            f"data={source}: {number!r} is no number of series; give tcia:{name}:20, or more."
        )
    return name, int(number)


def _local_files(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        found: Iterable[Path] = path.rglob("*")
    elif path.is_file():
        found = [path]
    elif has_magic(source):
        matched = [Path(match) for match in glob(str(path), recursive=True)]  # noqa: PTH207
        found = [
            file for match in matched for file in (match.rglob("*") if match.is_dir() else [match])
        ]
    else:
        raise DataError(f"No folder, file or glob {source!r}. Check data=, or use data=phantom.")
    files = sorted(
        file for file in set(found) if file.is_file() and not file.name.startswith(MACOS_PREFIX)
    )
    if not files:
        raise DataError(f"No file in {source!r}. Check data=, or use data=phantom.")
    return files
