"""Keeps the totals of a run's earlier parts off the models that a later part logs.

``log_model`` copies every point of step 0 from the run to the new model. In a resumed run these are
the totals of all parts before; a point on a model can never be taken away, and a filter finds the
model by each.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_carbon.tracking.patches import go_around, is_on

_OURS = "carbon/"


def watch_copies(is_metered: Callable[[str], bool]) -> None:
    """Looks from now on at what ``log_model`` copies; autologging does so already where it is on.

    Args:
        is_metered: whether this process meters the run of that id now.
    """
    if not is_on():
        go_around(MlflowClient, "log_batch", before=partial(_leave_out, is_metered))


def leave_out_old_figures(metrics: object, *, is_metered: bool) -> None:
    """Takes figures of ours out of a list of points that is about to be written to a model.

    Args:
        metrics: what ``log_batch`` is given; anything but a list is left alone.
        is_metered: while the run is metered its total is yet to come, and the model gets that
            alone. After it, only the newest total of each name is the run's.
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
    """Returns what MLflow calls a point the latest by, where all are of one step."""
    return point.timestamp, point.value


def _is_copy(point: Metric) -> bool:
    return point.model_id is not None and point.key.startswith(_OURS)
