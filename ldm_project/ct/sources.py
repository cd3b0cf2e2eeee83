"""Where ``data=`` leads: the files of a folder or glob, or of a public data set that is fetched."""

from collections.abc import Iterable
from glob import glob, has_magic
from pathlib import Path

from ldm_project.ct.decathlon import task_images
from ldm_project.ct.tcia import collection_files
from ldm_project.errors import DataError

DECATHLON_SCHEME, TCIA_SCHEME = "msd:", "tcia:"
# Of a collection, where no number is given: a whole one can have hundreds of gigabytes.
DEFAULT_NUM_SERIES = 20
# macOS writes such files beside others, under their names with this before them.
MACOS_PREFIX = "._"


def source_files(source: str) -> list[Path]:
    """Returns the files of a source in order; a public data set is downloaded when first asked.

    Args:
        source: ``msd:TASK``, ``tcia:COLLECTION`` or ``tcia:COLLECTION:NUMBER``; else a folder,
            whose folders count too, a glob, or a file.

    Raises:
        DataError: nothing is there, or it cannot be downloaded.
        CacheError: there is no place to download to.
    """
    if source.startswith(DECATHLON_SCHEME):
        return task_images(source.removeprefix(DECATHLON_SCHEME))
    if source.startswith(TCIA_SCHEME):
        return collection_files(*_collection(source))
    return _local_files(source)


def _collection(source: str) -> tuple[str, int]:
    """Returns a collection's name and how many of its series to take."""
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
