"""Waits for a tracking server's first answer: names one that is silent, and soon gives it up."""

import logging
import threading

from mlflow import MlflowClient

from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.redaction import reason_of, redact

TELL_AFTER_S = 2.0
GIVE_UP_AFTER_S = 10.0
_ANY_EXPERIMENT = "0"  # whatever the server says of it, it is there

_logger = logging.getLogger("mlflow.carbon")


def require_answer(
    uri: str, *, tell_after_s: float = TELL_AFTER_S, give_up_after_s: float = GIVE_UP_AFTER_S
) -> None:
    """Waits until a server has answered; any answer will do, a refusal too.

    MLflow itself asks for minutes, and says nothing meanwhile. Its thread goes on behind us, and
    does not keep the process from ending.

    Args:
        uri: of a store; only a server's (http, https) is asked.
        tell_after_s: when a silent server is named.
        give_up_after_s: when it is given up.

    Raises:
        TrackingStoreError: there is no answer in time.
    """
    if not uri.startswith(("http://", "https://")):
        return
    has_answered = threading.Event()
    reasons: list[str] = []

    def ask() -> None:
        try:
            MlflowClient(tracking_uri=uri).get_experiment(_ANY_EXPERIMENT)
        except Exception as error:  # a refusal is an answer; what broke is told by who reads
            if "Max retries exceeded" in str(error):
                reasons.append(reason_of(error))
        has_answered.set()

    threading.Thread(target=ask, name="mlflow-carbon-server", daemon=True).start()
    if not has_answered.wait(tell_after_s):
        _logger.warning("Waiting for the tracking server %s ...", redact(uri))
        has_answered.wait(give_up_after_s - tell_after_s)
    if not has_answered.is_set() or reasons:
        why = f" ({reasons[0].rstrip('.')})" if reasons else f" within {give_up_after_s:g} s"
        raise TrackingStoreError(
            f"The tracking server {redact(uri)} does not answer{why}. "
            "Start it, or check its address and MLFLOW_TRACKING_URI.",
            arguments=["tracking_uri"],
        )
