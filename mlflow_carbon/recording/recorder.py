"""A meter's windows, written to one MLflow run while it goes on and summed up at its end."""

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon import __version__
from mlflow_carbon.accounting.forecast import AT_RISK, WITHIN
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.metering.launch import ALONE, Place
from mlflow_carbon.metering.meter import Meter, Window
from mlflow_carbon.metering.readings import Reading
from mlflow_carbon.recording.delivery import Delivery
from mlflow_carbon.recording.earlier import EarlierPart, WindowSeries, added
from mlflow_carbon.recording.figures import (
    WindowColumns,
    WindowRecord,
    description_tags,
    per_unit_metrics,
    total_metrics,
    window_metrics,
    window_tags,
)
from mlflow_carbon.recording.journal import Batch, Journal, Point, journal_dir
from mlflow_carbon.recording.live_forecast import CarbonPlan, LiveForecast
from mlflow_carbon.recording.node_record import NodeRecord
from mlflow_carbon.recording.nodes import ends_a_node, settle
from mlflow_carbon.units import SECONDS_PER_MINUTE

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

MAX_TAG_LENGTH = 5000  # MLflow refuses longer values
SEND_INTERVAL_S = 20.0  # one call costs 5 to 15 ms of CPU time, however few windows it takes
TOO_SHORT = "A counter did not move: the run was shorter than its step, its energy is not known."
LINGER_S = 1.0  # a shorter run, such as a trial of a sweep, is written in one call


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
        earlier: EarlierPart | None = None,
        marks_parent: bool = True,
        is_held: bool = False,
        plan: CarbonPlan = CarbonPlan(),  # noqa: B008  # frozen
        place: Place = ALONE,
        launch_tag: str | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            run_id: the run to write to; empty, and ``is_held``, until ``write_to`` names it.
            unit: what a marked window counts.
            assumptions: what turns energy into CO2e.
            client: of the run's store.
            meter: a started one.
            earlier: what an earlier part of the same run has written; this one adds to it.
            marks_parent: whether the run's parent, if it has a metered one, is still to be tagged.
            is_held: whether nothing is written before ``release``.
            plan: how much work the run will do, and what it may emit.
            place: the node that is measured, among those whose energy the run is to have.
            launch_tag: by which other nodes find the run.
        """
        self.run_id = run_id
        self._place = place
        self._node = NodeRecord(place, self._put) if place.num_nodes > 1 else None
        self._launch_tag = launch_tag
        self._earlier_kwh = 0.0 if earlier is None else earlier.total.energy_kwh or 0.0
        self.live = LiveForecast(plan, spent_kwh=self._earlier_kwh, num_nodes=place.num_nodes)
        self.assumptions = assumptions
        self._unit = unit
        self._meter = meter
        self.client = client
        self._marks_parent = marks_parent
        self._earlier = earlier
        self._series = WindowSeries() if earlier is None else earlier.series
        self._held: list[Batch] | None = [] if is_held else None
        self._delivery: Delivery | None = None
        self._total: Window | None = None
        self._end_minutes: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._has_finished = False
        self._process_id = os.getpid()

    @property
    def series_unit(self) -> str | None:
        """What the windows so far count; ``None`` before the first."""
        return self._series.unit

    @property
    def is_held(self) -> bool:
        """Whether everything is still kept back."""
        return self._held is not None

    def start(self) -> None:
        """Opens the run's own interval and tags the run with what is assumed about it."""
        scope = keys.SCOPE_RUN if self._earlier is None else self._earlier.scope
        tags = {
            keys.TAG_SCHEMA: keys.SCHEMA_VERSION,
            keys.TAG_SCOPE: scope,
            keys.TAG_PLUGIN_VERSION: __version__,
        }
        if self._launch_tag is not None:
            tags[keys.TAG_LAUNCH] = self._launch_tag
        if self._place.node_index == 0:
            self._put({}, None, tags | self.assumptions.tags())
        self._total = self._meter.open_window()
        if self._node is not None:
            self._node.start(self._earlier, self._meter, self.assumptions)
        if self._series.unit in (None, keys.UNIT_MINUTE):
            self._end_minutes = self._meter.every(SECONDS_PER_MINUTE, self._add_minute)

    def restart(self) -> None:
        """Opens the run's own interval again, later."""
        if self._total is not None:
            self._meter.close_window(self._total)
        self._total = self._meter.open_window()

    def release(self) -> None:
        """Writes what was held, and from now on all at once, if it is known to which run."""
        if not self.run_id:
            return
        with self._lock:
            batches, self._held = self._held or [], None
            for batch in batches:
                self._deliver(batch)

    def mark_as_parent(self) -> None:
        """Tags the run as one whose energy contains that of other metered runs."""
        self._put({}, None, {keys.TAG_SCOPE: keys.SCOPE_PARENT})

    def report_as(self, unit: str, assumptions: Assumptions) -> None:
        """Changes what the windows and totals from now on are reported by."""
        self._unit = unit
        if assumptions != self.assumptions:
            self.assumptions = assumptions
            self._put({}, None, assumptions.tags())

    def open(self) -> Window:
        """Opens a window; any number may be open at once, in any thread."""
        self._stop_minutes()
        return self._meter.open_window()

    def close(self, window: Window, num_units: float, *, unit: str | None = None) -> None:
        """Closes a window and writes it as the next point of the run's window series.

        A window that did nothing (``num_units`` 0) or that nothing could measure is left out.

        Args:
            window: an open one.
            num_units: units that were done in it.
            unit: what it counts; ``None`` for the run's own unit.
        """
        self._add_window(self._meter.close_window(window), num_units, unit or self._unit)

    def write_to(self, run_id: str, earlier: EarlierPart | None) -> None:
        """Writes to a run that is found only now; a further node has held nothing but totals."""
        with self._lock:
            self.run_id, self._earlier, self._held = run_id, earlier, None
            if self._node is not None:
                self._node.resume(earlier, self.assumptions)

    def add_earlier(self, total: Reading) -> None:
        """Adds the totals of an earlier part that could not be read before."""
        self._earlier = EarlierPart(total, self._series, keys.SCOPE_RUN)

    def finish(self) -> bool:
        """Closes the run's interval and writes its totals; call it before the run ends.

        Returns:
            Whether the store has all of it.
        """
        if self._total is None or self._is_forked():
            return False
        self._stop_minutes()
        with self._lock:
            self._has_finished = True
        measured = self._meter.close_window(self._total)
        this_part = measured.without_silent()
        end_unix_s = this_part.start_unix_s + this_part.duration_s
        total = this_part if self._earlier is None else added([self._earlier.total, this_part])
        windows, unit = self._series.windows, self._series.unit or keys.UNIT_MINUTE
        if not len(windows) and total.energy_kwh is not None:
            windows = WindowColumns([WindowRecord(total, total.duration_s / SECONDS_PER_MINUTE)])
        is_known = total.energy_kwh is not None
        per_unit = per_unit_metrics(windows, unit, self.assumptions) if is_known else {}
        tags = self._described(is_silent=measured.devices != this_part.devices)
        tags |= window_tags(windows, unit)
        if total.energy_kwh is not None and self.live.end(total.energy_kwh, self.assumptions):
            tags |= self._budget_tags()
        if self._node is None:
            self._put(total_metrics(total, self.assumptions) | per_unit, end_unix_s, tags)
        else:
            self._node.end(total, end_unix_s, self.assumptions, per_unit=per_unit, tags=tags)
        delivery = self._delivery
        return delivery is not None and delivery.close() and not delivery.has_lost

    def _described(self, *, is_silent: bool) -> dict[str, str]:
        """Returns the tags of what was measured and assumed; warns of what was not measured."""
        description = self._meter.description
        if description.problems and not self.is_held:
            _logger.warning("Energy of run %s: %s", self.run_id, " ".join(description.problems))
        if is_silent:  # no warning: the trials of a sweep may all be that short
            description = replace(description, problems=(*description.problems, TOO_SHORT))
        # Only now is it known what stays unchosen.
        return description_tags(description) | self.assumptions.default_tags()

    def _add_minute(self, reading: Reading) -> None:
        self._add_window(reading, reading.duration_s / SECONDS_PER_MINUTE, keys.UNIT_MINUTE)

    def _add_window(self, reading: Reading, num_units: float, unit: str) -> None:
        if reading.energy_kwh is None or num_units == 0 or self._is_forked():
            return
        with self._lock:
            is_late_minute = unit == keys.UNIT_MINUTE != self._unit and self._end_minutes is None
            if self._has_finished or is_late_minute:
                return
            tags = self._series.add(WindowRecord(reading, num_units), unit)
            if self._place.node_index > 0:  # the series are the first node's
                return
            end_unix_s = reading.start_unix_s + reading.duration_s
            values = window_metrics(reading, num_units)
            if self.live.is_wanted:
                live = self.live.add(
                    WindowRecord(reading, num_units),
                    is_planned=unit == self._unit,
                    spent_kwh=self._spent_kwh(),
                    assumptions=self.assumptions,
                )
                values |= live.values
                tags |= self._budget_tags() if live.is_news else {}
            self._put(values, end_unix_s, tags, step=self._series.num_points)

    def _spent_kwh(self) -> float | None:
        """Returns the run's energy up to the latest reading; ``None`` if nothing is measured."""
        if self._total is None:
            return None
        energy_kwh = self._meter.reading_so_far(self._total).energy_kwh
        return None if energy_kwh is None else self._earlier_kwh + energy_kwh

    def _budget_tags(self) -> dict[str, str]:
        """Returns the tags of the budget and its newest state, which the user is warned of."""
        verdict, budget_kg = self.live.verdict, self.live.plan.budget_kg
        assert verdict is not None
        if verdict.state not in (WITHIN, AT_RISK) and not callable(self.live.plan.on_budget):
            _logger.warning("Carbon budget of run %s: %s", self.run_id, verdict.sentence)
        return {keys.TAG_BUDGET_KG: f"{budget_kg:g}", keys.TAG_BUDGET_STATE: verdict.state}

    def _stop_minutes(self) -> None:
        """Leaves the windows to whoever marks them from now on."""
        if self._end_minutes is None or self._is_forked():
            return
        with self._lock:
            end_minutes, self._end_minutes = self._end_minutes, None
            if end_minutes is not None:
                end_minutes()

    def _is_forked(self) -> bool:
        """Returns whether this is a child process, which must not repeat its parent's figures."""
        return os.getpid() != self._process_id

    def _put(
        self,
        values: dict[str, float],
        end_unix_s: float | None,
        tags: dict[str, str],
        *,
        step: int = 0,
    ) -> None:
        """Hands over values stamped with the end of the interval they describe."""
        points: tuple[Point, ...] = ()
        if end_unix_s is not None:
            timestamp_ms = round(end_unix_s * 1000)
            points = tuple(Point(key, value, timestamp_ms, step) for key, value in values.items())
        with self._lock:
            if self._held is None:
                self._deliver(Batch(points, tags))
            else:
                self._held.append(Batch(points, tags))

    def _deliver(self, batch: Batch) -> None:
        if self._delivery is None:
            writer = RunWriter(self.client, self.run_id, marks_parent=self._marks_parent)
            journal = _open_journal(self.client, self.run_id)
            self._delivery = Delivery(
                writer.write, journal, linger_s=LINGER_S, interval_s=SEND_INTERVAL_S
            )
        self._delivery.put(batch)


class RunWriter:
    """Writes batches to one run; with the first it also tags a metered parent as such."""

    def __init__(self, client: MlflowClient, run_id: str, *, marks_parent: bool = True) -> None:
        self._client = client
        self._run_id = run_id
        self._marks_parent = marks_parent

    def write(self, batch: Batch) -> None:
        """Writes one batch; raises whatever the store raises."""
        metrics = [
            Metric(point.key, point.value, point.timestamp_ms, point.step) for point in batch.points
        ]
        tags = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in batch.tags.items()]
        self._client.log_batch(self._run_id, metrics=metrics, tags=tags)
        if ends_a_node(batch.tags):
            settle(self._client, self._run_id)
        if self._marks_parent:
            self._mark_parent()
            self._marks_parent = False

    def _mark_parent(self) -> None:
        """Tags a metered parent run: its energy contains this run's."""
        parent_run_id = self._client.get_run(self._run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
        if parent_run_id is None:
            return
        if keys.TAG_SCHEMA in self._client.get_run(parent_run_id).data.tags:
            self._client.set_tag(parent_run_id, keys.TAG_SCOPE, keys.SCOPE_PARENT)


def _open_journal(client: MlflowClient, run_id: str) -> Journal | None:
    try:
        return Journal(journal_dir(), run_id=run_id, tracking_uri=client.tracking_uri)
    except OSError:  # a home that cannot be written: batches wait in memory only
        return None
