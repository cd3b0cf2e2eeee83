"""Totals of a run on several nodes: each writes its own, and whoever ends adds up what is there.

The nodes talk through the run alone. A sum's time stamp grows with what is in it, so the fullest
one is the latest for MLflow, whoever writes it and when; a replay writes the same point again.
"""

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from mlflow_carbon.accounting.emissions import co2e_g, facility_energy_kwh
from mlflow_carbon.contract import keys
from mlflow_carbon.metering.readings import Reading
from mlflow_carbon.recording.earlier import of_node, recorded_total
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, kg_from_grams, watts_from_kwh

RUNNING, ENDED = "running", "ended"

# Another node may write between our reading and our writing; it then looks again itself.
MAX_ROUNDS = 4


@dataclass(frozen=True)
class NodePart:
    """What one node has measured so far, and until when."""

    total: Reading
    metrics: Mapping[str, float]  # under the names that a run on one node has
    end_ms: int
    has_ended: bool


def node_state_tag(node_index: int, state: str, end_unix_s: float) -> dict[str, str]:
    """Returns the tag that says whether a node measures on, and until when its figures are."""
    key = keys.node_tag(keys.TAG_NODE_STATE, node_index)
    return {key: f"{state} {round(end_unix_s * MILLISECONDS_PER_SECOND)}"}


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
        parts = read_parts(run)
        num_nodes = _num_nodes(run, parts)
        values, tags = summed(run.data.metrics, parts, num_nodes), missing_tags(parts, num_nodes)
        if _holds(run, values, tags):
            return
        timestamp_ms = max(part.end_ms for part in parts.values()) + _num_ended(parts)
        points = [Metric(key, value, timestamp_ms, 0) for key, value in values.items()]
        new_tags = [RunTag(key, value) for key, value in tags.items()]
        client.log_batch(run_id, metrics=points, tags=new_tags)
        if keys.TAG_MISSING_NODES in run.data.tags and not tags:
            with suppress(MlflowException):  # another node may have taken it away
                client.delete_tag(run_id, keys.TAG_MISSING_NODES)


def read_parts(run: Run) -> dict[int, NodePart]:
    """Returns what each node has written, by its index."""
    parts = {}
    for key, text in run.data.tags.items():
        match key.split("."):
            case ["carbon", "node", index, "state"] if index.isdecimal():
                state, _, end_ms = text.partition(" ")
                metrics = of_node(run.data.metrics, int(index))
                total = recorded_total(run, metrics) or Reading(0.0, 0.0)
                parts[int(index)] = NodePart(total, metrics, int(end_ms), state == ENDED)
    return parts


def missing_tags(parts: Mapping[int, NodePart], num_nodes: int) -> dict[str, str]:
    """Returns the tag that names the nodes whose energy is not in the sum, or not all of it."""
    missing = [str(index) for index in range(num_nodes) if not _is_whole(parts.get(index))]
    return {keys.TAG_MISSING_NODES: ",".join(missing)} if missing else {}


def summed(
    metrics: Mapping[str, float], parts: Mapping[int, NodePart], num_nodes: int
) -> dict[str, float]:
    """Returns the totals of a run by those of its nodes.

    The duration is the longest node's. A node that is missing, or died, should have measured for
    as long; what it did not lowers the coverage. Devices are told apart on each node only.

    Args:
        metrics: of the run; intensity and PUE are taken from there.
        parts: what each node has written.
        num_nodes: nodes that there are.
    """
    totals = [part.total for part in parts.values()]
    duration_s = max(total.duration_s for total in totals)
    values = {keys.DURATION_S: duration_s}
    energies_kwh = [total.energy_kwh for total in totals if total.energy_kwh is not None]
    pue, g_per_kwh = metrics.get(keys.PUE), metrics.get(keys.INTENSITY_G_PER_KWH)
    if not energies_kwh or pue is None or g_per_kwh is None:
        return values
    energy_kwh = sum(energies_kwh)
    mass_g = co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh)
    values |= {
        keys.ENERGY_KWH: energy_kwh,
        keys.FACILITY_ENERGY_KWH: facility_energy_kwh(energy_kwh, pue),
        keys.CO2E_G: mass_g,
        keys.CO2E_KG: kg_from_grams(mass_g),
    }
    by_component = _added_by_component(totals)
    for component, component_kwh in by_component.items():
        values[keys.component_energy_kwh(component)] = component_kwh
    if duration_s > 0:
        values[keys.COVERAGE_FRACTION] = _coverage_fraction(parts, num_nodes, duration_s)
        values[keys.POWER_W] = watts_from_kwh(energy_kwh, duration_s)
        for component, component_kwh in by_component.items():
            values[keys.component_power_w(component)] = watts_from_kwh(component_kwh, duration_s)
    return values | _per_unit(parts, num_nodes, pue * g_per_kwh)


def _is_whole(part: NodePart | None) -> bool:
    return part is not None and part.has_ended and part.total.energy_kwh is not None


def _num_ended(parts: Mapping[int, NodePart]) -> int:
    return sum(part.has_ended for part in parts.values())


def _num_nodes(run: Run, parts: Mapping[int, NodePart]) -> int:
    return max(int(run.data.tags.get(keys.TAG_NUM_NODES, "0")), max(parts, default=-1) + 1)


def _added_by_component(totals: Iterable[Reading]) -> dict[str, float]:
    by_component: dict[str, float] = {}
    for total in totals:
        for component, energy_kwh in total.energy_kwh_by_component().items():
            by_component[component] = by_component.get(component, 0.0) + energy_kwh
    return by_component


def _coverage_fraction(parts: Mapping[int, NodePart], num_nodes: int, duration_s: float) -> float:
    observed_s = sum(
        (part.total.coverage_fraction or 0.0) * part.total.duration_s for part in parts.values()
    )
    expected_s = sum(
        parts[index].total.duration_s if _is_whole(parts.get(index)) else duration_s
        for index in range(num_nodes)
    )
    return observed_s / expected_s


def _per_unit(parts: Mapping[int, NodePart], num_nodes: int, g_per_kwh: float) -> dict[str, float]:
    """Returns energy and CO2e per unit where every node knows its own; they add up."""
    values: dict[str, float] = {}
    for unit in keys.UNITS:
        key = keys.energy_kwh_per_unit(unit)
        known = [part.metrics[key] for part in parts.values() if key in part.metrics]
        if len(known) == num_nodes:
            values[key] = sum(known)
            values[keys.co2e_g_per_unit(unit)] = sum(known) * g_per_kwh
    return values


def _holds(run: Run, values: Mapping[str, float], tags: Mapping[str, str]) -> bool:
    """Returns whether the run shows these totals already."""
    metrics, shown = run.data.metrics, run.data.tags.get(keys.TAG_MISSING_NODES)
    return shown == tags.get(keys.TAG_MISSING_NODES) and all(
        key in metrics and math.isclose(metrics[key], value, rel_tol=1e-12)
        for key, value in values.items()
    )
