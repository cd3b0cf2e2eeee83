"""Waits for a tracking store, but only so long: it may be slow, and a run is not."""

import threading
from collections.abc import Callable
from typing import TypeVar

READ_TIMEOUT_S = 2.0
FIND_TIMEOUT_S = 10.0  # for a run that another process is about to start

T = TypeVar("T")


def within(timeout_s: float, ask: Callable[[], T]) -> T | None:
    """Returns the result of ``ask``; ``None`` if it raises, or has not returned in time.

    ``ask`` runs in a separate thread, which does not keep the process from ending.
    """
    answers: list[T] = []

    def run() -> None:
        try:
            answers.append(ask())
        except Exception:  # the store is the user's: whatever it raises, the run goes on
            return

    thread = threading.Thread(target=run, name="mlflow-carbon-store", daemon=True)
    thread.start()
    thread.join(timeout_s)
    return answers[0] if answers else None
