"""One metric of the user's own, of many runs."""

import math
from collections.abc import Sequence

from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.experiments import find_experiment
from mlflow_carbon.store.listing import each_run


def read_metric(
    client: MlflowClient, *, experiment_names: Sequence[str], metric: str
) -> dict[str, float]:
    """Returns the latest value of a metric of each metered run that has it, by the run's id.

    Raises:
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: no metered run has a finite value of that metric; the message names others.
    """
    values: dict[str, float] = {}
    names: set[str] = set()
    with store_errors(client):
        ids = [find_experiment(client, name).experiment_id for name in experiment_names]
        for run in each_run(client, ids, f"tags.`{keys.TAG_SCHEMA}` LIKE '%'"):
            names.update(run.data.metrics)
            value = run.data.metrics.get(metric, math.nan)
            if math.isfinite(value):
                values[run.info.run_id] = float(value)
    if not values:
        own = sorted(name for name in names if not name.startswith(keys.METRIC_PREFIX))
        known = ", ".join(own[:5]) or "none"
        raise NoRunsError(f"No metered run has a metric {metric!r}. Metrics of theirs: {known}.")
    return values
