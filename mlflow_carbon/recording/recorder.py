"""A meter's windows, written to one MLflow run while it goes on and summed up at its end."""

import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from mlflow import MlflowClient

from mlflow_carbon import __version__
from mlflow_carbon.accounting.forecast import AT_RISK, WITHIN
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.footprint_file import ARTIFACT, footprint_text
from mlflow_carbon.contract.measurement import MeterDescription, Reading
from mlflow_carbon.contract.run_description import note_tags
from mlflow_carbon.contract.run_record import NOT_PARTIAL, RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.unit_series import UnitSeries
from mlflow_carbon.contract.windows import Window, WindowColumns
from mlflow_carbon.metering.launch import ALONE, Place
from mlflow_carbon.metering.other_load import NOTABLE_FRACTION
from mlflow_carbon.metering.protocol import EnergyMeter, OpenWindow
from mlflow_carbon.recording.earlier import EarlierPart
from mlflow_carbon.recording.journal import Point
from mlflow_carbon.recording.live_forecast import CarbonPlan, LiveForecast
from mlflow_carbon.recording.marked_windows import MarkedWindow, MarkedWindows, Stretch
from mlflow_carbon.recording.node_record import NodeRecord
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.run_curves import SHORTEST_S, RunCurves, total_step
from mlflow_carbon.recording.run_files import SHORTEST_CHILD_S
from mlflow_carbon.recording.silent_windows import SilentWindows
from mlflow_carbon.recording.stored_footprint import attach_stored_footprint
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

# `start_run` creates a run and then makes it active: no device counts in steps this short.
HARDLY_S = 0.005

TOO_SHORT = "A counter did not move: the run was shorter than its step, its energy is not known."


class Recorder:
    """Meters one run: windows while it goes on, totals when it ends.

    The recorder never stops the run or makes it wait for the store: figures that the store does
    not take at once are delivered later; what could not be measured is absent and named in a tag.
    """

    def __init__(
        self,
        outbox: Outbox,
        meter: EnergyMeter,
        *,
        unit: str,
        assumptions: Assumptions,
        earlier: EarlierPart | None = None,
        plan: CarbonPlan = CarbonPlan(),  # noqa: B008  # frozen
        place: Place = ALONE,
        is_unread: bool = False,
    ) -> None:
        """Starts nothing yet.

        Args:
            outbox: of the run.
            meter: a started one.
            unit: what a marked window counts.
            assumptions: what turns energy into CO2e.
            earlier: figures of an earlier part of the same run, to add to.
            plan: how much work the run will do, and how much it may emit.
            place: the measured node, among all nodes of the run.
            is_unread: whether the run may have earlier totals that are not known yet; a total so
                far would take their place.
        """
        self._outbox = outbox
        self.meter = meter
        self._unit = unit
        self.assumptions = assumptions
        self._earlier = earlier
        self._earlier_kwh = 0.0 if earlier is None else earlier.total.energy_kwh or 0.0
        self._series = UnitSeries() if earlier is None else earlier.unit_series()
        self._is_unread = is_unread
        self._curves = RunCurves(spent_kwh=self._earlier_kwh, is_node=place.num_nodes > 1)
        self._marked = MarkedWindows(meter, self._add_stretch)
        self._num_overlapping = 0
        self.live = LiveForecast(plan, spent_kwh=self._earlier_kwh, num_nodes=place.num_nodes)
        self._place = place
        self._node = NodeRecord(place, outbox.put) if place.num_nodes > 1 else None
        self._silent: defaultdict[str, SilentWindows] = defaultdict(SilentWindows)  # by unit
        self._total: OpenWindow | None = None
        self._shift_s: float | None = None  # known with the first reading
        self._newest_unix_s = 0.0  # time stamp of the windows
        self._end_minutes: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._has_finished = False
        self._summary: RunRecord | None = None  # known at the end
        # say how many steps a sample took, and what would have cost less than the ended run
        self.steps_of: Callable[[], int | None] = lambda: None
        self.cheaper_of: Callable[[RunRecord], str] = lambda _record: ""
        self.other_cpu_fraction: float | None = None  # what others used of the node's CPU
        self._is_beside_others = False
        self._is_described = False  # whether the run's tags say how it is measured
        self._process_id = os.getpid()

    @property
    def run_id(self) -> str:
        """The run to write to; empty while a further node looks for the run."""
        return self._outbox.run_id

    @property
    def client(self) -> MlflowClient:
        """The client of the run's store."""
        return self._outbox.client

    @property
    def series_unit(self) -> str | None:
        """The unit of the windows so far; ``None`` before the first window."""
        return self._series.main.unit

    @property
    def is_held(self) -> bool:
        """Whether all figures are still held back."""
        return self._outbox.is_held

    def start(self, tags: Mapping[str, str] = {}) -> None:  # read only
        """Opens the run's own interval and tags the run with its assumptions.

        Args:
            tags: further tags, such as the one by which other nodes find the run.
        """
        scope = keys.SCOPE_RUN if self._earlier is None else self._earlier.scope
        own_tags = {
            keys.TAG_SCHEMA: keys.SCHEMA_VERSION,
            keys.TAG_SCOPE: scope,
            keys.TAG_PLUGIN_VERSION: __version__,
        }
        if self._place.node_index == 0:
            self._outbox.put({}, None, {**own_tags, **tags, **self.assumptions.tags()})
            self._note_neighbours()
        self._total = self.meter.open_window()
        if self._node is not None:
            self._node.start(self._earlier, self.meter, self.assumptions, self._end_of)
        if self._series.main.unit in (None, keys.UNIT_MINUTE):
            self._end_minutes = self.meter.every(SECONDS_PER_MINUTE, self._add_minute)

    def restart(self) -> None:
        """Opens the run's own interval again, unless it has hardly begun."""
        if self._total is not None:
            if 0 <= time.time() - self._total.start_unix_s < HARDLY_S:
                return
            self.meter.close_window(self._total)
        self._total = self.meter.open_window()

    def release(self) -> None:
        """Writes the held figures, and all later ones at once, if the run to write to is known."""
        self._outbox.release()
        self._note_neighbours()

    def mark_as_parent(self) -> None:
        """Tags the run as one whose energy contains that of other metered runs."""
        self._outbox.put({}, None, {keys.TAG_SCOPE: keys.SCOPE_PARENT})

    def report_as(self, unit: str, assumptions: Assumptions) -> None:
        """Changes the unit and the assumptions of the windows and totals from now on."""
        self._unit = unit
        if assumptions != self.assumptions:
            self.assumptions = assumptions
            self._outbox.put({}, None, assumptions.tags())

    @property
    def unit(self) -> str:
        """The unit of windows that are opened without one."""
        return self._unit

    def open(self, unit: str | None = None, *, is_automatic: bool = False) -> MarkedWindow:
        """Opens a window; any number may be open at once, in any thread.

        Args:
            unit: what the window counts; ``None`` for the run's own unit.
            is_automatic: whether a framework marks the window, not the user.
        """
        self._stop_minutes()
        if self._is_forked():  # a lock that the parent held would stay locked here
            stretch = Stretch(unit or self._unit, self.meter.open_window(), is_automatic)
            return MarkedWindow(stretch, is_stopped=True)
        return self._marked.open(unit or self._unit, is_automatic=is_automatic)

    def stop(self, window: MarkedWindow) -> None:
        """Ends a window whose units are not known yet; ``close`` then gives their number."""
        if not self._is_forked():
            self._marked.stop(window)

    def close(self, window: MarkedWindow, num_units: float) -> None:
        """Closes a window and writes it as the next point of its unit's series.

        A window without work (``num_units`` 0) or without a measurement is left out. Overlapping
        windows of one unit become one point with the units of all.
        """
        self.stop(window)
        if not self._is_forked():
            self._marked.count(window, num_units)

    def flush(self) -> bool:
        """Sends the figures so far; returns whether the store has all of them."""
        return self._outbox.flush()

    def mark_as_shared(self) -> None:
        """Tags the run as one whose energy includes that of other runs at the same time."""
        self._outbox.put({}, None, {keys.TAG_SHARED: "true"})

    def _note_neighbours(self) -> None:
        """Tags the run, once, if other processes meter other runs of this machine."""
        if not self._is_beside_others and self._has_energy_of_others():
            self._is_beside_others = True
            self.mark_as_shared()

    def _has_energy_of_others(self) -> bool:
        """Returns whether the run's energy includes that of other processes' metered runs."""
        if not self._outbox.is_beside_others:
            return False
        return self.meter.description.attribution != keys.PROCESS_SHARE

    def write_to(self, run_id: str, earlier: EarlierPart | None) -> None:
        """Sets the run to write to, found only now; a further node has held only totals."""
        with self._lock:
            self._outbox.address_to(run_id)
            self._earlier = earlier
            if self._node is not None:
                self._node.resume(earlier, self.assumptions)

    def add_earlier(self, earlier: EarlierPart) -> None:
        """Adds the totals of an earlier part that could not be read before."""
        self._earlier = replace(earlier, series=self._series.main)
        self._shift_s = None

    def finish(self) -> bool:
        """Closes the run's interval and writes its totals; call it before the run ends.

        Returns:
            Whether the store has all of the run's figures.
        """
        if self._total is None or self._is_forked():
            return False
        self._stop_minutes()
        with self._lock:
            self._has_finished = True
        measured = self.meter.close_window(self._total)
        self.other_cpu_fraction = measured.other_cpu_fraction
        this_part = measured.without_silent()
        total = Total.of(this_part)
        if self._earlier is not None:
            total = self._earlier.total.plus(total)
        end_unix_s = self._end_of(this_part)
        if self._newest_unix_s:  # the total is the newest point of its step
            end_unix_s = max(end_unix_s, self._newest_unix_s + SHORTEST_S)
        is_silent = bool(measured.silent) or measured.devices != this_part.devices
        start_ms = round((self._end_of(this_part) - this_part.duration_s) * MILLISECONDS_PER_SECOND)
        self._write_total(total, start_ms, end_unix_s, is_silent=is_silent)
        has_all = self._outbox.close()
        if has_all and self._node is not None:
            attach_stored_footprint(self.client, self.run_id)
        return has_all

    def _write_total(
        self, total: Total, start_ms: int, end_unix_s: float, *, is_silent: bool
    ) -> None:
        windows, unit = self._series.main.windows, self._series.main.unit or keys.UNIT_MINUTE
        has_windows = len(windows) > 0
        if not has_windows and total.energy_kwh is not None:
            windows = WindowColumns([total.as_window(end_unix_s)])
        record = RunRecord(
            self.run_id,
            total=total,
            total_end_ms=round(end_unix_s * MILLISECONDS_PER_SECOND),
            part_start_ms=start_ms,
        )
        record = record.summing(windows, unit)
        if total.energy_kwh is not None:
            energies = {**self._series.energy_per_other_unit(), **record.energy_per_unit}
            record = replace(record, energy_per_unit=energies)
        description = self._description(is_silent=is_silent)
        tags = description.tags() | self.assumptions.default_tags() | record.window_tags()
        self._summary = replace(record.assuming(self.assumptions), description=description)
        if total.energy_kwh is not None:
            self._outbox.keep()
        if (self.other_cpu_fraction or 0.0) > NOTABLE_FRACTION:
            tags[keys.TAG_OTHER_LOAD] = f"{self.other_cpu_fraction:.0%} of the CPU"
        if self._has_energy_of_others():
            tags[keys.TAG_SHARED] = "true"
        if self._earlier is not None and self._earlier.is_partial:
            tags[keys.TAG_PARTIAL] = NOT_PARTIAL
        if total.energy_kwh is not None and self.live.end(total.energy_kwh, self.assumptions):
            tags |= self._budget_tags()
        if self._node is not None:
            per_unit = record.energy_per_unit
            self._node.end(total, end_unix_s, self.assumptions, per_unit=per_unit, tags=tags)
            return
        earlier_step = 0 if self._earlier is None else self._earlier.last_step
        step = total_step(max(self._series.main.num_points, earlier_step))
        values = self._summary.metrics()
        if values and step == 0 and total.power_w is not None:  # further on, it is a window's
            values[keys.POWER_W] = total.power_w
        note = note_tags(self._summary, steps_of=self.steps_of, cheaper_of=self.cheaper_of)
        tags |= record.total_tags() | note
        text = None
        if note or self._outbox.writes_files_at_once:
            text = footprint_text(self._summary, self._series.main.windows)
        if text is not None:
            is_long = (total.duration_s or 0.0) >= SHORTEST_CHILD_S
            self._outbox.attach(ARTIFACT, text, is_for_children=is_long)
        self._outbox.put(values, end_unix_s, tags, step=step)

    def summary(self) -> RunRecord:
        """Returns this node's record of the run: at its end, or until the latest reading.

        Windows are in it at the end only.
        """
        if self._summary is not None:
            return self._summary
        record = RunRecord(self.run_id, total=self._total_so_far()).assuming(self.assumptions)
        return replace(record, description=self.meter.description)

    @property
    def windows_kwh(self) -> float:
        """The energy inside the windows of the run's own unit."""
        return self._series.main.windows.energy_kwh

    def _end_of(self, reading: Reading) -> float:
        """Returns a reading's time stamp, made later than any that an earlier part has written.

        MLflow shows the value with the newest time stamp, even if the clock was set back since.
        """
        if self._shift_s is None:
            newest_ms = 0 if self._earlier is None else self._earlier.newest_ms
            newest_s = newest_ms / MILLISECONDS_PER_SECOND
            self._shift_s = max(0.0, newest_s - reading.start_unix_s)
        return reading.start_unix_s + reading.duration_s + self._shift_s

    def _description(self, *, is_silent: bool) -> MeterDescription:
        """Returns the description of the measurement; warns of devices that it lacks."""
        description = self.meter.description
        if description.problems and not self.is_held:
            _logger.warning("Energy of run %s: %s", self.run_id, " ".join(description.problems))
        if is_silent:  # no warning: the trials of a sweep may all be that short
            description = replace(description, problems=(*description.problems, TOO_SHORT))
        return description

    def _add_minute(self, reading: Reading) -> None:
        self._add_window(reading, reading.duration_s / SECONDS_PER_MINUTE, keys.UNIT_MINUTE)

    def _add_stretch(self, stretch: Stretch) -> None:
        assert stretch.reading is not None
        self._add_window(
            stretch.reading,
            stretch.num_units,
            stretch.unit,
            is_automatic=stretch.is_automatic,
            is_forecast=stretch.unit == self._unit or self._unit not in stretch.other_units,
            tags=self._overlap_tags(stretch),
        )

    def _overlap_tags(self, stretch: Stretch) -> dict[str, str]:
        """Returns the tag for overlapping windows of one unit; warns at the first overlap."""
        if stretch.num_marks == 1:
            return {}
        if self._num_overlapping == 0:
            _logger.warning(
                "Windows of run %s that count the unit %s overlap. Those that do are measured as "
                "one, with the units of all but those that hold others. To measure each by "
                "itself, mark one after the other, or let the outer ones count another unit.",
                self.run_id,
                stretch.unit,
            )
        self._num_overlapping += stretch.num_marks
        return {keys.TAG_OVERLAPPING_WINDOWS: str(self._num_overlapping)}

    def _add_window(
        self,
        reading: Reading,
        num_units: float,
        unit: str,
        *,
        is_automatic: bool = True,
        is_forecast: bool = True,
        tags: Mapping[str, str] = {},  # read only
    ) -> None:
        if num_units == 0 or self._is_forked():
            return
        with self._lock:
            is_late_minute = unit == keys.UNIT_MINUTE != self._unit and self._end_minutes is None
            if self._has_finished or is_late_minute:
                return
            work = self._silent[unit].add(reading, num_units, unit)
            window = None if work is None else Window.of(work.reading, work.num_units, unit)
            if window is None:
                return
            end_unix_s = self._end_of(reading)
            self._newest_unix_s = max(self._newest_unix_s, end_unix_s)
            placed = self._series.add(window, is_automatic=is_automatic)
            if self._place.node_index > 0:  # the curves are the first node's
                return
            so_far = self._total_so_far()
            values: dict[str, float] = {}
            points: list[Point] = []
            tags = {**self._first_description_tags(), **placed.tags, **tags}
            if placed.step is not None:
                values, points = self._curves.add(
                    window,
                    step=placed.step,
                    end_unix_s=end_unix_s,
                    so_far=so_far,
                    windows=self._series.main.windows,
                    assumptions=self.assumptions,
                    has_forecast=self.live.is_wanted,
                )
            if self._node is None and so_far is not None and not self._is_unread:
                end_ms = round(end_unix_s * MILLISECONDS_PER_SECOND)
                record = RunRecord(self.run_id, so_far=so_far, total_end_ms=end_ms)
                tags |= record.total_tags()
            if self.live.is_wanted and is_forecast:
                live = self.live.add(
                    window,
                    is_planned=unit == self._unit,
                    spent_kwh=None if so_far is None else so_far.energy_kwh,
                    assumptions=self.assumptions,
                )
                values |= live.values
                tags |= live.tags | (self._budget_tags() if live.is_news else {})
            step = self._series.main.num_points if placed.step is None else placed.step
            self._outbox.put(values, end_unix_s, tags, step=step, earlier=points)

    def _first_description_tags(self) -> dict[str, str]:
        """Returns, once, how the run is measured: a killed run is compared by it.

        What is missing is said at the end only, as it may turn up until then.
        """
        if self._is_described:
            return {}
        self._is_described = True
        return replace(self.meter.description, problems=()).tags()

    def _total_so_far(self) -> Total | None:
        """Returns the run's total up to the latest reading; ``None`` if nothing is measured."""
        if self._total is None:
            return None
        total = Total.of(self.meter.reading_so_far(self._total))
        if total.energy_kwh is None:
            return None
        return total if self._earlier is None else self._earlier.total.plus(total)

    def _budget_tags(self) -> dict[str, str]:
        """Returns the tags of the budget and its newest state; warns the user of that state."""
        verdict, budget_kg = self.live.verdict, self.live.plan.budget_kg
        assert verdict is not None
        if verdict.state not in (WITHIN, AT_RISK) and not callable(self.live.plan.on_budget):
            _logger.warning("Carbon budget of run %s: %s", self.run_id, verdict.sentence)
        return {keys.TAG_BUDGET_KG: f"{budget_kg:g}", keys.TAG_BUDGET_STATE: verdict.state}

    def _stop_minutes(self) -> None:
        """Stops marking a window each minute, as others now mark windows."""
        if self._end_minutes is None or self._is_forked():
            return
        with self._lock:
            end_minutes, self._end_minutes = self._end_minutes, None
            if end_minutes is not None:
                end_minutes()

    def _is_forked(self) -> bool:
        """Returns whether this is a child process, which must not repeat its parent's figures."""
        return os.getpid() != self._process_id
