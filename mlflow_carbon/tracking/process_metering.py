"""The one meter of this process, and the runs that it meters."""

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.metering.meter import Meter, MeterSettings
from mlflow_carbon.metering.protocol import EnergyMeter
from mlflow_carbon.recording.live_forecast import CarbonPlan
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.reporting.receipt import Part, RunFootprint
from mlflow_carbon.tracking.copied_figures import watch_copies
from mlflow_carbon.tracking.launch_run import launch_tag
from mlflow_carbon.tracking.mlflow_seams import past_active_model
from mlflow_carbon.tracking.model_lookups import ModelLookups
from mlflow_carbon.tracking.run_start import RunStart, find_start
from mlflow_carbon.tracking.run_tracking import RunTracking
from mlflow_carbon.tracking.tracking_options import TrackingOptions


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
        self._lent: EnergyMeter | None = None
        self.lookups = ModelLookups()
        self._num_users = 0
        self._trainings: dict[str, Part] = {}  # by the run that set them off
        self.num_in_launch = 0  # runs so far that other ranks may be metering too

    @property
    def trackings(self) -> tuple[RunTracking, ...]:
        """The runs that are being metered, the newest last."""
        with self._lock:
            return tuple(self._runs.values())

    @property
    def meter(self) -> EnergyMeter | None:
        """The meter of the runs that name no other meter; ``None`` while no run needs it."""
        return self._lent or self._meter

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
        meter: EnergyMeter | None = None,
        is_held: bool = False,
        is_named: bool = False,
        is_alone: bool = False,
    ) -> RunTracking:
        """Starts to meter a run; where it is metered already, adds a user to that.

        Args:
            run_id: the run to write to.
            options: how it is metered and reported.
            run: what the store says of the run; ``None`` asks it.
            client: of the run's store; ``None`` for MLflow's current one.
            meter: a started meter to use instead of the process's own.
            is_held: whether nothing is written until the run is released.
            is_named: whether the user chose this run; otherwise a further node of a launch looks
                for the first node's run and writes to that.
            is_alone: whether no other process of a launch meters the run.

        Raises:
            MlflowCarbonError: a setting is out of range.
        """
        with self._lock:
            tracking = self._runs.get(run_id)
            if tracking is not None:
                tracking.join(options)
                return tracking
            assumptions = options.assumptions()  # refuses a bad setting before the store is asked
            start = find_start(
                past_active_model(client or MlflowClient()),
                run_id,
                run,
                is_alone=is_held or is_alone,
                is_named=is_named,
                is_new=is_held,
            )
            watch_copies(lambda run_id: self.tracking_of(run_id) is not None)
            recorder = self._recorder(
                run_id, options, start, meter, assumptions=assumptions, is_held=is_held
            )
            tracking = self._runs[run_id] = RunTracking(
                recorder,
                options,
                process=self,
                parent=self._runs.get(start.parent_run_id or ""),
                key=run_id,
                start=start,
                search=start.search(recorder, self.num_in_launch),
            )
            self._num_users += 1
            self._begin(recorder, start)
            if not is_held:
                tracking.release()
            return tracking

    def _recorder(
        self,
        run_id: str,
        options: TrackingOptions,
        start: RunStart,
        meter: EnergyMeter | None,
        *,
        assumptions: Assumptions,
        is_held: bool,
    ) -> Recorder:
        """Makes the recorder of the run's figures; it is not started yet."""
        is_parent_tagged = start.run is not None and (
            start.parent_run_id is None or start.parent_run_id in self._runs
        )
        outbox = Outbox(
            start.client,
            "" if start.is_sought else run_id,
            marks_parent=not is_parent_tagged,
            is_held=is_held or start.is_sought,
            parent_run_id=start.parent_run_id,
            artifact_uri=None if start.run is None else start.run.info.artifact_uri,
            is_inside=start.parent_run_id in self._runs,
        )
        return Recorder(
            outbox,
            meter or self._running_meter(options.settings),
            unit=options.unit,
            assumptions=assumptions,
            earlier=start.earlier,
            plan=options.plan if start.place.is_first else CarbonPlan(),
            place=start.place,
            is_unread=start.is_unread,
        )

    def _begin(self, recorder: Recorder, start: RunStart) -> None:
        """Opens the run's interval; other nodes of a launch find the run by its tag."""
        if start.place.num_ranks == 1:
            recorder.start()
            return
        recorder.start({keys.TAG_LAUNCH: launch_tag(start.place, self.num_in_launch)})
        self.num_in_launch += 1

    @contextmanager
    def lent(self, meter: EnergyMeter) -> Iterator[None]:
        """Lends a meter, which its owner starts and stops, to the runs that start in the block.

        A run that names a meter of its own keeps that.
        """
        with self._lock:
            before, self._lent = self._lent, meter
        try:
            yield
        finally:
            with self._lock:
                self._lent = before

    def finish_all(self) -> None:
        """Writes the totals of all runs that are metered, children before their parents."""
        for tracking in reversed(self.trackings):
            tracking.finish()

    def forget(self, tracking: RunTracking) -> bool:
        """Removes a run from the list of metered runs; returns whether the list had it."""
        with self._lock:
            if self._runs.get(tracking.key) is not tracking:
                return False
            del self._runs[tracking.key]
            return True

    def note_overlap(self, tracking: RunTracking) -> None:
        """Marks runs that are metered at one time as sharing it, but for those within each other.

        Each has the energy of the whole time, so they must not be added up.
        """
        for other in self.trackings:
            is_nested = tracking.is_within(other) or other.is_within(tracking)
            if other is not tracking and not other.is_held and not is_nested:
                tracking.mark_as_shared()
                other.mark_as_shared()

    def note_training(self, run_id: str, footprint: RunFootprint) -> None:
        """Notes what a training cost that a run has set off, and what it has set off itself."""
        with self._lock:
            before = self._trainings.get(run_id, Part())
            self._trainings[run_id] = before.plus(footprint).with_part(footprint.trainings)

    def trainings_of(self, run_id: str) -> Part:
        """Returns the cost of the trainings that a run has set off in this process."""
        with self._lock:
            return self._trainings.get(run_id, Part())

    def release_meter(self) -> None:
        """Stops the process's meter if no run needs it any more."""
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0 and self._meter is not None:
                self._meter.stop()
                self._meter = None

    def _running_meter(self, settings: MeterSettings) -> EnergyMeter:
        if self._lent is not None:
            return self._lent
        if self._meter is None:
            self._meter = Meter(settings)
            self._meter.start()
        return self._meter


_making = threading.Lock()
_made: list[ProcessMetering] = []  # at most one


def process_metering() -> ProcessMetering:
    """Returns the metering of this process, made at the first call."""
    if not _made:
        with _making:
            if not _made:
                _made.append(ProcessMetering())
                # At exit no thread runs any more. MLflow's own exit handler, which came first and
                # so is called after this one, ends the active run.
                atexit.register(_made[0].finish_all)
    return _made[0]
