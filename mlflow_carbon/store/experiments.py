"""Experiments that a user names, as the store has them; an error tells the nearest names."""

import difflib
import logging
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.store.access import PERMISSION_DENIED, place_of
from mlflow_carbon.store.listing import all_experiments

_logger = logging.getLogger("mlflow.carbon")


def experiment_names_by_id(client: MlflowClient, experiment_names: Sequence[str]) -> dict[str, str]:
    """Returns the name of each experiment that is named, or of all, by its id."""
    experiments = (
        _readable(client, experiment_names) if experiment_names else all_experiments(client)
    )
    return {item.experiment_id: item.name for item in experiments}


def find_experiment(client: MlflowClient, name: str) -> Experiment:
    """Returns the active experiment of a name.

    Raises:
        TrackingStoreError: there is no such experiment; the message has the nearest names.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "active":
        return experiment
    names = [item.name for item in all_experiments(client)]
    nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
    raise TrackingStoreError(
        f"No experiment {name!r} in {place_of(client)}. "
        f"Nearest: {', '.join(repr(near) for near in nearest)}."
    )


def _readable(client: MlflowClient, names: Sequence[str]) -> list[Experiment]:
    """Returns the experiments, without those that the user may not read.

    Raises:
        TrackingStoreError: an experiment does not exist, or the user may read none of them.
    """
    found, forbidden = [], []
    for name in names:
        try:
            found.append(find_experiment(client, name))
        except MlflowException as error:
            if error.error_code != PERMISSION_DENIED:
                raise
            forbidden.append(repr(name))
    if not found:
        raise TrackingStoreError(
            f"You may not read experiment {', '.join(forbidden)} in "
            f"{place_of(client)}. Ask for the permission READ, or name another one."
        )
    if forbidden:
        _logger.warning("Left out experiment %s: you may not read it.", ", ".join(forbidden))
    return found
