"""The one meter of this process, and the runs that it meters."""

import atexit
import functools
import os
import threading
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.launch import ALONE, Place, find_place
from mlflow_carbon.metering.meter import Meter, MeterSettings
from mlflow_carbon.recording.earlier import EarlierPart, read_earlier_part
from mlflow_carbon.recording.journal import journal_dir
from mlflow_carbon.recording.live_forecast import CarbonPlan
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.recording.recovery import recover_run
from mlflow_carbon.tracking.launch_run import RunSearch, find_launch_run, launch_tag
from mlflow_carbon.tracking.model_lookups import ModelLookups
from mlflow_carbon.tracking.patience import READ_TIMEOUT_S, within
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
        is_alone: bool = False,
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
            is_alone: whether no other process of a launch meters the run.

        Raises:
            MlflowCarbonError: a setting is none.
        """
        with self._lock:
            tracking = self._runs.get(run_id)
            if tracking is not None:
                tracking.join(options)
                return tracking
            assumptions, client = options.assumptions(), client or MlflowClient()
            place = ALONE if is_held or is_alone else find_place(os.environ)
            is_sought = place.node_index > 0 and not is_named
            experiment_id = run.info.experiment_id if run is not None else None
            ask = functools.partial(_known_run, client, run_id, run)
            known = None if is_sought else within(READ_TIMEOUT_S, ask)
            place = _place_in_run(place, known)
            tag = launch_tag(place, self.num_in_launch) if place.num_ranks > 1 else None
            parent_run_id = known and known.data.tags.get(MLFLOW_PARENT_RUN_ID)
            earlier = None if known is None else _earlier_part(client, known, place)
            may_have_more = known is None or keys.TAG_SCHEMA in known.data.tags
            is_unread = earlier is None and may_have_more and place.num_nodes == 1
            outbox = Outbox(
                client,
                "" if is_sought else run_id,
                marks_parent=known is None or parent_run_id not in (None, *self._runs),
                is_held=is_held or is_sought,
            )
            recorder = Recorder(
                outbox,
                meter or self._running_meter(options.settings),
                unit=options.unit,
                assumptions=assumptions,
                earlier=earlier,
                plan=options.plan if place.is_first else CarbonPlan(),
                place=place,
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
                experiment_id=None if known is None else known.info.experiment_id,
                search=search,
                is_unread=is_unread,
            )
            self._num_users += 1
            recorder.start({} if tag is None else {keys.TAG_LAUNCH: tag})
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


def _place_in_run(place: Place, run: Run | None) -> Place:
    """Returns the place with as many nodes as the run has had before."""
    num_nodes = 0 if run is None else int(run.data.tags.get(keys.TAG_NUM_NODES, "0"))
    return replace(place, num_nodes=max(num_nodes, place.num_nodes))


def _known_run(client: MlflowClient, run_id: str, run: Run | None) -> Run:
    """Returns what the store says of a run, once it has what a killed process did not send."""
    has_news = recover_run(client, journal_dir(), run_id)
    return client.get_run(run_id) if has_news or run is None else run


def _earlier_part(client: MlflowClient, run: Run, place: Place) -> EarlierPart | None:
    if keys.TAG_SCHEMA not in run.data.tags:
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
