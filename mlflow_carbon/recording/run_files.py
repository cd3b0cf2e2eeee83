"""Writes a file to a run where its artifact store takes it, and makes nobody wait for long."""

import logging
import threading

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.redaction import reason_of

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

WAIT_S = 5.0  # at the end of a run; an artifact store may hold a call for minutes


def attach(client: MlflowClient, run_id: str, path: str, text: str) -> None:
    """Writes a text as an artifact, in a thread of its own that is waited for a limited time.

    A run with a parent gets none, for a trial of a sweep must not get slower. A store that takes
    no artifact is no fault: the run's tags and curves hold the figures, too.

    Args:
        client: of the run's store.
        run_id: the run.
        path: where in the run's artifacts.
        text: the content.
    """
    arguments = (client, run_id, path, text)
    thread = threading.Thread(target=_write, args=arguments, name="mlflow-carbon-file", daemon=True)
    thread.start()
    thread.join(WAIT_S)


def _write(client: MlflowClient, run_id: str, path: str, text: str) -> None:
    try:
        run = client.get_run(run_id)
        is_trial = MLFLOW_PARENT_RUN_ID in run.data.tags
        if not is_trial and _is_within_reach(client.tracking_uri, run.info.artifact_uri):
            client.log_text(run_id, text, path)
    except Exception as error:  # the store is the user's: whatever it raises, the run goes on
        _logger.debug("Run %s gets no %s: %s", run_id, path, reason_of(error))


def _is_within_reach(tracking_uri: str, artifact_uri: str | None) -> bool:
    """Returns whether artifacts are kept where the store says: a server's folder is not here."""
    is_server = tracking_uri.startswith(("http://", "https://"))
    is_folder = "://" not in (artifact_uri or "") or (artifact_uri or "").startswith("file:")
    return artifact_uri is not None and not (is_server and is_folder)
