"""Sends the store the journals of processes that were killed or could not reach the store."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.recording.delivery import merged, sendable
from mlflow_carbon.recording.earlier import read_earlier_part
from mlflow_carbon.recording.journal import MARK_SUFFIX, Batch, Point
from mlflow_carbon.recording.left_journals import (
    LeftBehind,
    Living,
    Unusable,
    journals,
    left_behind,
)
from mlflow_carbon.recording.nodes import settle
from mlflow_carbon.recording.outbox import RunWriter
from mlflow_carbon.recording.process_identity import is_shared_folder, machine_digest
from mlflow_carbon.recording.run_curves import total_step
from mlflow_carbon.recording.stored_footprint import attach_stored_footprint
from mlflow_carbon.redaction import reason_of, redact, without_credentials

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

_ROUNDING_FRACTION = 1e-9  # a bound so near to the last window's point is that point
KEPT_SUFFIX = ".bad"  # of a journal whose good lines were sent

MAY_LIVE = (
    "sent, but its process ran on another machine and may still write to it; "
    "recover there to remove it"
)


@dataclass(frozen=True)
class Recovery:
    """The outcome for one journal.

    Attributes:
        run_id: the run of the journal's figures; empty if the journal does not say.
        path: the journal's path before.
        num_batches: number of batches that the journal held for the store.
        reason: why the journal was left in place; ``None`` if it was sent.
        num_bad_lines: number of lines that could not be read.
        kept: new path of a journal kept because of bad lines.
    """

    run_id: str
    path: Path
    num_batches: int
    reason: str | None
    num_bad_lines: int = 0
    kept: Path | None = None


def recover(
    client: MlflowClient,
    folder: Path,
    *,
    is_shared_folder: Callable[[Path], bool] = is_shared_folder,
) -> Iterator[Recovery]:
    """Sends every journal that belongs to the client's store, and yields the outcome for each.

    Points keep their time stamps, and MLflow stores equal points once, so sending a point twice
    changes nothing. A killed run then gets the sum of its windows as a lower bound of its total,
    and its footprint file.

    Args:
        client: of the store.
        folder: of journals.
        is_shared_folder: tells whether other machines write to the folder too.
    """
    here = without_credentials(client.tracking_uri)
    sent, living = set(), set()
    for found in journals(folder, is_shared_folder=is_shared_folder):
        if isinstance(found, Living):
            living.add(found.run_id)
        elif isinstance(found, Unusable):
            yield Recovery("", found.path, 0, found.reason)
        elif found.tracking_uri == here:
            recovery = _recovered(client, found)
            if recovery.reason is None:
                sent.add(found.run_id)
            yield recovery
        else:
            store = redact(found.tracking_uri)
            reason = f"it belongs to {store!r}; set MLFLOW_TRACKING_URI to that store"
            yield Recovery(found.run_id, found.path, len(found.batches), reason)
    for run_id in sorted(sent - living):
        try:
            write_lower_bound(client, run_id)
            attach_stored_footprint(client, run_id)
        except Exception as error:  # the store is the user's: whatever it raises, the rest is sent
            _logger.warning("Run %s gets no lower bound: %s", run_id, reason_of(error))


def recover_run(client: MlflowClient, folder: Path, run_id: str) -> bool:
    """Sends a run's figures left by killed processes of this machine; returns whether any were."""
    here = (without_credentials(client.tracking_uri), machine_digest())
    recoveries = [
        _recovered(client, left)
        for left in left_behind(folder, run_id=run_id)
        if (left.tracking_uri, left.machine) == here and left.run_id == run_id
    ]
    return any(recovery.reason is None for recovery in recoveries)


def write_lower_bound(client: MlflowClient, run_id: str) -> None:
    """Writes the sum of a killed run's windows as its total, tagged as partial.

    Raises:
        Exception: whatever the store raises.
    """
    run = client.get_run(run_id)
    record = RunRecord.read(run)
    if record.parts:  # each node has written its own total, minute by minute
        settle(client, run_id)
        return
    part = read_earlier_part(client, run)
    total_kwh = None if record.total is None else record.total.energy_kwh
    if part is None or part.total.energy_kwh in (None, total_kwh):
        return  # no energy was measured, or none after the total
    bound = RunRecord(run_id, total=part.total, total_end_ms=part.newest_ms, is_partial=True)
    bound = bound.summing(part.series.windows, part.series.unit or "")
    if record.intensity is not None and record.pue is not None:
        bound = bound.assuming(Assumptions(record.intensity, record.pue, ()))
    shown, step = run.data.metrics, total_step(part.last_step)
    points = [
        Point(key, value, part.newest_ms, step)
        for key, value in bound.metrics().items()
        if not math.isclose(value, shown.get(key, math.nan), rel_tol=_ROUNDING_FRACTION)
    ]
    tags = {keys.TAG_SCHEMA: keys.SCHEMA_VERSION, **bound.total_tags()}
    tags |= {**bound.window_tags(), **bound.partial_tags()}
    RunWriter(client, run_id, marks_parent=False).write(Batch(tuple(points), tags))


def _recovered(client: MlflowClient, left: LeftBehind) -> Recovery:
    """Sends one journal, and removes it once all of it is sent."""
    reason = _send(client, left)
    recovery = Recovery(left.run_id, left.path, len(left.batches), reason, left.num_bad_lines)
    if reason is not None:
        return recovery
    if left.may_live:
        return replace(recovery, reason=MAY_LIVE)
    try:
        return replace(recovery, kept=_put_away(left))
    except OSError as error:
        return replace(recovery, reason=f"sent, but it cannot be removed: {reason_of(error)}")


def _put_away(left: LeftBehind) -> Path | None:
    """Removes a sent journal; renames it instead if it has unreadable lines."""
    if not left.num_bad_lines:
        left.path.unlink(missing_ok=True)
        _mark_of(left).unlink(missing_ok=True)
        return None
    kept = left.path.with_name(left.path.name + KEPT_SUFFIX)
    with suppress(FileNotFoundError):  # another recovery was faster
        left.path.rename(kept)
    return kept


def _mark_of(left: LeftBehind) -> Path:
    """Returns the file that says, if it is there, that other runs were metered beside this one."""
    return left.path.with_name(left.path.name + MARK_SUFFIX)


def _send(client: MlflowClient, left: LeftBehind) -> str | None:
    """Sends one journal; returns the reason if that failed."""
    writer = RunWriter(client, left.run_id)
    batches = list(left.batches)
    if batches and _mark_of(left).exists():
        batches.append(Batch(tags={keys.TAG_SHARED: "true"}))
    try:
        while batches:
            chosen = sendable(batches)
            writer.write(merged(chosen))
            batches = batches[len(chosen) :]
    except Exception as error:  # the store is the user's: whatever it raises, the rest is tried
        return reason_of(error)
    return None
