"""The figures to write to one run: held back at first if need be, then journaled and delivered."""

import functools
import logging
import threading
from collections.abc import Iterable, Mapping

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NOTE

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_description import with_sentence
from mlflow_carbon.contract.unmeasured import needed_tags
from mlflow_carbon.recording.delivery import Delivery
from mlflow_carbon.recording.journal import Batch, Journal, Point, journal_dir
from mlflow_carbon.recording.neighbours import Neighbours
from mlflow_carbon.recording.nodes import ends_a_node, settle
from mlflow_carbon.recording.run_files import attach, attach_in_folder, folder_of
from mlflow_carbon.recording.run_writes import write_to_run
from mlflow_carbon.redaction import reason_of
from mlflow_carbon.store.schema import is_sqlite
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

MAX_TAG_LENGTH = 5000  # MLflow refuses longer values
SEND_INTERVAL_S = 20.0  # one call costs 5 to 15 ms of CPU time, however few windows it takes
LINGER_S = 1.0  # a shorter run, such as a trial of a sweep, is written in one call


class Outbox:
    """Takes the figures of one run, without making the caller wait for the store.

    Attributes:
        client: of the run's store.
        run_id: the run to write to; empty, and held, until ``address_to`` names it.
    """

    def __init__(
        self,
        client: MlflowClient,
        run_id: str,
        *,
        marks_parent: bool = True,
        is_held: bool = False,
        parent_run_id: str | None = None,
        artifact_uri: str | None = None,
        is_inside: bool = False,
    ) -> None:
        """Opens no file and no thread yet.

        Args:
            client: of the run's store.
            run_id: the run to write to.
            marks_parent: whether a metered parent run is still to be tagged as such.
            is_held: whether nothing is written before ``release``.
            parent_run_id: the run's parent; ``None`` if it has none, or this is not known.
            artifact_uri: where the run's artifacts go; ``None`` if the run is not known.
            is_inside: whether this process meters the parent run, too, whose journal tells others
                that this machine is in use; the run's own is then opened when there are figures.
        """
        self.client = client
        self.run_id = run_id
        self._marks_parent = marks_parent
        self._parent_run_id = parent_run_id
        self._is_inside = is_inside
        self._folder = folder_of(client.tracking_uri, artifact_uri)
        self._neighbours: Neighbours | None = None  # unknown without a journal
        self._held: list[Batch] | None = [] if is_held else None
        self._delivery: Delivery | None = None
        self._files: dict[str, tuple[str, bool]] = {}  # text, and whether children get it
        self._lock = threading.RLock()

    @property
    def is_held(self) -> bool:
        """Whether all figures are still held back."""
        return self._held is not None

    @property
    def writes_files_at_once(self) -> bool:
        """Whether the run is no child, and its artifacts lie in a folder: a file costs little."""
        return self._folder is not None and self._parent_run_id is None

    @property
    def held(self) -> tuple[Batch, ...]:
        """The figures held back."""
        return tuple(self._held or ())

    def put(
        self,
        values: Mapping[str, float],
        end_unix_s: float | None,
        tags: Mapping[str, str],
        *,
        step: int = 0,
        earlier: Iterable[Point] = (),
    ) -> None:
        """Takes values stamped with the end of the interval that they describe.

        Args:
            values: by metric.
            end_unix_s: their time; ``None`` where there are no values.
            tags: to set with them.
            step: of the values.
            earlier: points with a time and step of their own, to write in the same call.
        """
        points: list[Point] = []
        if end_unix_s is not None:
            timestamp_ms = round(end_unix_s * MILLISECONDS_PER_SECOND)
            points += [Point(key, value, timestamp_ms, step) for key, value in values.items()]
        batch = Batch((*points, *earlier), dict(tags))
        with self._lock:
            if self._held is None:
                self._deliver(batch)
            else:
                self._held.append(batch)

    def release(self) -> None:
        """Writes the held figures, and all later ones at once, if the run to write to is known."""
        if not self.run_id:
            return
        with self._lock:
            batches, self._held = self._held or [], None
            for batch in batches:
                self._deliver(batch)

    def address_to(self, run_id: str) -> None:
        """Sets the run to write to, found only now; figures held so far are dropped."""
        with self._lock:
            self.run_id, self._held = run_id, None

    @property
    def is_beside_others(self) -> bool:
        """Whether other processes of this machine have metered other runs meanwhile."""
        return self._neighbours is not None and self._neighbours.are_there

    def keep(self) -> None:
        """Opens the journal, if that was put off: there will be figures, and others beside us."""
        if self._delivery is not None:
            self._delivery.keep()

    def flush(self) -> bool:
        """Sends the figures taken, except held ones; returns whether the store has them."""
        delivery = self._delivery
        return delivery is not None and delivery.flush() and not delivery.has_lost

    def attach(self, path: str, text: str, *, is_for_children: bool) -> None:
        """Takes an artifact, which is written after all figures, or else not at all."""
        self._files[path] = (text, is_for_children)

    def close(self) -> bool:
        """Waits for the store for a limited time; returns whether it has taken everything."""
        delivery = self._delivery
        has_all = delivery is not None and delivery.close() and not delivery.has_lost
        for path, (text, is_for_children) in self._files.items() if has_all else ():
            if self._folder is not None and self.writes_files_at_once:
                attach_in_folder(self.run_id, self._folder, path, text)
            elif is_for_children or self._parent_run_id is None:
                made = functools.partial(str, text)
                attach(self.client, self.run_id, path, made, is_for_children=is_for_children)
        self._files.clear()
        return has_all

    def _deliver(self, batch: Batch) -> None:
        if self._delivery is None:
            writer = RunWriter(self.client, self.run_id, marks_parent=self._marks_parent)
            journal = None if self._is_inside else self._open_journal()
            self._delivery = Delivery(
                writer.write,
                journal,
                open_journal=self._open_journal if self._is_inside else None,
                linger_s=LINGER_S,
                interval_s=SEND_INTERVAL_S,
                # Who waits for sqlite's lock waits 20 s at most, by MLflow, as the user's own call
                # does that ends the run.
                is_quick=is_sqlite(self.client.tracking_uri),
            )
        self._delivery.put(batch)

    def _open_journal(self) -> Journal | None:
        """Opens the run's journal and looks for other processes' runs, which see it from now on."""
        journal = _open_journal(self.client, self.run_id)
        if journal is not None:
            self._neighbours = Neighbours(journal.path, self.run_id, self._parent_run_id)
        return journal


class RunWriter:
    """Writes batches to one run; with the first batch, it also tags a metered parent run."""

    def __init__(self, client: MlflowClient, run_id: str, *, marks_parent: bool = True) -> None:
        self._client = client
        self._run_id = run_id
        self._marks_parent = marks_parent

    def write(self, batch: Batch) -> None:
        """Writes one batch; raises whatever the store raises."""
        metrics = [
            Metric(point.key, point.value, point.timestamp_ms, point.step) for point in batch.points
        ]
        texts = dict(batch.tags) if metrics else needed_tags(batch.tags)
        if line := texts.pop(keys.TAG_NOTE, None):
            texts |= self._description(line)
        tags = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in texts.items()]
        write_to_run(self._client, self._run_id, metrics, tags)
        if ends_a_node(batch.tags):
            settle(self._client, self._run_id)
        if self._marks_parent:
            self._mark_parent()
            self._marks_parent = False

    def _description(self, line: str) -> dict[str, str]:
        """Returns the tag of the run's description with our line; empty if that grows too long."""
        before = self._client.get_run(self._run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
        text = with_sentence(before, line)
        return {MLFLOW_RUN_NOTE: text} if len(text) <= MAX_TAG_LENGTH else {}

    def _mark_parent(self) -> None:
        """Tags a metered parent run: its energy contains this run's."""
        parent_run_id = self._client.get_run(self._run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
        if parent_run_id is None:
            return
        if keys.TAG_SCHEMA in self._client.get_run(parent_run_id).data.tags:
            is_parent = RunTag(keys.TAG_SCOPE, keys.SCOPE_PARENT)
            write_to_run(self._client, parent_run_id, [], [is_parent])


def _open_journal(client: MlflowClient, run_id: str) -> Journal | None:
    folder = journal_dir()
    try:
        return Journal(folder, run_id=run_id, tracking_uri=client.tracking_uri)
    except OSError as error:  # a home that cannot be written: batches wait in memory only
        _warn_once(f"No journal can be kept in {folder}: {reason_of(error)}")
        return None


@functools.cache
def _warn_once(sentence: str) -> None:
    _logger.warning("%s. A killed process will lose what it has not sent.", sentence)
