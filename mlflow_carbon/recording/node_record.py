"""What one node of several writes about itself: that it measures, each minute how much, its end."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.metering.launch import Place
from mlflow_carbon.metering.meter import Meter
from mlflow_carbon.metering.readings import Reading
from mlflow_carbon.recording.earlier import EarlierPart, added
from mlflow_carbon.recording.figures import node_metrics
from mlflow_carbon.recording.nodes import ENDED, RUNNING, node_state_tag
from mlflow_carbon.units import SECONDS_PER_MINUTE

# Of a further node; the same tags of the first one are the run's own.
OWN_TAGS = (keys.TAG_HARDWARE, keys.TAG_ERROR)


class Put(Protocol):
    """Hands figures over to a run, stamped with the end of their interval."""

    def __call__(
        self, values: dict[str, float], end_unix_s: float | None, tags: dict[str, str]
    ) -> None:
        """Takes values and tags."""
        ...


class NodeRecord:
    """One node's figures in a run of several; they are written by its leader only."""

    def __init__(self, place: Place, put: Put) -> None:
        self._index = place.node_index
        self._num_nodes = place.num_nodes
        self._put = put
        self._so_far: Reading | None = None
        self._end_minutes: Callable[[], None] | None = None

    def start(self, earlier: EarlierPart | None, meter: Meter, assumptions: Assumptions) -> None:
        """Says that the node is measured, and from now on each minute what it has spent.

        So a node that dies has lost a minute at most.
        """
        self._so_far = None if earlier is None else earlier.total
        self._say_running(assumptions)

        def add(minute: Reading) -> None:
            self._so_far = minute if self._so_far is None else added([self._so_far, minute])
            end_unix_s = minute.start_unix_s + minute.duration_s
            self._write(self._so_far, end_unix_s, RUNNING, assumptions)

        self._end_minutes = meter.every(SECONDS_PER_MINUTE, add)

    def resume(self, earlier: EarlierPart | None, assumptions: Assumptions) -> None:
        """Adds an earlier part that is known only now, and says again that the node is measured."""
        if earlier is not None:
            parts = [earlier.total] if self._so_far is None else [earlier.total, self._so_far]
            self._so_far = added(parts)
        self._say_running(assumptions)

    def end(
        self,
        total: Reading,
        end_unix_s: float,
        assumptions: Assumptions,
        *,
        per_unit: Mapping[str, float],
        tags: Mapping[str, str],
    ) -> None:
        """Writes the last figures.

        Args:
            total: of all parts of this node's work.
            end_unix_s: when it ended.
            assumptions: what turns energy into CO2e.
            per_unit: figures per unit by this node's windows.
            tags: what a run on this node alone would be tagged with.
        """
        if self._end_minutes is not None:
            self._end_minutes()
        energy_per_unit = {
            keys.node_metric(key, self._index): per_unit[key]
            for key in map(keys.energy_kwh_per_unit, keys.UNITS)
            if key in per_unit
        }
        if self._index > 0:
            tags = {keys.node_tag(key, self._index): tags[key] for key in OWN_TAGS if key in tags}
        self._write(total, end_unix_s, ENDED, assumptions, values=energy_per_unit, tags=tags)

    def _say_running(self, assumptions: Assumptions) -> None:
        end_unix_s = 0.0 if self._so_far is None else time.time()
        self._write(self._so_far, end_unix_s, RUNNING, assumptions)

    def _write(
        self,
        total: Reading | None,
        end_unix_s: float,
        state: str,
        assumptions: Assumptions,
        *,
        values: Mapping[str, float] = {},  # read only
        tags: Mapping[str, str] = {},
    ) -> None:
        figures = {} if total is None else node_metrics(total, assumptions, self._index)
        self._put(
            {**figures, **values},
            end_unix_s,
            {
                **tags,
                keys.TAG_NUM_NODES: str(self._num_nodes),
                **node_state_tag(self._index, state, end_unix_s),
            },
        )
