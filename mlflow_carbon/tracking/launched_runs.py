"""Runs of a command that is metered from outside (``mlflow-carbon run``) become its children."""

import os
from collections.abc import Mapping

PARENT_RUN_ID = "MLFLOW_CARBON_PARENT_RUN_ID"
PARENT_STORE = "MLFLOW_CARBON_PARENT_STORE"
_PARENT_TAG = "mlflow.parentRunId"


def parent_tags(tracking_uri: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the tag that makes a new run a child of the one that meters this process.

    Args:
        tracking_uri: of the new run's store; a run has no parent in another store.
        environment: of the process.
    """
    run_id = environment.get(PARENT_RUN_ID, "")
    if not run_id or environment.get(PARENT_STORE) != tracking_uri:
        return {}
    return {_PARENT_TAG: run_id}
