"""What is known of a run when a process begins to meter it."""

import os
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.launch import ALONE, Place, find_place
from mlflow_carbon.recording.earlier import EarlierPart, read_earlier_part
from mlflow_carbon.recording.journal import journal_dir
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.recording.recovery import recover_run
from mlflow_carbon.tracking.launch_run import RunSearch, find_launch_run
from mlflow_carbon.tracking.patience import READ_TIMEOUT_S, within


@dataclass(frozen=True)
class RunStart:
    """What is known of a run when a process begins to meter it.

    Attributes:
        client: of the run's store.
        place: of the process among those that meter the run.
        experiment_id: of the run; ``None`` where nobody has said.
        run: as the store has it; ``None`` if the store has not answered or was not asked.
        earlier: what an earlier part of the run has written.
        is_sought: whether the process is a further node and looks for the first node's run.
    """

    client: MlflowClient
    place: Place
    experiment_id: str | None = None
    run: Run | None = None
    earlier: EarlierPart | None = None
    is_sought: bool = False

    @property
    def parent_run_id(self) -> str | None:
        """The parent run's id; ``None`` if the run has no parent, or this is not known."""
        return None if self.run is None else self.run.data.tags.get(MLFLOW_PARENT_RUN_ID)

    @property
    def may_have_more(self) -> bool:
        """Whether the run was metered before, as far as is known."""
        return self.run is None or keys.TAG_SCHEMA in self.run.data.tags

    @property
    def is_unread(self) -> bool:
        """Whether the run may have earlier totals that the store has not told."""
        return self.earlier is None and self.may_have_more and self.place.num_nodes == 1

    def search(self, recorder: Recorder, ordinal: int) -> RunSearch | None:
        """Starts to look for the first node's run, and lets the recorder write there.

        Args:
            recorder: of this node.
            ordinal: how many runs of the launch the process has metered before.

        Returns:
            The search; ``None`` where the run is known.
        """
        if not self.is_sought:
            return None

        def find() -> Run | None:
            return find_launch_run(self.client, self.experiment_id, self.place, ordinal)

        def use(run: Run) -> None:
            earlier = read_earlier_part(self.client, run, node_index=_node(self.place))
            recorder.write_to(run.info.run_id, earlier)

        return RunSearch(find, use)


def find_start(
    client: MlflowClient,
    run_id: str,
    run: Run | None,
    *,
    is_alone: bool,
    is_named: bool,
    is_new: bool = False,
) -> RunStart:
    """Asks the store about a run, after sending it what a killed process left behind.

    Args:
        client: of the run's store.
        run_id: the run that the process works in.
        run: what the store says of it; ``None`` asks, for a while.
        is_alone: whether no other process of a launch meters the run.
        is_named: whether the user said that it is this run.
        is_new: whether this process has just created the run, so that nothing can be left of it.
    """
    place = ALONE if is_alone else find_place(os.environ)
    experiment_id = None if run is None else run.info.experiment_id
    if place.node_index > 0 and not is_named:
        return RunStart(client, place, experiment_id, is_sought=True)
    known = run if is_new else within(READ_TIMEOUT_S, lambda: _recovered_run(client, run_id, run))
    if known is None:
        return RunStart(client, place, experiment_id)
    place = _with_earlier_nodes(place, known)
    earlier = _earlier_part(client, known, place)
    return RunStart(client, place, known.info.experiment_id, known, earlier)


def _recovered_run(client: MlflowClient, run_id: str, run: Run | None) -> Run:
    has_news = recover_run(client, journal_dir(), run_id)
    return client.get_run(run_id) if has_news or run is None else run


def _with_earlier_nodes(place: Place, run: Run) -> Place:
    """Returns the place among at least as many nodes as the run has had before."""
    num_nodes = int(run.data.tags.get(keys.TAG_NUM_NODES, "0"))
    return replace(place, num_nodes=max(num_nodes, place.num_nodes))


def _earlier_part(client: MlflowClient, run: Run, place: Place) -> EarlierPart | None:
    if keys.TAG_SCHEMA not in run.data.tags:
        return None
    return within(READ_TIMEOUT_S, lambda: read_earlier_part(client, run, node_index=_node(place)))


def _node(place: Place) -> int | None:
    return place.node_index if place.num_nodes > 1 else None
