"""The metering of a run from its start to its end, with one meter for all runs of the process."""

import atexit
import functools
import logging
import os
import threading
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon import schema
from mlflow_carbon.accounting.assumptions import Assumptions
from mlflow_carbon.accounting.forecast import WITHIN
from mlflow_carbon.errors import CarbonBudgetError
from mlflow_carbon.metering.launch import ALONE, Place, find_place
from mlflow_carbon.metering.meter import Meter, MeterSettings, Window
from mlflow_carbon.recording.earlier import EarlierPart, read_earlier_part, recorded_total
from mlflow_carbon.recording.journal import journal_dir
from mlflow_carbon.recording.live_forecast import STOP, CarbonPlan
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.recording.recovery import recover_run
from mlflow_carbon.registry.inference import SAMPLE
from mlflow_carbon.tracking.epoch_windows import EpochWindows
from mlflow_carbon.tracking.launch_run import RunSearch, find_launch_run, launch_tag
from mlflow_carbon.tracking.model_lookups import ModelLookups, NewRun, record_models
from mlflow_carbon.tracking.patience import within
from mlflow_carbon.tracking.tracking_options import TrackingOptions

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

READ_TIMEOUT_S = 2.0
FIND_TIMEOUT_S = 10.0  # at the end of a further node's work
NO_RUN = (
    "The energy of this node is lost: no run of rank 0 was found in this experiment. "
    "Pass run_id= or set MLFLOW_RUN_ID on all nodes."
)


class RunTracking:
    """Meters one run until it is finished; whoever works in the run may mark windows."""

    def __init__(
        self,
        recorder: Recorder,
        options: TrackingOptions,
        *,
        process: "ProcessMetering",
        parent: "RunTracking | None",
        key: str,
        search: RunSearch | None = None,
        is_unread: bool = False,
    ) -> None:
        self.options = options
        self.key = key  # of the run that this process works in, which may be another
        self._search = search
        self._is_unread = is_unread  # whether the run may have earlier totals that nobody has read
        self.has_written = False  # whether this process has logged anything to the run
        self.is_autologged = False
        self.new_run: NewRun | None = None  # given up with the first sign of a model
        self._recorder = recorder
        self._process = process
        self._parent = parent
        self._is_parent = False
        self._epochs = EpochWindows(recorder)
        self._is_marked_by_user = False
        self._num_users = 1
        self._told_state = WITHIN

    @property
    def run_id(self) -> str:
        """The run that is written to; empty while a further node looks for it."""
        return self._recorder.run_id

    @property
    def client(self) -> MlflowClient:
        """Of the run's store."""
        return self._recorder.client

    @property
    def is_held(self) -> bool:
        """Whether everything is still kept back."""
        return self._recorder.is_held

    @property
    def assumptions(self) -> Assumptions:
        """What turns its energy into CO2e."""
        return self._recorder.assumptions

    def join(self, options: TrackingOptions) -> None:
        """Lets somebody more mark windows; what the last one asks for counts for the run."""
        self.report_by(options)
        if options.plan != CarbonPlan():
            self._recorder.live.replan(options.plan)
        self._num_users += 1
        self.release()

    def report_by(self, options: TrackingOptions) -> None:
        """Changes what the run is reported by; what the options leave open stays as it was."""
        self.options = options.within(self.options)
        self._recorder.report_as(self.options.unit, self.options.assumptions())

    def release(self) -> None:
        """Writes what was held back until it was clear that this process does the run's work."""
        self._recorder.release()
        if self.assumptions.defaulted:
            _say_once(self.assumptions.sentence())
        if self._parent is not None:
            self._parent.mark_as_parent()

    def begin_anew(self) -> None:
        """Meters the run from now on: until now it was created, but nobody worked in it."""
        self._recorder.restart()
        self.release()

    def mark_as_parent(self) -> None:
        """Tags the run, once, as one whose energy contains that of other metered runs."""
        if not self._is_parent:
            self._is_parent = True
            self._recorder.mark_as_parent()

    def open(self) -> Window:
        """Opens a window; any number may be open at once, in any thread.

        Windows that the user marks take the place of those of a framework's epochs.
        """
        self._is_marked_by_user = True
        self.release()
        return self._recorder.open()

    def close(self, window: Window, num_units: float, *, unit: str | None = None) -> None:
        """Closes a window that did ``num_units`` units, and writes it unless the run is over."""
        self._recorder.close(window, num_units, unit=unit)

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

    def expect(self, num_units: float) -> None:
        """Takes note that so many units are still to be done."""
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
            if self._is_unread:
                self._add_earlier_total()
            has_figures = self._recorder.finish()
        finally:
            self._process.release_meter()
        if has_figures and (self.new_run is None or self.options.unit == SAMPLE):
            record_models(self.client, self.run_id)
        elif has_figures and self.new_run is not None:
            self._process.lookups.put_off(self.new_run)
        if not self._process.trackings:
            self._process.lookups.catch_up()

    def _add_earlier_total(self) -> None:
        """Adds to what the run has spent before, where the store did not say so at the start."""
        run = within(READ_TIMEOUT_S, lambda: self.client.get_run(self.run_id))
        total = None if run is None else recorded_total(run, run.data.metrics)
        if total is not None:
            self._recorder.add_earlier(total)


class ProcessMetering:
    """The one meter of this process, and the runs that it meters.

    The first run starts the meter, the last one to end stops it. A forked child starts afresh:
    its parent's runs are not its own.
    """

    def __init__(self) -> None:
        self._start_afresh()
        os.register_at_fork(after_in_child=self._start_afresh)

    def _start_afresh(self) -> None:
        self._lock = threading.RLock()
        self._runs: dict[str, RunTracking] = {}  # the newest last
        self._meter: Meter | None = None
        self.lookups = ModelLookups()
        self._num_users = 0
        self.num_in_launch = 0  # runs so far that other ranks may be metering too

    @property
    def trackings(self) -> tuple[RunTracking, ...]:
        """The runs that are being metered, the newest last."""
        with self._lock:
            return tuple(self._runs.values())

    def tracking_of(self, run_id: str) -> RunTracking | None:
        """Returns the tracking of a run that is being metered in this process."""
        return self._runs.get(run_id)  # without the lock: asked at each metric that is logged

    def track(
        self,
        run_id: str,
        options: TrackingOptions,
        *,
        run: Run | None = None,
        client: MlflowClient | None = None,
        meter: Meter | None = None,
        is_held: bool = False,
        is_named: bool = False,
    ) -> RunTracking:
        """Starts to meter a run, or joins those who meter it already.

        Args:
            run_id: the run to write to.
            options: how it is metered and reported.
            run: what the store says of the run; ``None`` asks it.
            client: of the run's store; ``None`` for MLflow's current one.
            meter: a started meter to use instead of the process's own.
            is_held: whether nothing is written before it is released.
            is_named: whether the user said that it is this run; otherwise a further node of a
                launch writes to that of the first node, which it looks for.

        Raises:
            MlflowCarbonError: a setting is none.
        """
        with self._lock:
            tracking = self._runs.get(run_id)
            if tracking is not None:
                tracking.join(options)
                return tracking
            assumptions, client = options.assumptions(), client or MlflowClient()
            place = ALONE if is_held else find_place(os.environ)
            is_sought = place.node_index > 0 and not is_named
            experiment_id = run.info.experiment_id if run is not None else None
            ask = functools.partial(_known_run, client, run_id, run)
            known = None if is_sought else within(READ_TIMEOUT_S, ask)
            place = _place_in_run(place, known)
            tag = launch_tag(place, self.num_in_launch) if place.num_ranks > 1 else None
            parent_run_id = known and known.data.tags.get(MLFLOW_PARENT_RUN_ID)
            earlier = None if known is None else _earlier_part(client, known, place)
            may_have_more = known is None or schema.TAG_SCHEMA in known.data.tags
            is_unread = earlier is None and may_have_more and place.num_nodes == 1
            recorder = Recorder(
                "" if is_sought else run_id,
                unit=options.unit,
                assumptions=assumptions,
                client=client,
                meter=meter or self._running_meter(options.settings),
                earlier=earlier,
                marks_parent=known is None or parent_run_id not in (None, *self._runs),
                is_held=is_held or is_sought,
                plan=options.plan if place.is_first else CarbonPlan(),
                place=place,
                launch_tag=tag,
            )
            search = None
            if is_sought:
                search = _search(recorder, experiment_id, place, self.num_in_launch)
            self.num_in_launch += place.num_ranks > 1
            parent = self._runs.get(parent_run_id or "")
            tracking = self._runs[run_id] = RunTracking(
                recorder,
                options,
                process=self,
                parent=parent,
                key=run_id,
                search=search,
                is_unread=is_unread,
            )
            self._num_users += 1
            recorder.start()
            if not is_held:
                tracking.release()
            return tracking

    def finish_all(self) -> None:
        """Writes the totals of all runs that are metered, children before their parents."""
        for tracking in reversed(self.trackings):
            tracking.finish()

    def forget(self, tracking: RunTracking) -> bool:
        """Takes a run off the list; returns whether it was on it."""
        with self._lock:
            if self._runs.get(tracking.key) is not tracking:
                return False
            del self._runs[tracking.key]
            return True

    def release_meter(self) -> None:
        """Stops the process's meter if no run needs it any more."""
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0 and self._meter is not None:
                self._meter.stop()
                self._meter = None

    def _running_meter(self, settings: MeterSettings) -> Meter:
        if self._meter is None:
            self._meter = Meter(settings)
            self._meter.start()
        return self._meter


@functools.cache
def _say_once(sentence: str) -> None:
    _logger.info(sentence)


def _place_in_run(place: Place, run: Run | None) -> Place:
    """Returns the place with as many nodes as the run has had before."""
    num_nodes = 0 if run is None else int(run.data.tags.get(schema.TAG_NUM_NODES, "0"))
    return replace(place, num_nodes=max(num_nodes, place.num_nodes))


def _known_run(client: MlflowClient, run_id: str, run: Run | None) -> Run:
    """Returns what the store says of a run, once it has what a killed process did not send."""
    has_news = recover_run(client, journal_dir(), run_id)
    return client.get_run(run_id) if has_news or run is None else run


def _earlier_part(client: MlflowClient, run: Run, place: Place) -> EarlierPart | None:
    if schema.TAG_SCHEMA not in run.data.tags:
        return None
    return within(READ_TIMEOUT_S, lambda: read_earlier_part(client, run, node_index=_node(place)))


def _node(place: Place) -> int | None:
    return place.node_index if place.num_nodes > 1 else None


def _search(recorder: Recorder, experiment_id: str | None, place: Place, ordinal: int) -> RunSearch:
    """Looks for the first node's run, and lets the recorder write there."""
    client = recorder.client

    def find() -> Run | None:
        return find_launch_run(client, experiment_id, place, ordinal)

    def use(run: Run) -> None:
        earlier = read_earlier_part(client, run, node_index=_node(place))
        recorder.write_to(run.info.run_id, earlier)

    return RunSearch(find, use)


this_process = ProcessMetering()
# Later no thread runs any more, and MLflow's own exit handler, which came first and so is called
# after this one, ends the active run.
atexit.register(this_process.finish_all)
