"""Runs that other processes of this machine meter at the same time, told by their journals.

A journal exists, locked, while its run is metered, so it is also the sign that the run is there.
Who comes later leaves an empty file beside each journal found; its owner looks for that file.
Only processes that keep their journals in one folder see each other: those of one user.
"""

import os
from contextlib import suppress
from pathlib import Path

from mlflow_carbon.recording.journal import MARK_SUFFIX, SUFFIX, run_id_of
from mlflow_carbon.recording.left_journals import writer_of
from mlflow_carbon.recording.process_identity import machine_digest


class Neighbours:
    """The runs that other processes of this machine meter while one run's journal is open."""

    def __init__(self, journal: Path, run_id: str, parent_run_id: str | None) -> None:
        """Looks for them, and marks their journals.

        Args:
            journal: of the run; it must exist, so that whoever comes now sees it.
            run_id: the run.
            parent_run_id: its parent, which is no neighbour: its energy contains the run's.
        """
        self._mark = journal.with_name(journal.name + MARK_SUFFIX)
        self._has_found = _mark_others(journal, {run_id, parent_run_id})

    @property
    def are_there(self) -> bool:
        """Whether another process has metered another run meanwhile."""
        self._has_found = self._has_found or self._mark.exists()
        return self._has_found


def _mark_others(journal: Path, own_run_ids: set[str | None]) -> bool:
    """Marks the journals of other runs that other processes here meter; returns if any are."""
    has_found = False
    here = (machine_digest(), os.getpid())
    for path in journal.parent.glob(f"*{SUFFIX}"):
        if run_id_of(path) in own_run_ids:  # its own journal, too
            continue
        found = writer_of(path)
        if found is None or found.run_id in own_run_ids:
            continue
        machine, pid = here
        if found.process.machine == machine and found.process.pid != pid:
            has_found = True
            _touch(path.with_name(path.name + MARK_SUFFIX))
    return has_found


def _touch(path: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with suppress(OSError):  # it is there, or the folder cannot be written: ours is tagged anyway
        os.close(os.open(path, flags, 0o600))
