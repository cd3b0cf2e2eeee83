"""Sends a run's figures in order from a separate thread, so that no run waits for the store."""

import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from mlflow_carbon.recording.journal import Batch, Journal
from mlflow_carbon.recording.lingering import lingering
from mlflow_carbon.redaction import reason_of

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

MAX_POINTS = 1000  # of one log_batch, by MLflow
MAX_TAGS = 100
FIRST_RETRY_S, LAST_RETRY_S = 1.0, 30.0
CLOSE_TIMEOUT_S = 15.0
STUCK_S = 2.0  # MLflow's own retries can hold a call for minutes

# Errors that no later attempt cures: the run is gone, or the store calls the batch invalid.
FINAL_ERRORS = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}


class Delivery:
    """Keeps the batches of one run in order until the store has them.

    Waiting batches are sent together, so a store that needs seconds per call keeps up. Sending a
    batch twice does no harm: MLflow stores equal points once.
    """

    def __init__(
        self,
        send: Callable[[Batch], None],
        journal: Journal | None,
        *,
        open_journal: Callable[[], Journal | None] | None = None,
        first_retry_s: float = FIRST_RETRY_S,
        linger_s: float = 0.0,
        interval_s: float = 0.0,
        is_quick: bool = False,
    ) -> None:
        """Starts nothing yet.

        Args:
            send: writes one batch to the store; raises what the store raises.
            journal: keeps waiting batches on disk; ``None`` keeps them in memory only.
            open_journal: opens it later, once there are figures to keep or a thread sends them.
            first_retry_s: wait after a first failure; doubles up to ``LAST_RETRY_S``.
            linger_s: how long the very first batch waits for more batches.
            interval_s: how long batches wait after a call for more batches; they are sent as soon
                as they fill a call.
            is_quick: whether the store answers at once, or fails, so that a delivery that is closed
                before it has sent anything needs no thread.
        """
        self._send = send
        self._journal = journal
        self._open_journal = open_journal
        self._first_retry_s = first_retry_s
        self._linger_s = linger_s
        self._interval_s = interval_s
        self._is_quick = is_quick
        self._pending: deque[Batch] = deque()
        self._num_points = 0  # of all pending batches
        self._changed = threading.Condition()
        self._is_closing = False
        self._is_awaited = False  # a caller waits for the pending batches
        self._has_warned = False
        self._has_warned_of_journal = False
        self.has_lost = False  # the store refused a batch for good
        self._num_delivered = 0
        self._thread: threading.Thread | None = None

    def put(self, batch: Batch) -> None:
        """Queues a batch; returns at once."""
        with self._changed:
            self._pending.append(batch)
            self._num_points += len(batch.points)
            if self._open_journal is None:
                self._note(lambda journal: journal.append(batch))
            elif batch.points:
                self.keep()
            if len(self._pending) == 1 or self._is_full():
                self._changed.notify_all()
            if self._thread is not None:
                return
            if self._linger_s == 0 or self._is_full():
                self._thread = self._start_thread()
            elif len(self._pending) == 1:
                lingering(self._linger_s).call_later(self._begin)

    def keep(self) -> None:
        """Opens the journal, if that was put off, and writes down what is pending."""
        with self._changed:
            if self._open_journal is None:
                return
            self._journal, self._open_journal = self._open_journal(), None
            for batch in self._pending:
                self._note(functools.partial(Journal.append, batch=batch))

    def flush(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Sends the pending batches; returns whether the store has taken them in time."""
        self._begin()
        with self._changed:
            self._is_awaited = True
            self._changed.notify_all()
            is_delivered = self._changed.wait_for(self._is_empty, timeout_s)
            self._is_awaited = False
        return is_delivered

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Waits until all is delivered, at most for ``timeout_s``; a second call returns at once.

        Returns:
            Whether all was delivered; the rest stays in the journal for ``mlflow-carbon recover``.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is None:
            self._send_here()
        with self._changed:
            is_prompt = self._changed.wait_for(self._is_empty, min(STUCK_S, timeout_s))
            if not is_prompt:
                self._start_thread()  # the first thread may be asleep in MLflow's own retries
            is_delivered = self._changed.wait_for(self._is_empty, max(0.0, timeout_s - STUCK_S))
            num_left = len(self._pending)
        is_kept = self._journal is not None and self._journal.is_whole
        self._note(lambda journal: journal.close(is_delivered=is_delivered))
        if not is_delivered:
            kept = "kept; `mlflow-carbon recover` sends them" if is_kept else "lost"
            _logger.warning("%d sets of energy figures were not delivered: %s.", num_left, kept)
        elif is_prompt and self._thread is not None:
            self._thread.join(STUCK_S)
        return is_delivered

    def _begin(self) -> None:
        """Starts to send, if there is anything to send and nobody sends it yet."""
        with self._changed:
            if self._thread is None and self._pending and not self._is_closing:
                self._thread = self._start_thread()

    def _send_here(self) -> None:
        """Sends what is pending in the caller's thread, where that is quick; a thread has the rest.

        A thread for one call costs a trial of a sweep a third of a ms.
        """
        batches = sendable(self._pending) if self._is_quick else []
        try:
            if batches and self._try(merged(batches)) is None:
                with self._changed:
                    self._forget(len(batches))
        finally:  # Ctrl-C, too
            if self._pending:
                self._thread = self._start_thread()

    def _start_thread(self) -> threading.Thread:
        self.keep()
        thread = threading.Thread(target=self._run, name="mlflow-carbon-delivery", daemon=True)
        thread.start()
        return thread

    def _is_urgent(self) -> bool:
        return self._is_closing or (self._is_awaited and bool(self._pending))

    def _is_empty(self) -> bool:
        return not self._pending

    def _is_full(self) -> bool:
        return self._num_points >= MAX_POINTS

    def _run(self) -> None:
        """Sends pending batches until the delivery is closed and empty."""
        retry_s = self._first_retry_s
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._is_closing)
                if not self._pending:
                    return
                first, batches = self._num_delivered, sendable(self._pending)
            error = self._try(merged(batches))
            with self._changed:
                if error is not None:
                    self._warn(error)
                if error is None or _is_final(error):
                    self.has_lost |= error is not None
                    self._forget(first + len(batches))
                    retry_s = self._first_retry_s
                    self._changed.wait_for(
                        lambda: self._is_urgent() or self._is_full(), self._interval_s
                    )
                elif self._is_closing:
                    self._changed.wait(self._first_retry_s)
                else:
                    self._changed.wait_for(lambda: self._is_closing, retry_s)
                    retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _try(self, batch: Batch) -> Exception | None:
        try:
            self._send(batch)
        except Exception as error:  # the store is the user's: whatever it raises, the run goes on
            return error
        return None

    def _forget(self, num_delivered: int) -> None:
        """Drops delivered batches; another thread may have dropped some of them already."""
        num_new = max(0, num_delivered - self._num_delivered)
        for _ in range(num_new):
            self._num_points -= len(self._pending.popleft().points)
        self._num_delivered += num_new
        if num_new:
            self._note(lambda journal: journal.mark_delivered(num_new))
        self._changed.notify_all()

    def _note(self, write: Callable[[Journal], None]) -> None:
        """Writes to the journal; if that fails, as on a full disk, the delivery goes on."""
        if self._journal is None:
            return
        try:
            write(self._journal)
        except OSError as error:
            if not self._has_warned_of_journal:
                self._has_warned_of_journal = True
                _logger.warning(
                    "The journal of energy figures cannot be written, so a killed process will "
                    "lose what it has not sent: %s",
                    reason_of(error),
                )

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning("Energy figures cannot be written: %s", reason_of(error))


def merged(batches: list[Batch]) -> Batch:
    """Returns one batch with the points of all batches in order, and each tag's last value."""
    points = tuple(point for batch in batches for point in batch.points)
    tags = {key: value for batch in batches for key, value in batch.tags.items()}
    return Batch(points, tags)


def sendable(pending: Iterable[Batch]) -> list[Batch]:
    """Returns the first batches that fit into one call; at least one."""
    chosen: list[Batch] = []
    for batch in pending:
        both = merged([*chosen, batch])
        if chosen and (len(both.points) > MAX_POINTS or len(both.tags) > MAX_TAGS):
            break
        chosen.append(batch)
    return chosen


def _is_final(error: Exception) -> bool:
    return isinstance(error, MlflowException) and error.error_code in FINAL_ERRORS
