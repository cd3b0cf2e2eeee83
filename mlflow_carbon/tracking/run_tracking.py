"""The metering of one run from its start to its end."""

import functools
import logging
from dataclasses import replace
from typing import Protocol

from mlflow import MlflowClient

from mlflow_carbon.accounting.cheaper import (
    Change,
    cheapest,
    cleaner_region,
    fewer_steps,
    half_the_units,
    num_steps,
    steps_parameter,
)
from mlflow_carbon.accounting.forecast import WITHIN
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.errors import CarbonBudgetError
from mlflow_carbon.metering.other_load import NOTABLE_FRACTION
from mlflow_carbon.metering.protocol import EnergyMeter
from mlflow_carbon.recording.earlier import EarlierPart, read_earlier_total
from mlflow_carbon.recording.live_forecast import STOP, CarbonPlan
from mlflow_carbon.recording.marked_windows import MarkedWindow
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.registry.inference import SAMPLE
from mlflow_carbon.reporting.receipt import Part, RunFootprint, changes_text, footprint_of
from mlflow_carbon.tracking.epoch_windows import EpochWindows
from mlflow_carbon.tracking.launch_run import RunSearch
from mlflow_carbon.tracking.model_lookups import ModelLookups, NewRun, record_models
from mlflow_carbon.tracking.patience import FIND_TIMEOUT_S, READ_TIMEOUT_S, within
from mlflow_carbon.tracking.receipts import (
    is_silent,
    keep,
    place_in_ui,
    print_receipt,
    runs_in_ui,
)
from mlflow_carbon.tracking.run_start import RunStart
from mlflow_carbon.tracking.tracking_options import TrackingOptions

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

NO_RUN = (
    "The energy of this node is lost: no run of rank 0 was found in this experiment. "
    "Pass run_id= or set MLFLOW_RUN_ID on all nodes."
)


class MeteringProcess(Protocol):
    """What a run's metering asks of the process that has the meter."""

    lookups: ModelLookups

    @property
    def trackings(self) -> tuple["RunTracking", ...]:
        """The runs that are being metered."""
        ...

    def forget(self, tracking: "RunTracking") -> bool:
        """Takes a run off the list; returns whether it was on it."""
        ...

    def release_meter(self) -> None:
        """Stops the meter if no run needs it any more."""
        ...

    def note_overlap(self, tracking: "RunTracking") -> None:
        """Notes that a run's energy is written, beside that of runs that are metered already."""
        ...

    def note_training(self, run_id: str, footprint: RunFootprint) -> None:
        """Notes what a training cost that a run has set off."""
        ...

    def trainings_of(self, run_id: str) -> Part:
        """Returns the cost of the trainings that a run has set off in this process."""
        ...


class RunTracking:
    """Meters one run until it is finished; any code that works in the run may mark windows."""

    def __init__(
        self,
        recorder: Recorder,
        options: TrackingOptions,
        *,
        process: MeteringProcess,
        parent: "RunTracking | None",
        key: str,
        start: RunStart,
        search: RunSearch | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            recorder: writes the run's figures.
            options: how the run is metered and reported.
            process: has the meter.
            parent: the run around it, if that is metered here too.
            key: the run that this process works in, which may be another than it writes to.
            start: what was known of the run before.
            search: looks for the run to write to, where that is not known.
        """
        self.options = options
        self.key = key
        self._start = start
        self._search = search
        self.has_written = False  # whether this process has logged anything to the run
        self.is_autologged = False
        self.new_run: NewRun | None = None  # given up with the first sign of a model
        self._recorder = recorder
        recorder.steps_of = self._num_steps
        recorder.cheaper_of = lambda record: changes_text(self._changes(footprint_of(record)))
        self._process = process
        self._parent = parent
        self._is_parent = False
        self._is_shared = False
        self._is_noted = False  # beside the runs that were metered before it
        self._epochs = EpochWindows(recorder)
        self._is_marked_by_user = False
        self._num_users = 1
        self._told_state = WITHIN
        self._children = Part()
        self._offered: list[Change] = []
        self._footprint: RunFootprint | None = None  # known at the end

    @property
    def run_id(self) -> str:
        """The run that is written to; empty while a further node looks for it."""
        return self._recorder.run_id

    @property
    def client(self) -> MlflowClient:
        """The client of the run's store."""
        return self._recorder.client

    @property
    def meter(self) -> EnergyMeter:
        """The meter of the run."""
        return self._recorder.meter

    @property
    def is_held(self) -> bool:
        """Whether everything is still kept back."""
        return self._recorder.is_held

    @property
    def assumptions(self) -> Assumptions:
        """The factors that turn the run's energy into CO2e."""
        return self._recorder.assumptions

    def join(self, options: TrackingOptions) -> None:
        """Adds a user who may mark windows; the last user's options count for the run."""
        self.report_by(options)
        if options.plan != CarbonPlan():
            self._recorder.live.replan(options.plan)
        self._num_users += 1
        self.release()

    def report_by(self, options: TrackingOptions) -> None:
        """Changes the options that the run is reported by; what they leave open stays as it was.

        The unit stays that of the first block that marks windows, unless a plan counts another.
        """
        self.options = options.within(self.options)
        is_unit_open = not self._is_marked_by_user or options.plan != CarbonPlan()
        unit = self.options.unit if is_unit_open else self._recorder.unit
        self._recorder.report_as(unit, self.options.assumptions())

    def release(self) -> None:
        """Writes what was held back until it was clear that this process does the run's work."""
        self._recorder.release()
        if self.assumptions.defaulted:
            _say_once(self.assumptions.sentence())
        if self._parent is not None:
            self._parent.mark_as_parent()
        if not self.is_held and not self._is_noted:
            self._is_noted = True
            self._process.note_overlap(self)

    def is_within(self, other: "RunTracking") -> bool:
        """Returns whether the run is a child of another, or a child's child."""
        return self._parent is not None and (self._parent is other or self._parent.is_within(other))

    def mark_as_shared(self) -> None:
        """Tags the run, once, as one whose energy is that of other runs of the same time too."""
        if not self._is_shared:
            self._is_shared = True
            self._recorder.mark_as_shared()

    def begin_anew(self) -> None:
        """Meters the run from now on: until now it was created, but nobody worked in it."""
        self._recorder.restart()
        self.release()

    def mark_as_parent(self) -> None:
        """Tags the run, once, as one whose energy contains that of other metered runs."""
        if not self._is_parent:
            self._is_parent = True
            self._recorder.mark_as_parent()

    def open(self, unit: str | None = None) -> MarkedWindow:
        """Opens a window; any number may be open at once, in any thread.

        Windows that the user marks take the place of those of a framework's epochs.

        Args:
            unit: what the window counts, to its end; ``None`` for the run's own unit.
        """
        self._is_marked_by_user = True
        self.release()
        return self._recorder.open(unit)

    def stop(self, window: MarkedWindow) -> None:
        """Ends a window whose units are not known yet; ``close`` tells them."""
        self._recorder.stop(window)

    def close(self, window: MarkedWindow, num_units: float) -> None:
        """Closes a window that did ``num_units`` units, and writes it unless the run is over."""
        self._recorder.close(window, num_units)

    def epoch_begins(self, unit: str) -> None:
        """Notes that a framework begins an epoch, or what else it counts."""
        if not self._is_marked_by_user:
            self.release()
            self._epochs.begin(unit)

    def epoch_ends(self, unit: str) -> None:
        """Notes that a framework has ended an epoch, or what else it counts."""
        if not self._is_marked_by_user:
            self._epochs.end(unit)

    def epochs_are_over(self, unit: str) -> None:
        """Notes that a framework's training has ended, so that nothing after it is an epoch's."""
        self._epochs.training_ends(unit)

    def expect(self, num_units: float, unit: str) -> None:
        """Takes note that so many units are still to be done; a plan counts the run's unit only."""
        if unit == self._recorder.unit:
            self._recorder.live.expect(num_units)

    @property
    def must_stop(self) -> bool:
        """Whether the user wants no other window, because it may exceed the budget."""
        live = self._recorder.live
        return live.plan.on_budget == STOP and live.must_stop

    def heed_budget(self) -> None:
        """Keeps the user's loop from another window that may exceed the budget.

        Raises:
            CarbonBudgetError: the user asked for that.
        """
        verdict = self._recorder.live.verdict
        if self.must_stop and verdict is not None:
            raise CarbonBudgetError(
                f"{verdict.sentence} The next window may exceed it. "
                "Raise carbon_budget_kg, or pass on_budget='warn'."
            )

    def tell_budget(self) -> None:
        """Calls the user's function, if there is one, with a verdict of another state."""
        tell, verdict = self._recorder.live.plan.on_budget, self._recorder.live.verdict
        if callable(tell) and verdict is not None and verdict.state != self._told_state:
            self._told_state = verdict.state
            tell(verdict)

    def offer(self, change: Change) -> None:
        """Takes note of a change that would make the run cheaper, in place of a general one."""
        self._offered.append(change)

    @property
    def footprint(self) -> RunFootprint:
        """What the run cost; while it goes on, what it has cost until the latest reading."""
        return self._footprint or footprint_of(self._recorder.summary())

    def flush(self) -> bool:
        """Sends what is written so far; returns whether the store has all of it."""
        return self._recorder.flush()

    def leave(self) -> None:
        """Finishes the run if nobody else marks windows of it."""
        self._num_users -= 1
        if self._num_users == 0:
            self.finish()

    def finish(self) -> None:
        """Writes the totals, and stops the meter after the last run; another call does nothing.

        Call it before the run gets its final status: who waits for that reads then.
        """
        if not self._process.forget(self):
            return
        try:
            if not self._is_marked_by_user:
                self._epochs.flush()
            if self._search is not None:
                self._search.close(FIND_TIMEOUT_S)
                if not self.run_id:
                    _logger.warning("%s", NO_RUN)
            if self._start.is_unread:
                self._add_earlier_total()
            has_figures = self._recorder.finish()
        finally:
            self._process.release_meter()
        if not self.is_held:
            self._account()
        if has_figures:
            self._record_models()
        if not self._process.trackings:
            self._process.lookups.catch_up()

    def _account(self) -> None:
        """Keeps what the run cost, and prints it unless others contain it or nobody wants it."""
        known = self._start.run
        own = replace(
            footprint_of(self._recorder.summary()),
            name=None if known is None else known.info.run_name,
            children=self._children,
            trainings=self._process.trainings_of(self.run_id),
            other_cpu_fraction=self._recorder.other_cpu_fraction,
            where=place_in_ui(self.client, self.run_id, self._start.experiment_id),
        )
        self._footprint = replace(own, changes=self._changes(own))
        keep(self._footprint)
        if self._parent is not None:
            self._parent._children = self._parent._children.plus(self._footprint)
        if known is not None and (trigger := known.data.tags.get(keys.TAG_TRIGGERED_BY_RUN_ID)):
            self._process.note_training(trigger, self._footprint)
        self._tell_of_others(self._footprint)
        is_top = self._parent is None and known is not None and self._start.parent_run_id is None
        if is_top and self._start.place.is_first and not is_silent(self.options.is_silent):
            steps = None if known is None else steps_parameter(known.data.params)
            all_runs = runs_in_ui(self.client, self._start.experiment_id, steps_parameter=steps)
            print_receipt(replace(self._footprint, all_runs=all_runs))

    def _tell_of_others(self, footprint: RunFootprint) -> None:
        """Warns where the run's energy holds other processes' load, as simulated energy cannot."""
        others = footprint.other_cpu_fraction or 0.0
        is_real = footprint.method_by_component.get("cpu") != keys.METHOD_SIMULATED
        is_whole = is_real and footprint.attribution == "whole_node"
        if self._parent is None and is_whole and others > NOTABLE_FRACTION:
            _logger.warning(
                "Other processes used %.0f %% of this node's CPU meanwhile, and the energy of run "
                "%s includes theirs; attribution='process_share' counts this process tree's.",
                100 * others,
                self.run_id,
            )

    def _num_steps(self) -> int | None:
        """Returns the denoising steps that the run's parameters name, as it began."""
        return None if self._start.run is None else num_steps(self._start.run.data.params)

    def _changes(self, footprint: RunFootprint) -> tuple[Change, ...]:
        """Returns the two changes that would have saved most."""
        if footprint.energy_kwh is None:
            return ()
        offered: list[Change | None] = list(self._offered)
        if not offered and footprint.unit == SAMPLE and self._start.run is not None:
            offered = [fewer_steps(self._start.run.data.params)]
        halved = half_the_units(
            footprint.unit or "",
            windows_kwh=self._recorder.windows_kwh,
            energy_kwh=footprint.energy_kwh,
        )
        return cheapest([*offered, cleaner_region(self.assumptions.intensity), halved])

    def _record_models(self) -> None:
        """Puts the figures on the run's models, or puts it off where there can hardly be any."""
        is_of_samples = SAMPLE in (self.options.unit, self._recorder.series_unit)
        if self.new_run is not None and not is_of_samples:
            self._process.lookups.put_off(self.new_run)
        else:
            known = self._start.run
            experiment_id = None if is_of_samples or known is None else known.info.experiment_id
            record_models(self.client, self.run_id, experiment_id)

    def _add_earlier_total(self) -> None:
        """Adds to what the run has spent before, where the store did not say so at the start."""
        earlier = within(READ_TIMEOUT_S, self._read_earlier_total)
        if earlier is not None:
            self._recorder.add_earlier(earlier)

    def _read_earlier_total(self) -> EarlierPart | None:
        return read_earlier_total(self.client, self.client.get_run(self.run_id))


@functools.cache
def _say_once(sentence: str) -> None:
    _logger.info(sentence)
