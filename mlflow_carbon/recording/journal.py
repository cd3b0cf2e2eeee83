"""Figures on their way to a tracking store, kept in a local file until the store has them."""

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import psutil

from mlflow_carbon.redaction import without_credentials

JOURNAL_DIR_VARIABLE = "MLFLOW_CARBON_JOURNAL_DIR"
SUFFIX = ".journal.jsonl"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric, as MLflow stores it; equal points are stored once."""

    key: str
    value: float
    timestamp_ms: int
    step: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Metrics and tags of one run that are written together."""

    points: tuple[Point, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftBehind:
    """A journal whose process is gone, and what of it the store may not have."""

    path: Path
    run_id: str
    tracking_uri: str  # without credentials
    machine: str | None  # digest of where its process ran; older releases do not say
    batches: tuple[Batch, ...]


def journal_dir() -> Path:
    """Returns the folder of journals: the variable's, else the user's state folder."""
    if chosen := os.environ.get(JOURNAL_DIR_VARIABLE):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "mlflow-carbon"


def machine_digest() -> str:
    """Returns what tells this machine from others without holding its name."""
    return hashlib.blake2b(platform.node().encode(), digest_size=8).hexdigest()


class Journal:
    """The file of one run's batches; it is gone once all of them are delivered."""

    def __init__(self, folder: Path, *, run_id: str, tracking_uri: str) -> None:
        """Creates the file.

        Raises:
            OSError: the folder cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{run_id}-{uuid.uuid4().hex[:8]}{SUFFIX}"
        self._file: TextIO | None = self._path.open("w", encoding="utf-8")
        process = psutil.Process()
        self._write(
            {
                "run_id": run_id,
                "tracking_uri": without_credentials(tracking_uri),
                "machine": machine_digest(),
                "process": [process.pid, process.create_time()],
            }
        )

    def append(self, batch: Batch) -> None:
        """Adds a batch that is to be delivered."""
        self._write({"points": [astuple(point) for point in batch.points], "tags": batch.tags})

    def mark_delivered(self, num_batches: int) -> None:
        """Notes that the first ``num_batches`` not yet delivered ones now are."""
        self._write({"delivered": num_batches})

    def close(self, *, is_delivered: bool) -> None:
        """Closes the file, and removes it where nothing is left to deliver."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        if is_delivered:
            self._path.unlink(missing_ok=True)

    def _write(self, record: dict[str, object]) -> None:
        if self._file is None:
            return
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()  # into the kernel: it outlives a killed process


def left_behind(folder: Path, *, run_id: str = "") -> Iterator[LeftBehind]:
    """Yields the journals of processes that have ended, oldest first: of one run, or of all."""
    paths = folder.glob(f"{run_id}*{SUFFIX}") if folder.is_dir() else ()
    for path in sorted(paths, key=lambda path: path.stat().st_mtime):
        records = list(_records(path))
        if not records or "run_id" not in records[0]:
            continue  # killed before its first line was whole: there is nothing in it
        header = records[0]
        if not _is_alive(*header["process"]):
            yield LeftBehind(
                path,
                header["run_id"],
                header["tracking_uri"],
                header.get("machine"),
                _undelivered(records[1:]),
            )


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the whole lines; a last one that was cut off is not there."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _undelivered(records: list[dict[str, Any]]) -> tuple[Batch, ...]:
    batches: list[Batch] = []
    num_delivered = 0
    for record in records:
        if "delivered" in record:
            num_delivered += record["delivered"]
        else:
            points = tuple(Point(*values) for values in record["points"])
            batches.append(Batch(points, record["tags"]))
    return tuple(batches[num_delivered:])


def _is_alive(pid: int, create_time_s: float) -> bool:
    try:
        return float(psutil.Process(pid).create_time()) == create_time_s
    except psutil.NoSuchProcess:
        return False
