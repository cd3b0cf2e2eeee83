"""Chosen starts on disk, so that a wait goes on with its own after a restart."""

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mlflow_carbon.accounting.start_plan import StartPlan
from mlflow_carbon.recording.journal import journal_dir

FOLDER = "starts"


class KeptStart:
    """The file that holds the chosen start of one command, while the command waits."""

    def __init__(self, digest: str, folder: Path | None = None) -> None:
        """Names the file.

        Args:
            digest: of the command and its settings.
            folder: of all such files; ``None`` for the one beside the journals.
        """
        self.path = (folder or journal_dir() / FOLDER) / f"{digest}.json"

    def read(self, *, now_s: float) -> StartPlan | None:
        """Returns the earlier choice, its start passed or not; ``None`` after its deadline.

        Nobody else's file counts: it could make a command wait.
        """
        try:
            found = self.path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                return None
            plan = StartPlan(**json.loads(self.path.read_text(encoding="utf-8")))
            return plan if plan.deadline_s > now_s else None
        except (OSError, TypeError, ValueError):  # none, or of another release
            return None

    def write(self, plan: StartPlan) -> bool:
        """Keeps a start; returns whether that worked."""
        part = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.unlink(missing_ok=True)
            only_new = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # follows no link
            with os.fdopen(os.open(part, only_new, 0o600), "w", encoding="utf-8") as file:
                json.dump(asdict(plan), file)
            part.replace(self.path)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Forgets the start: the work begins."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
