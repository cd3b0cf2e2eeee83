"""Journals that processes left behind, read without trust: every file and line is checked."""

import json
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import MAX_TIME_MS
from mlflow_carbon.recording.journal import SUFFIX, Batch, Point, name_of
from mlflow_carbon.recording.process_identity import (
    ProcessIdentity,
    is_alive,
    is_shared_folder,
    lock,
)

METRIC_PREFIX = "carbon/"
MAX_STEP = 2**63 - 1  # of MLflow's databases
MAX_LINE_BYTES = 64 * 2**20
MAX_FIGURE = 1e15  # of any metric here; no run can reach it, and sums of them stay finite
# What MLflow takes as the name of a metric or tag; another would hold back the whole journal.
_NAME = re.compile(r"[/\w.\- :]+")
MAX_NAME_CHARS = 250
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class LeftBehind:
    """A journal whose process is gone, with the batches that the store may lack.

    Attributes:
        path: of the file.
        run_id: the run of the figures.
        tracking_uri: of the run's store, without credentials.
        machine: digest of the process's machine; empty in journals of older releases.
        batches: those not marked as delivered; all of them if a line cannot be read, as that
            line may be such a mark.
        num_bad_lines: lines that cannot be read, or hold no figure of this package.
        may_live: whether the process ran on another machine and may still write to the journal.
    """

    path: Path
    run_id: str
    tracking_uri: str
    machine: str | None
    batches: tuple[Batch, ...]
    num_bad_lines: int = 0
    may_live: bool = False


@dataclass(frozen=True)
class Writer:
    """The process that writes to a journal now, and the run of its figures."""

    run_id: str
    process: ProcessIdentity


@dataclass(frozen=True)
class Living:
    """A journal that its process still writes to."""

    path: Path
    run_id: str


@dataclass(frozen=True)
class Unusable:
    """A file among the journals that is not a journal, or cannot be trusted."""

    path: Path
    reason: str


class _BadError(Exception):
    """A file or line is not as it should be; the message says why."""


def left_behind(folder: Path, *, run_id: str = "") -> Iterator[LeftBehind]:
    """Yields the journals of ended processes, oldest first, of one run or of all runs."""
    for found in journals(folder, run_id=run_id):
        if isinstance(found, LeftBehind):
            yield found


def journals(
    folder: Path,
    *,
    run_id: str = "",
    is_shared_folder: Callable[[Path], bool] = is_shared_folder,
) -> Iterator[LeftBehind | Living | Unusable]:
    """Yields every journal in a folder, oldest first, and any other file with a journal's name.

    A journal is locked until the next one is asked for.

    Args:
        folder: of journals.
        run_id: the run whose journals to yield; empty for all runs.
        is_shared_folder: tells whether other machines write to the folder too.
    """
    paths = []
    with suppress(OSError):
        paths = [path for path in folder.glob(f"{name_of(run_id)}*{SUFFIX}") if path.name != SUFFIX]
    is_shared = bool(paths) and is_shared_folder(folder)
    for path in sorted(paths, key=_modified_s):
        try:
            file = _open(path)
        except FileNotFoundError:  # another recovery was faster
            continue
        except (OSError, _BadError) as error:
            yield Unusable(path, _reason(error))
            continue
        try:
            found = _read(path, file, is_shared=is_shared)
            if found is not None:
                yield found
        finally:
            os.close(file)


def writer_of(path: Path) -> Writer | None:
    """Returns the writer of a journal; ``None`` without one, or if the file is no journal of ours.

    Reads the first line only.
    """
    try:
        file = _open(path)
    except (OSError, _BadError):
        return None
    try:
        with os.fdopen(os.dup(file), "rb") as stream:
            header = _record(stream.readline(MAX_LINE_BYTES))
        process = ProcessIdentity.read(header)
        if not is_alive(process, has_lock=lock(file), is_shared=False):
            return None
        return Writer(_text(header.get("run_id")), process)
    except (OSError, ValueError, _BadError):
        return None
    finally:
        os.close(file)


def _modified_s(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _open(path: Path) -> int:
    """Opens a regular file, not a link, that only this user owns and may write.

    Raises:
        OSError: the file cannot be opened.
        _BadError: it is no such file.
    """
    _check_file(path.lstat())  # opening a device or a FIFO may do something
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    file = os.open(path, flags)
    try:
        _check_file(os.fstat(file))
    except _BadError:
        os.close(file)
        raise
    return file


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _BadError("it is no regular file")
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise _BadError("it belongs to another user")
    if os.name == "posix" and status.st_mode & _WRITABLE_BY_OTHERS:
        raise _BadError("other users may write to it")


def _read(path: Path, file: int, *, is_shared: bool) -> LeftBehind | Living | Unusable | None:
    """Reads an open file as a journal; ``None`` if it is empty or gone."""
    has_lock = lock(file)
    try:
        if not os.fstat(file).st_nlink:  # another recovery has just sent and removed it
            return None
        with os.fdopen(os.dup(file), "rb") as stream:
            return _parsed(path, _lines(stream), has_lock=has_lock, is_shared=is_shared)
    except FileNotFoundError:
        return None
    except (OSError, _BadError, MemoryError) as error:
        return Unusable(path, _reason(error))


def _lines(stream: BinaryIO) -> list[bytes | None]:
    """Returns the lines of a file; ``None`` for one that is too long, which is not kept."""
    lines: list[bytes | None] = []
    while line := stream.readline(MAX_LINE_BYTES + 1):
        lines.append(line if len(line) <= MAX_LINE_BYTES else None)
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)
    return lines


def _parsed(
    path: Path, lines: list[bytes | None], *, has_lock: bool, is_shared: bool
) -> LeftBehind | Living | Unusable | None:
    if not lines:
        return None  # killed before it wrote anything
    header = _record(lines[0])
    run_id, tracking_uri = _text(header.get("run_id")), _text(header.get("tracking_uri"))
    if not _RUN_ID.fullmatch(run_id):
        raise _BadError("its first line names no run")
    try:
        writer = ProcessIdentity.read(header)
    except ValueError as error:
        raise _BadError(f"its first line is no journal's: {error}") from None
    is_living = is_alive(writer, has_lock=has_lock, is_shared=is_shared)
    if is_living:
        return Living(path, run_id)
    batches, num_bad_lines = _undelivered(lines[1:])
    return LeftBehind(
        path,
        run_id,
        tracking_uri,
        writer.machine,
        batches,
        num_bad_lines,
        may_live=is_living is None,
    )


def _undelivered(lines: list[bytes | None]) -> tuple[tuple[Batch, ...], int]:
    """Returns the batches that the store may lack, and the number of unreadable lines."""
    batches: list[Batch] = []
    num_delivered = num_bad_lines = 0
    for line in lines:
        try:
            record = _record(line)
            if "delivered" in record:
                num_delivered += _count(record["delivered"], len(batches) - num_delivered)
            else:
                batches.append(_batch(record))
        except _BadError:
            num_bad_lines += 1
    if num_bad_lines:  # sending twice changes nothing, a miscount loses figures
        return tuple(batches), num_bad_lines
    return tuple(batches[num_delivered:]), 0


def _record(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise _BadError("a line is too long")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise _BadError("its first line is no JSON") from None
    if not isinstance(record, dict):
        raise _BadError("its first line is no journal's")
    return record


def _batch(record: dict[str, Any]) -> Batch:
    points, tags = record.get("points"), record.get("tags")
    if not (isinstance(points, list) and isinstance(tags, dict)):
        raise _BadError("no points and tags")
    if not all(_is_name(key, keys.TAG_PREFIX) for key in tags):
        raise _BadError("a tag that is not ours")
    return Batch(
        tuple(_point(values) for values in points),
        {key: _text(value) for key, value in tags.items()},
    )


def _point(values: object) -> Point:
    match values:
        case [str(key), int() | float() as value, int(timestamp_ms), int(step)]:
            if not _is_name(key, METRIC_PREFIX):
                raise _BadError("a metric that is not ours")
            if isinstance(value, bool) or not 0 <= value <= MAX_FIGURE:  # false for NaN as well
                raise _BadError("a value that is none")
            return Point(
                key, float(value), _count(timestamp_ms, MAX_TIME_MS), _count(step, MAX_STEP)
            )
    raise _BadError("a point that is none")


def _is_name(key: str, prefix: str) -> bool:
    """Returns whether a key is one of ours, and MLflow takes it."""
    is_path = posixpath.normpath(key) == key
    is_ours = _text(key).startswith(prefix) and len(key) <= MAX_NAME_CHARS
    return is_ours and is_path and _NAME.fullmatch(key) is not None


def _count(value: object, highest: int) -> int:
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if not (is_number and isinstance(value, int) and 0 <= value <= highest):
        raise _BadError("a number that cannot be")
    return value


def _text(value: object) -> str:
    """Returns a text that every database accepts."""
    if not isinstance(value, str) or "\0" in value:
        raise _BadError("its first line is no journal's")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _BadError("a text that is none") from None
    return value


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
