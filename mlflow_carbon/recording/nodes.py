"""Totals of a run on several nodes: each writes its own, and whoever ends adds up what is there.

The nodes talk through the run alone. A sum's time stamp grows with what is in it, so the fullest
one is the latest for MLflow, whoever writes it and when; a replay writes nothing.
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

# Another node may write between our reading and our writing; it then looks again itself.
MAX_ROUNDS = 4


def ends_a_node(tags: Mapping[str, str]) -> bool:
    """Returns whether these tags say that a node has written its last figures."""
    return any(
        key.startswith("carbon.node.") and value.startswith(f"{ENDED} ")
        for key, value in tags.items()
    )


def settle(client: MlflowClient, run_id: str) -> None:
    """Writes the sum of all nodes of a run, until it is that of what all of them have written.

    Raises:
        Exception: whatever the store raises.
    """
    for _ in range(MAX_ROUNDS):
        run = client.get_run(run_id)
        record = summed(RunRecord.read(run))
        if _holds(run, record):
            return
        history = client.get_metric_history(run_id, keys.DURATION_S)
        newest_ms = max((point.timestamp for point in history), default=0)
        end_ms = max(part.end_ms for part in record.parts.values())
        timestamp_ms = max(end_ms + _num_ended(record.parts), newest_ms + 1)
        points = [Metric(key, value, timestamp_ms, 0) for key, value in _sums(record).items()]
        tags = [RunTag(key, value) for key, value in _missing_tags(record).items()]
        client.log_batch(run_id, metrics=points, tags=tags)
        if keys.TAG_MISSING_NODES in run.data.tags and not tags:
            with suppress(MlflowException):  # another node may have taken it away
                client.delete_tag(run_id, keys.TAG_MISSING_NODES)


def summed(record: RunRecord) -> RunRecord:
    """Returns the record with the totals of its nodes as its own, and the nodes that are missing.

    The duration is the longest node's. A node that is missing, or died, should have measured for
    as long; what it did not lowers the coverage. Devices are told apart on each node only.
    """
    parts, num_nodes = record.parts, max(record.num_nodes, max(record.parts, default=-1) + 1)
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
    """Returns the observed share of all nodes' time; ``None`` where a node's is not known.

    A node that measured nothing is known to have observed nothing.
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
    """Returns the energy per unit where every node knows its own; they add up."""
    found: dict[str, UnitEnergy] = {}
    for unit in keys.UNITS:
        known = [p.energy_per_unit[unit] for p in parts.values() if unit in p.energy_per_unit]
        if len(known) == num_nodes:
            found[unit] = UnitEnergy(sum(known))
    return found


def _sums(record: RunRecord) -> dict[str, float]:
    """Returns the run's own totals, without those of each node."""
    return {
        key: value for key, value in record.metrics().items() if not key.startswith("carbon/node/")
    }


def _missing_tags(record: RunRecord) -> dict[str, str]:
    """Returns the tag that names the nodes whose energy is not in the sum, or not all of it."""
    missing = ",".join(record.missing_nodes)
    return {keys.TAG_MISSING_NODES: missing} if missing else {}


def _holds(run: Run, record: RunRecord) -> bool:
    """Returns whether the run shows these totals already."""
    metrics, shown = run.data.metrics, run.data.tags.get(keys.TAG_MISSING_NODES)
    return shown == _missing_tags(record).get(keys.TAG_MISSING_NODES) and all(
        key in metrics and math.isclose(metrics[key], value, rel_tol=1e-12)
        for key, value in _sums(record).items()
    )
