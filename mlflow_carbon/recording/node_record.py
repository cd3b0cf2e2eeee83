"""The figures that one node of several writes: its start, its energy each minute, its end."""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import NodePart, Total
from mlflow_carbon.contract.windows import UnitEnergy
from mlflow_carbon.metering.launch import Place
from mlflow_carbon.metering.protocol import EnergyMeter
from mlflow_carbon.recording.earlier import EarlierPart
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

# Tags of a further node; the first node's are the run's own.
OWN_TAGS = (keys.TAG_HARDWARE, keys.TAG_ERROR)


class Put(Protocol):
    """Hands figures over to a run, stamped with the end of their interval."""

    def __call__(
        self, values: Mapping[str, float], end_unix_s: float | None, tags: Mapping[str, str]
    ) -> None:
        """Takes values and tags."""
        ...


class NodeRecord:
    """One node's figures in a run on several nodes; only the node's leader writes them."""

    def __init__(self, place: Place, put: Put) -> None:
        self._index = place.node_index
        self._num_nodes = place.num_nodes
        self._put = put
        self._so_far: Total | None = None
        self._end_minutes: Callable[[], None] | None = None

    def start(
        self,
        earlier: EarlierPart | None,
        meter: EnergyMeter,
        assumptions: Assumptions,
        end_of: Callable[[Reading], float],
    ) -> None:
        """Writes that the node is measured, and from then on its energy each minute.

        So a node that dies loses a minute at most.

        Args:
            earlier: the node's earlier energy.
            meter: measures the node.
            assumptions: what turns energy into CO2e.
            end_of: returns the time stamp of a reading.
        """
        self._so_far = None if earlier is None else earlier.total
        self._say_running(earlier, assumptions)

        def add(minute: Reading) -> None:
            total = Total.of(minute)
            self._so_far = total if self._so_far is None else self._so_far.plus(total)
            self._write(self._part(self._so_far, end_of(minute)), assumptions)

        self._end_minutes = meter.every(SECONDS_PER_MINUTE, add)

    def resume(self, earlier: EarlierPart | None, assumptions: Assumptions) -> None:
        """Adds an earlier part that has become known, and writes again that the node measures."""
        if earlier is not None:
            this_part = self._so_far
            self._so_far = earlier.total if this_part is None else earlier.total.plus(this_part)
        self._say_running(earlier, assumptions)

    def end(
        self,
        total: Total,
        end_unix_s: float,
        assumptions: Assumptions,
        *,
        per_unit: Mapping[str, UnitEnergy],
        tags: Mapping[str, str],
    ) -> None:
        """Writes the last figures.

        Args:
            total: of all parts of this node's work.
            end_unix_s: when the work ended.
            assumptions: what turns energy into CO2e.
            per_unit: figures per unit by this node's windows.
            tags: the tags that a run on this node alone would get.
        """
        if self._end_minutes is not None:
            self._end_minutes()
        part = self._part(
            total,
            end_unix_s,
            energy_per_unit={unit: energy.energy_kwh for unit, energy in per_unit.items()},
            has_ended=True,
        )
        if self._index > 0:
            tags = {keys.node_tag(key, self._index): tags[key] for key in OWN_TAGS if key in tags}
        self._write(part, assumptions, tags=tags)

    def _say_running(self, earlier: EarlierPart | None, assumptions: Assumptions) -> None:
        newest_s = 0.0 if earlier is None else earlier.newest_ms / MILLISECONDS_PER_SECOND
        end_unix_s = 0.0 if self._so_far is None else max(time.time(), newest_s)
        self._write(self._part(self._so_far, end_unix_s), assumptions)

    def _part(
        self,
        total: Total | None,
        end_unix_s: float,
        *,
        energy_per_unit: Mapping[str, float] = {},  # read only
        has_ended: bool = False,
    ) -> NodePart:
        end_ms = round(end_unix_s * MILLISECONDS_PER_SECOND)
        return NodePart(total, energy_per_unit, end_ms, has_ended)

    def _write(
        self,
        part: NodePart,
        assumptions: Assumptions,
        *,
        tags: Mapping[str, str] = {},  # read only
    ) -> None:
        record = RunRecord("", parts={self._index: part}, num_nodes=self._num_nodes)
        self._put({}, None, {**assumptions.tags(), **tags, **record.node_tags()})
