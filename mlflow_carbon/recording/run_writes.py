"""Writes points and tags to a run, whatever the user has set for their own calls of MLflow."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag


def write_to_run(
    client: MlflowClient, run_id: str, metrics: Sequence[Metric], tags: Sequence[RunTag]
) -> None:
    """Writes metrics and tags by one call that returns when the store has them.

    The call passes by the user's queue of asynchronous logging, which must not be longer for us,
    and by the user's active model, which must not get the figures of runs that only use it.

    Raises:
        Exception: whatever the store raises.
    """
    with _without_active_model():
        client.log_batch(run_id, metrics=metrics, tags=tags, synchronous=True)


@contextmanager
def _without_active_model() -> Iterator[None]:
    """Hides from MLflow, in this thread, the model that it would copy each metric to.

    That is what ``MLFLOW_ACTIVE_MODEL_ID`` or ``mlflow.set_active_model`` names. MLflow has no
    public way to write to a run alone; the private one is the seam ``ACTIVE_MODEL``.
    """
    fluent = import_module("mlflow.tracking.fluent")
    contexts = getattr(fluent, "_ACTIVE_MODEL_CONTEXT", None)
    active: Any = None if contexts is None else contexts.get()
    if contexts is None or getattr(active, "_model_id", None) is None:
        yield
        return
    none = copy.copy(active)
    none._model_id = None
    contexts.set(none)
    try:
        yield
    finally:
        contexts.set(active)
