"""Array files that can be made again: an incomplete file counts as missing."""

import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from ldm_project.cache import CACHE_VARIABLE
from ldm_project.errors import CacheError

CHECKSUM_BYTES = 4  # CRC-32 of the file, appended after the array, where .npy readers never look


def is_whole(path: Path) -> bool:
    """Returns ``True`` if a file holds an array exactly as it was written."""
    try:
        content = np.memmap(path, dtype=np.uint8, mode="r").data
    except (OSError, ValueError):  # the file is missing or empty
        return False
    written = int.from_bytes(content[-CHECKSUM_BYTES:], "big")
    return zlib.crc32(content[:-CHECKSUM_BYTES]) == written


def open_array(path: Path) -> np.ndarray:
    """Returns the array of a complete file; only the parts in use are in memory."""
    array: np.ndarray = np.load(path, mmap_mode="c")  # torch warns about read-only arrays
    return array


def write_array(
    path: Path, parts: Iterable[np.ndarray], *, shape: tuple[int, ...], dtype: type[np.generic]
) -> None:
    """Writes an array part by part; other processes see the file only when it is complete.

    Args:
        path: of the file; only the user can read its folder, since images may be of patients.
        parts: the array, cut along its first axis; one of them is in memory at a time.
        shape: of the whole array.
        dtype: of its numbers.

    Raises:
        CacheError: the file cannot be written.
    """
    staging = path.with_name(f"{path.stem}.{uuid4().hex}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _write(staging, _file_contents(parts, shape, np.dtype(dtype)))
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    except OSError as error:
        raise CacheError(
            f"Cannot write {path}: {error}. Free disk space, or name another folder by "
            f"{CACHE_VARIABLE}; what lies there can be deleted and is made again."
        ) from error


def _write(path: Path, contents: Iterable[bytes]) -> None:
    checksum = 0
    with path.open("xb") as file:
        for content in contents:
            checksum = zlib.crc32(content, checksum)
            file.write(content)
        file.write(checksum.to_bytes(CHECKSUM_BYTES, "big"))


def _file_contents(
    parts: Iterable[np.ndarray], shape: tuple[int, ...], dtype: np.dtype
) -> Iterator[bytes]:
    """Yields the header of an .npy file, then its numbers."""
    header = BytesIO()
    described = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    write_array_header_1_0(header, described)
    yield header.getvalue()
    for part in parts:
        yield np.ascontiguousarray(part, dtype=dtype).tobytes()
