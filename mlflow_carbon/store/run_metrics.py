"""One metric of the user's own, of many runs."""

import math
from collections.abc import Sequence

from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.listing import all_runs
from mlflow_carbon.store.runs import find_experiment


def read_metric(
    client: MlflowClient, *, experiment_names: Sequence[str], metric: str
) -> dict[str, float]:
    """Returns the latest value of a metric of each metered run that has it, by the run's id.

    Raises:
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: no metered run has a finite value of that metric; the message names others.
    """
    with store_errors(client):
        ids = [find_experiment(client, name).experiment_id for name in experiment_names]
        runs = all_runs(client, ids, f"tags.`{keys.TAG_SCHEMA}` LIKE '%'")
    values = {
        run.info.run_id: float(run.data.metrics[metric])
        for run in runs
        if math.isfinite(run.data.metrics.get(metric, math.nan))
    }
    if not values:
        own = sorted(
            {name for run in runs for name in run.data.metrics if not name.startswith("carbon/")}
        )
        known = ", ".join(own[:5]) or "none"
        raise NoRunsError(f"No metered run has a metric {metric!r}. Metrics of theirs: {known}.")
    return values
