"""A meter's windows, written to one MLflow run while it goes on and summed up at its end."""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from mlflow import MlflowClient

from mlflow_carbon.accounting.forecast import AT_RISK, WITHIN
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.contract.run_record import NOT_PARTIAL, RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import Window, WindowColumns, WindowSeries
from mlflow_carbon.metering.launch import ALONE, Place
from mlflow_carbon.metering.meter import Meter, OpenWindow
from mlflow_carbon.recording.earlier import EarlierPart
from mlflow_carbon.recording.live_forecast import CarbonPlan, LiveForecast
from mlflow_carbon.recording.node_record import NodeRecord
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.silent_windows import SilentWindows
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

TOO_SHORT = "A counter did not move: the run was shorter than its step, its energy is not known."


class Recorder:
    """Meters one run: windows while it goes on, totals when it ends.

    Nothing it does can stop the run or make it wait for the store: what the store does not take
    at once is delivered later, and what could not be measured is absent and named in a tag.
    """

    def __init__(
        self,
        outbox: Outbox,
        meter: Meter,
        *,
        unit: str,
        assumptions: Assumptions,
        earlier: EarlierPart | None = None,
        plan: CarbonPlan = CarbonPlan(),  # noqa: B008  # frozen
        place: Place = ALONE,
    ) -> None:
        """Starts nothing yet.

        Args:
            outbox: of the run.
            meter: a started one.
            unit: what a marked window counts.
            assumptions: what turns energy into CO2e.
            earlier: what an earlier part of the same run has written; this one adds to it.
            plan: how much work the run will do, and what it may emit.
            place: the node that is measured, among those whose energy the run is to have.
        """
        self._outbox = outbox
        self._meter = meter
        self._unit = unit
        self.assumptions = assumptions
        self._earlier = earlier
        self._earlier_kwh = 0.0 if earlier is None else earlier.total.energy_kwh or 0.0
        self._series = WindowSeries() if earlier is None else earlier.series
        self.live = LiveForecast(plan, spent_kwh=self._earlier_kwh, num_nodes=place.num_nodes)
        self._place = place
        self._node = NodeRecord(place, outbox.put) if place.num_nodes > 1 else None
        self._silent = SilentWindows()
        self._total: OpenWindow | None = None
        self._shift_s: float | None = None  # known with the first reading
        self._newest_unix_s = 0.0  # time stamp of the windows
        self._end_minutes: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._has_finished = False
        self._process_id = os.getpid()

    @property
    def run_id(self) -> str:
        """The run that is written to; empty while a further node looks for it."""
        return self._outbox.run_id

    @property
    def client(self) -> MlflowClient:
        """Of the run's store."""
        return self._outbox.client

    @property
    def series_unit(self) -> str | None:
        """What the windows so far count; ``None`` before the first."""
        return self._series.unit

    @property
    def is_held(self) -> bool:
        """Whether everything is still kept back."""
        return self._outbox.is_held

    def start(self, tags: Mapping[str, str] = {}) -> None:  # read only
        """Opens the run's own interval and tags the run with what is assumed about it.

        Args:
            tags: further ones, such as that by which other nodes find the run.
        """
        scope = keys.SCOPE_RUN if self._earlier is None else self._earlier.scope
        own_tags = {keys.TAG_SCHEMA: keys.SCHEMA_VERSION, keys.TAG_SCOPE: scope}
        if self._place.node_index == 0:
            self._outbox.put({}, None, {**own_tags, **tags, **self.assumptions.tags()})
        self._total = self._meter.open_window()
        if self._node is not None:
            self._node.start(self._earlier, self._meter, self.assumptions, self._end_of)
        if self._series.unit in (None, keys.UNIT_MINUTE):
            self._end_minutes = self._meter.every(SECONDS_PER_MINUTE, self._add_minute)

    def restart(self) -> None:
        """Opens the run's own interval again, later."""
        if self._total is not None:
            self._meter.close_window(self._total)
        self._total = self._meter.open_window()

    def release(self) -> None:
        """Writes what was held, and from now on all at once, if it is known to which run."""
        self._outbox.release()

    def mark_as_parent(self) -> None:
        """Tags the run as one whose energy contains that of other metered runs."""
        self._outbox.put({}, None, {keys.TAG_SCOPE: keys.SCOPE_PARENT})

    def report_as(self, unit: str, assumptions: Assumptions) -> None:
        """Changes what the windows and totals from now on are reported by."""
        self._unit = unit
        if assumptions != self.assumptions:
            self.assumptions = assumptions
            self._outbox.put({}, None, assumptions.tags())

    def open(self) -> OpenWindow:
        """Opens a window; any number may be open at once, in any thread."""
        self._stop_minutes()
        return self._meter.open_window()

    def close(self, window: OpenWindow, num_units: float, *, unit: str | None = None) -> None:
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
            self._outbox.address_to(run_id)
            self._earlier = earlier
            if self._node is not None:
                self._node.resume(earlier, self.assumptions)

    def add_earlier(self, earlier: EarlierPart) -> None:
        """Adds the totals of an earlier part that could not be read before."""
        self._earlier = replace(earlier, series=self._series)
        self._shift_s = None

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
        total = Total.of(this_part)
        if self._earlier is not None:
            total = self._earlier.total.plus(total)
        end_unix_s = max(self._end_of(this_part), self._newest_unix_s)
        is_silent = bool(measured.silent) or measured.devices != this_part.devices
        self._write_total(total, end_unix_s, is_silent=is_silent)
        return self._outbox.close()

    def _write_total(self, total: Total, end_unix_s: float, *, is_silent: bool) -> None:
        windows, unit = self._series.windows, self._series.unit or keys.UNIT_MINUTE
        if not len(windows) and total.energy_kwh is not None:
            windows = WindowColumns([_whole_run(total, end_unix_s)])
        record = RunRecord(self.run_id, total=total).summing(windows, unit)
        tags = self._described(is_silent=is_silent) | record.window_tags()
        if self._earlier is not None and self._earlier.is_partial:
            tags[keys.TAG_PARTIAL] = NOT_PARTIAL
        if total.energy_kwh is not None and self.live.end(total.energy_kwh, self.assumptions):
            tags |= self._budget_tags()
        if self._node is None:
            self._outbox.put(record.assuming(self.assumptions).metrics(), end_unix_s, tags)
        else:
            per_unit = record.energy_per_unit
            self._node.end(total, end_unix_s, self.assumptions, per_unit=per_unit, tags=tags)

    def _end_of(self, reading: Reading) -> float:
        """Returns the time stamp of a reading, later than all that an earlier part has written.

        MLflow shows the value of the newest time stamp, whatever the clock has done since.
        """
        if self._shift_s is None:
            newest_ms = 0 if self._earlier is None else self._earlier.newest_ms
            newest_s = newest_ms / MILLISECONDS_PER_SECOND
            self._shift_s = max(0.0, newest_s - reading.start_unix_s)
        return reading.start_unix_s + reading.duration_s + self._shift_s

    def _described(self, *, is_silent: bool) -> dict[str, str]:
        """Returns the tags of what was measured and assumed; warns of what was not measured."""
        description = self._meter.description
        if description.problems and not self.is_held:
            _logger.warning("Energy of run %s: %s", self.run_id, " ".join(description.problems))
        if is_silent:  # no warning: the trials of a sweep may all be that short
            description = replace(description, problems=(*description.problems, TOO_SHORT))
        # Only now is it known what stays unchosen.
        return description.tags() | self.assumptions.default_tags()

    def _add_minute(self, reading: Reading) -> None:
        self._add_window(reading, reading.duration_s / SECONDS_PER_MINUTE, keys.UNIT_MINUTE)

    def _add_window(self, reading: Reading, num_units: float, unit: str) -> None:
        if num_units == 0 or self._is_forked():
            return
        with self._lock:
            is_late_minute = unit == keys.UNIT_MINUTE != self._unit and self._end_minutes is None
            if self._has_finished or is_late_minute:
                return
            work = self._silent.add(reading, num_units, unit)
            window = None if work is None else Window.of(work.reading, work.num_units, unit)
            if window is None:
                return
            end_unix_s = self._end_of(reading)
            self._newest_unix_s = max(self._newest_unix_s, end_unix_s)
            tags = self._series.add(window)
            if self._place.node_index > 0:  # the series are the first node's
                return
            values = window.metrics()
            if self.live.is_wanted:
                live = self.live.add(
                    window,
                    is_planned=unit == self._unit,
                    spent_kwh=self._spent_kwh(),
                    assumptions=self.assumptions,
                )
                values |= live.values
                tags |= self._budget_tags() if live.is_news else {}
            step = self._series.num_points
            self._outbox.put(values, end_unix_s, tags, step=step)

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


def _whole_run(total: Total, end_unix_s: float) -> Window:
    """Returns the one window, counted in minutes, of a run in which nobody marked any."""
    assert total.energy_kwh is not None
    assert total.duration_s is not None
    return Window(
        end_unix_s=end_unix_s,
        duration_s=total.duration_s,
        energy_kwh=total.energy_kwh,
        energy_kwh_by_component=total.energy_kwh_by_component,
        num_units=total.duration_s / SECONDS_PER_MINUTE,
        unit=keys.UNIT_MINUTE,
    )
