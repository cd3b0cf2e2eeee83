"""The one run of a launch: the first node's leader tags it, and the others look for the tag."""

import os
import threading
import time
from collections.abc import Callable

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.launch import Place
from mlflow_carbon.store.listing import all_runs
from mlflow_carbon.tracking.mlflow_seams import current_experiment_id
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

FIRST_WAIT_S, LAST_WAIT_S = 0.5, 30.0
CLOSING_WAIT_S = 0.5
MAX_CLOCK_SKEW_S = 60.0  # between nodes of one cluster


def launch_tag(place: Place, ordinal: int) -> str:
    """Returns the tag value that identifies one run of a launch.

    Args:
        place: of the process that tags the run.
        ordinal: number of runs the process has metered before; every rank of a launch has the
            same runs in the same order.
    """
    return f"{_name(place, ordinal)} {time.time():.0f}"


def find_launch_run(
    client: MlflowClient, experiment_id: str | None, place: Place, ordinal: int
) -> Run | None:
    """Returns the run that the first node's leader has tagged for this launch.

    Runs of earlier launches with the same name are told apart by time: the tag must be younger
    than this process or, if the first leader was restarted, than the launcher.

    Args:
        client: of the store.
        experiment_id: where the run is; ``None`` for the process's current experiment.
        place: of the process that looks.
        ordinal: as for the tag.

    Raises:
        Exception: whatever the store raises.
    """
    is_restart = place.is_first and place.num_restarts > 0
    since_unix_s = _start_unix_s(os.getppid() if is_restart else os.getpid()) - MAX_CLOCK_SKEW_S
    name = _name(place, ordinal)
    of_this_name = f"tags.`{keys.TAG_LAUNCH}` LIKE '{name} %'"
    found = all_runs(client, [experiment_id or current_experiment_id()], of_this_name)
    alive = [run for run in found if _tagged_unix_s(run) >= since_unix_s and not _is_older(run)]
    return max(alive, key=_tagged_unix_s, default=None)


class RunSearch:
    """Looks for a run in a separate thread, and hands it over once found."""

    def __init__(self, find: Callable[[], Run | None], use: Callable[[Run], None]) -> None:
        """Starts to look.

        Args:
            find: asks the store once; may raise any exception.
            use: called once with the run.
        """
        self._find = find
        self._use = use
        self._is_closing = threading.Event()
        self._deadline_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="mlflow-carbon-launch", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Waits for the run for at most ``timeout_s``, then gives up."""
        self._deadline_s = time.monotonic() + timeout_s
        self._is_closing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while self._deadline_s is None or time.monotonic() < self._deadline_s:
            try:
                run = self._find()
                if run is not None:
                    self._use(run)
                    return
            except Exception:  # the store is the user's: whatever it raises, it is asked again
                run = None
            if self._is_closing.is_set():
                time.sleep(CLOSING_WAIT_S)
            else:
                self._is_closing.wait(wait_s)
                wait_s = min(2 * wait_s, LAST_WAIT_S)


def _name(place: Place, ordinal: int) -> str:
    return f"{place.launch_key}.{ordinal}"


def _tagged_unix_s(run: Run) -> float:
    return float(run.data.tags[keys.TAG_LAUNCH].split(" ")[1])


def _start_unix_s(process_id: int) -> float:
    return float(psutil.Process(process_id).create_time())


def _is_older(run: Run) -> bool:
    """Returns whether the run had ended before the launcher began."""
    end_ms: int | None = run.info.end_time
    if end_ms is None:
        return False
    return end_ms / MILLISECONDS_PER_SECOND < _start_unix_s(os.getppid())
