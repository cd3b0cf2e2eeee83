"""Figures on their way to a tracking store, kept in a local file until the store has them."""

import json
import os
import uuid
from dataclasses import astuple, dataclass, field
from pathlib import Path
from urllib.parse import quote

from mlflow_carbon.recording.process_identity import lock, this_process
from mlflow_carbon.redaction import without_credentials

JOURNAL_DIR_VARIABLE = "MLFLOW_CARBON_JOURNAL_DIR"
SUFFIX = ".journal.jsonl"
MARK_SUFFIX = ".shared"  # of an empty file beside a journal, see neighbours.py
_MAX_NAME_CHARS = 200  # of a run's id in a file's name
_NUM_DIGITS = 8  # that tell the journals of one run apart
OWN_FOLDER = "mlflow-carbon"
_ONLY_OWNER_FOLDER, _ONLY_OWNER_FILE = 0o700, 0o600


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


def journal_dir() -> Path:
    """Returns the folder of journals: as the variable says, else in the user's state folder."""
    if chosen := os.environ.get(JOURNAL_DIR_VARIABLE):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / OWN_FOLDER


class Journal:
    """The file of one run's batches, which is removed once all of them are delivered.

    Only its user may read or write the file, and it stays locked while its process lives.
    """

    def __init__(self, folder: Path, *, run_id: str, tracking_uri: str) -> None:
        """Creates the file.

        Raises:
            OSError: the folder cannot be written.
        """
        _make_private(folder)
        self._path = folder / f"{name_of(run_id)}-{uuid.uuid4().hex[:_NUM_DIGITS]}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
        self._file: int | None = os.open(self._path, flags, _ONLY_OWNER_FILE)
        self.is_whole = True  # whether every record was written
        process = this_process()
        self._write(
            {
                "run_id": run_id,
                "tracking_uri": without_credentials(tracking_uri),
                "machine": process.machine,
                "process": [process.pid, process.create_time_s],
                "boot": process.boot,
                "start_ticks": process.start_ticks,
                "is_locked": lock(self._file),
            }
        )

    @property
    def path(self) -> Path:
        """The file, which exists until all is delivered."""
        return self._path

    def append(self, batch: Batch) -> None:
        """Adds a batch to deliver.

        Raises:
            OSError: the write failed, as on a full disk; from then on the journal takes no more.
        """
        self._write({"points": [astuple(point) for point in batch.points], "tags": batch.tags})

    def mark_delivered(self, num_batches: int) -> None:
        """Notes that the first ``num_batches`` undelivered batches have been delivered.

        Raises:
            OSError: as for ``append``.
        """
        self._write({"delivered": num_batches})

    def close(self, *, is_delivered: bool) -> None:
        """Closes the file, and removes it if nothing is left to deliver.

        Raises:
            OSError: the file cannot be closed or removed.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        if is_delivered:
            self._path.unlink(missing_ok=True)  # before the lock is gone
            self._path.with_name(self._path.name + MARK_SUFFIX).unlink(missing_ok=True)
        os.close(file)

    def _write(self, record: dict[str, object]) -> None:
        """Hands a line to the kernel, so that it survives if the process is killed."""
        if self._file is None or not self.is_whole:
            return
        left = f"{json.dumps(record)}\n".encode()
        self.is_whole = False
        while left:
            left = left[os.write(self._file, left) :]
        self.is_whole = True


def name_of(run_id: str) -> str:
    """Returns how the names of a run's journals begin: as its id, if MLflow made that.

    Any other id is written so that it leads to no other folder, and matches no other run's.
    """
    return quote(run_id, safe="")[:_MAX_NAME_CHARS]


def run_id_of(path: Path) -> str:
    """Returns the run that a journal's name tells, without a look into the file."""
    return path.name.removesuffix(SUFFIX)[: -_NUM_DIGITS - len("-")]


def _make_private(folder: Path) -> None:
    """Creates the folder for its user alone; closes an earlier release's folder to others."""
    if not folder.is_dir():
        folder.mkdir(mode=_ONLY_OWNER_FOLDER, parents=True, exist_ok=True)
    elif folder.name == OWN_FOLDER and folder.stat().st_mode & ~_ONLY_OWNER_FOLDER & 0o777:
        try:
            folder.chmod(_ONLY_OWNER_FOLDER)
        except OSError:  # another user's folder; the files are closed to others anyway
            return
