"""A meter's windows, written to one MLflow run while it goes on and summed up at its end."""

import logging
import os
import threading

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon import schema
from mlflow_carbon.accounting.assumptions import Assumptions
from mlflow_carbon.metering.meter import Meter, Window
from mlflow_carbon.metering.readings import Reading
from mlflow_carbon.recording.delivery import Delivery
from mlflow_carbon.recording.figures import (
    WindowRecord,
    description_tags,
    per_unit_metrics,
    total_metrics,
    window_metrics,
    window_tags,
)
from mlflow_carbon.recording.journal import Batch, Journal, Point, journal_dir
from mlflow_carbon.units import SECONDS_PER_MINUTE

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

MAX_TAG_LENGTH = 5000  # MLflow refuses longer values


class Recorder:
    """Meters one run: windows while it goes on, totals when it ends.

    Nothing it does can stop the run or make it wait for the store: what the store does not take
    at once is delivered later, and what could not be measured is absent and named in a tag.
    """

    def __init__(
        self,
        run_id: str,
        *,
        unit: str,
        assumptions: Assumptions,
        client: MlflowClient,
        meter: Meter,
    ) -> None:
        self.run_id = run_id
        self.assumptions = assumptions
        self._unit = unit
        self._meter = meter
        self._delivery = Delivery(RunWriter(client, run_id).write, _open_journal(client, run_id))
        self._total: Window | None = None
        self._windows: list[WindowRecord] = []
        self._lock = threading.Lock()
        self._has_finished = False
        self._process_id = os.getpid()

    @property
    def windows(self) -> tuple[WindowRecord, ...]:
        """The windows closed so far, in order."""
        return tuple(self._windows)

    def start(self) -> None:
        """Opens the run's own interval and tags the run with what is assumed about it."""
        tags = {schema.TAG_SCHEMA: schema.SCHEMA_VERSION, schema.TAG_SCOPE: schema.SCOPE_RUN}
        self._put({}, None, tags | self.assumptions.tags())
        self._total = self._meter.open_window()

    def report_as(self, unit: str, assumptions: Assumptions) -> None:
        """Changes what the windows and totals from now on are reported by."""
        self._unit = unit
        if assumptions != self.assumptions:
            self.assumptions = assumptions
            self._put({}, None, assumptions.tags())

    def open(self) -> Window:
        """Opens a window; any number may be open at once, in any thread."""
        return self._meter.open_window()

    def close(self, window: Window, num_units: float) -> None:
        """Closes a window and writes it as the next point of the run's window series.

        A window that did nothing (``num_units`` 0) or that nothing could measure is left out.
        """
        reading = self._meter.close_window(window)
        if reading.energy_kwh is None or num_units == 0 or self._is_forked():
            return
        with self._lock:
            if self._has_finished:
                return
            self._windows.append(WindowRecord(reading, num_units))
            self._put(window_metrics(reading, num_units), reading, {}, step=len(self._windows))

    def finish(self) -> None:
        """Closes the run's interval and writes its totals; call it before the run ends."""
        if self._total is None or self._is_forked():
            return
        with self._lock:
            self._has_finished = True
        total = self._meter.close_window(self._total)
        windows, unit = self._windows, self._unit
        if not windows and total.energy_kwh is not None:
            windows, unit = [WindowRecord(total, total.duration_s / SECONDS_PER_MINUTE)], "minute"
        values = total_metrics(total, self.assumptions)
        values |= per_unit_metrics(windows, unit, self.assumptions)
        description = self._meter.description
        if description.problems:
            _logger.warning("Energy of run %s: %s", self.run_id, " ".join(description.problems))
        tags = description_tags(description) | window_tags(windows, unit)
        tags |= self.assumptions.default_tags()  # only now is it known what stays unchosen
        self._put(values, total, tags, step=0)
        self._delivery.close()

    def _is_forked(self) -> bool:
        """Returns whether this is a child process, which must not repeat its parent's figures."""
        return os.getpid() != self._process_id

    def _put(
        self,
        values: dict[str, float],
        reading: Reading | None,
        tags: dict[str, str],
        *,
        step: int = 0,
    ) -> None:
        """Hands over values stamped with the end of the interval they describe."""
        points: tuple[Point, ...] = ()
        if reading is not None:
            timestamp_ms = round((reading.start_unix_s + reading.duration_s) * 1000)
            points = tuple(Point(key, value, timestamp_ms, step) for key, value in values.items())
        self._delivery.put(Batch(points, tags))


class RunWriter:
    """Writes batches to one run; the first also marks a metered parent run as such."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._has_marked_parent = False

    def write(self, batch: Batch) -> None:
        """Writes one batch; raises whatever the store raises."""
        metrics = [
            Metric(point.key, point.value, point.timestamp_ms, point.step) for point in batch.points
        ]
        tags = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in batch.tags.items()]
        self._client.log_batch(self._run_id, metrics=metrics, tags=tags)
        if not self._has_marked_parent:
            self._mark_parent()
            self._has_marked_parent = True

    def _mark_parent(self) -> None:
        """Tags a metered parent run: its energy contains this run's."""
        parent_run_id = self._client.get_run(self._run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
        if parent_run_id is None:
            return
        if schema.TAG_SCHEMA in self._client.get_run(parent_run_id).data.tags:
            self._client.set_tag(parent_run_id, schema.TAG_SCOPE, schema.SCOPE_PARENT)


def _open_journal(client: MlflowClient, run_id: str) -> Journal | None:
    try:
        return Journal(journal_dir(), run_id=run_id, tracking_uri=client.tracking_uri)
    except OSError:  # a home that cannot be written: batches wait in memory only
        return None
