"""Keeps the totals of a run's earlier parts off the models that a later part logs.

``log_model`` copies every point of step 0 from the run to the new model. In a resumed run these are
the totals of all earlier parts. A point on a model can never be removed, and a filter finds the
model by any of its points.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_carbon.tracking.patches import go_around, is_on

_OURS = "carbon/"


def watch_copies(is_metered: Callable[[str], bool]) -> None:
    """Checks from now on what ``log_model`` copies, as autologging does while it is on.

    Args:
        is_metered: tells whether this process now meters the run with an id.
    """
    if not is_on():
        go_around(MlflowClient, "log_batch", before=partial(_leave_out, is_metered))


def leave_out_old_figures(metrics: object, *, is_metered: bool) -> None:
    """Removes this package's old figures from points about to be written to a model.

    Args:
        metrics: the metrics given to ``log_batch``; anything but a list is left alone.
        is_metered: whether the run is still metered: the model then gets only the total yet to
            come. Afterwards only the newest total of each name is kept.
    """
    if not isinstance(metrics, list) or not any(map(_is_copy, metrics)):
        return
    newest: dict[tuple[str, str | None], Metric] = {}
    if not is_metered:
        for point in sorted(filter(_is_copy, metrics), key=_order):
            newest[point.key, point.model_id] = point
    metrics[:] = [*(point for point in metrics if not _is_copy(point)), *newest.values()]


def _leave_out(
    is_metered: Callable[[str], bool],
    client: MlflowClient,
    run_id: str,
    metrics: object = (),
    *_: Any,
    **__: Any,
) -> None:
    del client
    leave_out_old_figures(metrics, is_metered=is_metered(run_id))


def _order(point: Metric) -> tuple[int, float]:
    """Returns the sort key by which MLflow takes a point of one step as the latest."""
    return point.timestamp, point.value


def _is_copy(point: Metric) -> bool:
    return point.model_id is not None and point.key.startswith(_OURS)
