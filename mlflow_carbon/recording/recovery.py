"""Sends to the store what processes that were killed, or could not reach it, left in journals."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

from mlflow_carbon.recording.delivery import merged, sendable
from mlflow_carbon.recording.journal import LeftBehind, left_behind, machine_digest
from mlflow_carbon.recording.outbox import RunWriter
from mlflow_carbon.redaction import reason_of, without_credentials


@dataclass(frozen=True)
class Recovery:
    """What became of one journal; ``reason`` is why it was left where it is, if it was."""

    run_id: str
    path: Path
    num_batches: int
    reason: str | None


def recover(client: MlflowClient, folder: Path) -> Iterator[Recovery]:
    """Sends every journal that belongs to the client's store, and yields what became of each.

    Points keep their time stamps, and MLflow stores equal points once, so a journal that had been
    delivered in part, or is sent twice, changes nothing.
    """
    here = without_credentials(client.tracking_uri)
    for left in left_behind(folder):
        if left.tracking_uri == here:
            yield _recovered(client, left)
        else:
            reason = f"it belongs to {left.tracking_uri}; set MLFLOW_TRACKING_URI to that store"
            yield Recovery(left.run_id, left.path, len(left.batches), reason)


def recover_run(client: MlflowClient, folder: Path, run_id: str) -> bool:
    """Sends what a killed process of this machine has not sent of a run; returns whether it did."""
    here = (without_credentials(client.tracking_uri), machine_digest())
    recoveries = [
        _recovered(client, left)
        for left in left_behind(folder, run_id=run_id)
        if (left.tracking_uri, left.machine) == here
    ]
    return any(recovery.reason is None for recovery in recoveries)


def _recovered(client: MlflowClient, left: LeftBehind) -> Recovery:
    """Sends one journal, and removes it when all of it has been sent."""
    reason = _send(client, left)
    if reason is None:
        left.path.unlink(missing_ok=True)
    return Recovery(left.run_id, left.path, len(left.batches), reason)


def _send(client: MlflowClient, left: LeftBehind) -> str | None:
    """Sends one journal; returns why it could not."""
    writer = RunWriter(client, left.run_id)
    batches = list(left.batches)
    try:
        while batches:
            chosen = sendable(batches)
            writer.write(merged(chosen))
            batches = batches[len(chosen) :]
    except Exception as error:  # the store is the user's: whatever it raises, the rest is tried
        return reason_of(error)
    return None
