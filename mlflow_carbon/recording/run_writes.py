"""Writes points and tags to a run, whatever the user has set for their own calls of MLflow."""

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag


def write_to_run(
    client: MlflowClient, run_id: str, metrics: Sequence[Metric], tags: Sequence[RunTag]
) -> None:
    """Writes metrics and tags by one call that returns when the store has them.

    The call passes by the user's queue of asynchronous logging, which must not be longer for us.

    Args:
        client: of the run's store; one that also passes by the user's active model is
            ``mlflow_seams.past_active_model``'s.
        run_id: the run to write to.
        metrics: its points.
        tags: to set with them.

    Raises:
        Exception: whatever the store raises.
    """
    client.log_batch(run_id, metrics=metrics, tags=tags, synchronous=True)
