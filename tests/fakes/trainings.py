"""How far a training has come that another process runs, told by the states that it leaves."""

import subprocess
import time
from pathlib import Path

from ldm_project.diffusion.training_states import load_training

PAUSE_S = 0.05  # between two looks at a folder


def iterations_done(states: Path) -> int:
    """Returns the iteration of the furthest state in a folder; 0 where there is none."""
    return max((load_training(path).values["iteration"] for path in states.glob("*.pt")), default=0)


def wait_for_iteration(process: subprocess.Popen, states: Path, iteration: int) -> None:
    """Returns once a state in a folder is that far, or the process that trains has ended.

    A state is read only when it is a new one: reading takes a core that the training needs.
    """
    seen = None
    while process.poll() is None:
        written = sorted((path.name, path.stat().st_mtime_ns) for path in states.glob("*.pt"))
        if written != seen and iterations_done(states) >= iteration:
            return
        seen = written
        time.sleep(PAUSE_S)
