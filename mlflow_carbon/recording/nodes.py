"""Totals of a run on several nodes: each node writes its own, and adds up all when it ends.

The nodes communicate only through the run. Step and time stamp of a sum grow with each one that is
written, and a node looks again after it has written, so MLflow takes the most complete sum as the
latest; a replay writes nothing.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import ENDED, NodePart, Total, added_by_component
from mlflow_carbon.contract.windows import UnitEnergy
from mlflow_carbon.recording.run_writes import write_to_run

# Another node may write between this node's reading and writing; that node then sums again.
MAX_ROUNDS = 4
_GONE_IF_WHOLE = (keys.TAG_MISSING_NODES,)


def ends_a_node(tags: Mapping[str, str]) -> bool:
    """Returns whether these tags say that a node has written its last figures."""
    return any(
        key.startswith("carbon.node.") and value.startswith(f"{ENDED} ")
        for key, value in tags.items()
    )


def settle(client: MlflowClient, run_id: str) -> None:
    """Writes the sum over a run's nodes, again until it has all that the nodes have written.

    Raises:
        Exception: whatever the store raises.
    """
    for _ in range(MAX_ROUNDS):
        run = client.get_run(run_id)
        record = summed(RunRecord.read(run))
        if _holds(run, record):
            return
        end_ms = max(part.end_ms for part in record.parts.values()) + _num_ended(record.parts)
        points = []
        for key, value in record.metrics().items():
            # The first node's windows have CO2e per unit as well, at steps of their own.
            history = client.get_metric_history(run_id, key)
            newest_ms = max((point.timestamp for point in history), default=0)
            step = max((point.step + 1 for point in history), default=0)
            points.append(Metric(key, value, max(end_ms, newest_ms + 1), step))
        tags = [RunTag(key, value) for key, value in _tags(record).items()]
        write_to_run(client, run_id, points, tags)
        for key in _GONE_IF_WHOLE:
            if key in run.data.tags and key not in _tags(record):
                with suppress(MlflowException):  # another node may have removed it
                    client.delete_tag(run_id, key)


def summed(record: RunRecord) -> RunRecord:
    """Returns the record with the sum of its nodes' totals, and the nodes that are missing.

    The duration is the longest node's. A node that is missing or died should have measured for as
    long, so the time it did not measure lowers the coverage. The sum has no devices.
    """
    parts = dict(sorted(record.parts.items()))  # in one order, so that all nodes write one text
    num_nodes = max(record.num_nodes, max(parts, default=-1) + 1)
    totals = [part.total for part in parts.values() if part.total is not None]
    energies_kwh = [total.energy_kwh for total in totals if total.energy_kwh is not None]
    duration_s = max((total.duration_s or 0.0 for total in totals), default=0.0)
    missing = tuple(str(index) for index in range(num_nodes) if not _is_whole(parts.get(index)))
    of_nodes = RunRecord(
        record.run_id,
        total=Total(duration_s),
        parts=parts,
        num_nodes=num_nodes,
        missing_nodes=missing,
        unit=record.unit,
        total_end_ms=max((part.end_ms for part in parts.values()), default=None),
    )
    if not energies_kwh or record.pue is None or record.intensity is None:
        return of_nodes
    total = Total(
        duration_s,
        sum(energies_kwh),
        _coverage_fraction(parts, num_nodes, duration_s) if duration_s > 0 else None,
        added_by_component(totals),
    )
    assumptions = Assumptions(record.intensity, record.pue, ())
    per_unit = _per_unit(parts, num_nodes)
    return replace(of_nodes, total=total, energy_per_unit=per_unit).assuming(assumptions)


def _is_whole(part: NodePart | None) -> bool:
    has_energy = part is not None and part.total is not None and part.total.energy_kwh is not None
    return part is not None and part.has_ended and has_energy


def _num_ended(parts: Mapping[int, NodePart]) -> int:
    return sum(part.has_ended for part in parts.values())


def _coverage_fraction(
    parts: Mapping[int, NodePart], num_nodes: int, duration_s: float
) -> float | None:
    """Returns the observed share of all nodes' time; ``None`` if a node's share is not known.

    A node that measured nothing has a share of 0.
    """
    observed_s = expected_s = 0.0
    for index in range(num_nodes):
        part = parts.get(index)
        total = None if part is None else part.total
        is_whole = _is_whole(part)
        expected_s += (total.duration_s or 0.0) if is_whole and total is not None else duration_s
        if total is None or total.energy_kwh is None:
            continue
        if total.coverage_fraction is None:
            return None
        observed_s += total.coverage_fraction * (total.duration_s or 0.0)
    return observed_s / expected_s


def _per_unit(parts: Mapping[int, NodePart], num_nodes: int) -> dict[str, UnitEnergy]:
    """Returns the sum over nodes of the energy per unit, for units that every node has."""
    found: dict[str, UnitEnergy] = {}
    for unit in keys.UNITS:
        known = [p.energy_per_unit[unit] for p in parts.values() if unit in p.energy_per_unit]
        if len(known) == num_nodes:
            found[unit] = UnitEnergy(sum(known))
    return found


def _tags(record: RunRecord) -> dict[str, str]:
    """Returns the tags of the sum, and of the nodes whose energy is not, or not all, in it."""
    missing = ",".join(record.missing_nodes)
    return {**record.total_tags(), **({keys.TAG_MISSING_NODES: missing} if missing else {})}


def _holds(run: Run, record: RunRecord) -> bool:
    """Returns whether the run shows these totals already."""
    metrics, shown, wanted = run.data.metrics, run.data.tags, _tags(record)
    return all(shown.get(key) == wanted.get(key) for key in {*wanted, *_GONE_IF_WHOLE}) and all(
        key in metrics and math.isclose(metrics[key], value, rel_tol=1e-12)
        for key, value in record.metrics().items()
    )
