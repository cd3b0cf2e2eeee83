"""Keeps a run's curves off the models that it logs, and gives a late model its one figure.

``log_model`` copies every point of one step from the run to the new model. These are no totals, or
in a resumed run the totals of its earlier parts. A point on a model can never be removed, and a
filter finds the model by any of its points. A model that is logged while its run is metered gets
its figure at the end; one that is logged later, when it is made.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Metric

from mlflow_carbon.contract import keys
from mlflow_carbon.registry.footprints import read_footprint
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.patches import go_around, is_on

_OURS = "carbon/"


def watch_copies(is_metered: Callable[[str], bool]) -> None:
    """Checks from now on what ``log_model`` copies, as autologging does while it is on.

    Args:
        is_metered: tells whether this process now meters the run with an id.
    """
    if is_on():
        return
    go_around(MlflowClient, "log_batch", before=_leave_out)
    make_model = mlflow_seams.model_creation_method()
    if make_model is not None:
        go_around(MlflowClient, make_model, after=partial(_give_figure, is_metered))


def leave_out_copies(metrics: object) -> None:
    """Removes this package's figures from points about to be written to a model.

    Args:
        metrics: the metrics given to ``log_batch``; anything but a list is left alone, such as
            what this package writes.
    """
    if isinstance(metrics, list):
        metrics[:] = [point for point in metrics if not _is_copy(point)]


def give_figure(client: MlflowClient, model: LoggedModel) -> None:
    """Puts the CO2e of a run that is over on a model that it has just logged.

    Raises:
        MlflowException: the store refuses.
    """
    run_id = model.source_run_id
    if not run_id:
        return
    run = client.get_run(run_id)
    footprint = read_footprint(run) if keys.TAG_TOTAL in run.data.tags else None
    if footprint is None or footprint.end_ms is None:
        return
    point = Metric(keys.CO2E_KG, footprint.co2e_kg, footprint.end_ms, 0, model_id=model.model_id)
    client.log_batch(run_id, metrics=(point,), synchronous=True)


def _leave_out(client: MlflowClient, run_id: str, metrics: object = (), *_: Any, **__: Any) -> None:
    del client, run_id
    leave_out_copies(metrics)


def _give_figure(
    is_metered: Callable[[str], bool], model: LoggedModel, client: MlflowClient, *_: Any, **__: Any
) -> None:
    if not is_metered(model.source_run_id or ""):
        give_figure(client, model)


def _is_copy(point: Metric) -> bool:
    return point.model_id is not None and point.key.startswith(_OURS)
