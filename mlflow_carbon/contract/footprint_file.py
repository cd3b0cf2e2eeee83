"""All that is known of a run's footprint as one document: the artifact ``carbon/footprint.json``.

``data/footprint.schema.json`` is its schema. What was not measured is absent from it.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import NodePart, Total
from mlflow_carbon.contract.windows import WindowColumns
from mlflow_carbon.units import duration_s_from_kwh

ARTIFACT = "carbon/footprint.json"
VERSION = 1


def footprint_text(record: RunRecord, windows: WindowColumns) -> str | None:
    """Returns the document as JSON; ``None`` where no energy was measured.

    Args:
        record: priced, of a run that has ended.
        windows: those that count the record's unit; none for a run without windows.
    """
    total = record.total
    if total is None or total.energy_kwh is None:
        return None
    found = {
        "version": VERSION,
        "run_id": record.run_id,
        "energy_kwh": total.energy_kwh,
        "co2e_g": record.co2e_g,
        "duration_s": total.duration_s,
        "coverage_fraction": total.coverage_fraction,
        "is_lower_bound": record.is_partial or None,
        "nodes": [_node(index, part) for index, part in record.parts.items()],
        "missing_nodes": list(record.missing_nodes),
        "components": _components(total, record.description),
        "price": _price(record),
        "measurement": _measurement(record.description),
        "per_unit": _per_unit(record),
        "windows": _windows(record, windows),
    }
    return json.dumps(_present(found), indent=1, allow_nan=False)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values without those that are not known."""
    return {name: value for name, value in values.items() if value not in (None, {}, [])}


def _components(total: Total, description: MeterDescription | None) -> dict[str, Any]:
    """Returns each component's energy and devices, and why another has none."""
    methods = {} if description is None else description.method_by_component
    energies = total.energy_kwh_by_component
    found = {}
    for name in sorted(methods.keys() | energies.keys()):
        devices = [
            {"index": device.index, "energy_kwh": device.energy_kwh}
            for device in total.devices
            if device.component == name
        ]
        values = {
            "method": methods.get(name),
            "energy_kwh": energies.get(name),
            "devices": devices,
        }
        found[name] = _present(values)
    return found


def _node(index: int, part: NodePart) -> dict[str, Any]:
    """Returns the measurement of one node of several, as the file holds it."""
    total = Total(None) if part.total is None else part.total
    return _present(
        {
            "index": index,
            "has_ended": part.has_ended,
            "energy_kwh": total.energy_kwh,
            "duration_s": total.duration_s,
            "coverage_fraction": total.coverage_fraction,
            "energy_kwh_by_component": dict(total.energy_kwh_by_component),
        }
    )


def _price(record: RunRecord) -> dict[str, Any]:
    """Returns the assumptions that turned the energy into CO2e."""
    intensity = record.intensity
    found: dict[str, Any] = {"pue": record.pue}
    if intensity is not None:
        found |= {
            "intensity_g_per_kwh": intensity.g_per_kwh,
            "region": intensity.region or None,
            "period": intensity.period or None,
            "intensity_set": intensity.intensity_set or None,
            "basis": intensity.basis or None,
            "source": intensity.source or None,
        }
    found |= {"defaulted": list(record.defaulted), "fallback_reason": record.fallback_reason}
    return _present(found)


def _measurement(description: MeterDescription | None) -> dict[str, Any]:
    """Returns the methods of the measurement, and the devices that it lacks."""
    if description is None:
        return {}
    return _present(
        {
            "tracker": description.tracker or None,
            "hardware": description.hardware or None,
            "attribution": description.attribution,
            "cpu_tdp_source": description.cpu_tdp_source,
            "cpu_idle_power_w": description.cpu_idle_power_w,
            "unread_devices": list(description.unread),
            "problems": list(description.problems),
        }
    )


def _per_unit(record: RunRecord) -> dict[str, Any]:
    """Returns the run value of energy and CO2e of each unit, and the energy's spread."""
    g_per_kwh = None
    if record.pue is not None and record.intensity is not None:
        g_per_kwh = record.pue * record.intensity.g_per_kwh
    return {
        unit: _present(
            {
                "energy_kwh": energy.energy_kwh,
                "energy_kwh_std": energy.std_kwh,
                "co2e_g": None if g_per_kwh is None else energy.energy_kwh * g_per_kwh,
            }
        )
        for unit, energy in record.energy_per_unit.items()
    }


def _windows(record: RunRecord, windows: WindowColumns) -> dict[str, Any]:
    """Returns the windows as columns, in their order."""
    if not len(windows) or record.unit is None:
        return {}
    powers_w = [None if math.isnan(power_w) else power_w for power_w in windows.powers_w]
    return {
        "unit": record.unit,
        "energy_kwh": list(windows.energies_kwh),
        "num_units": list(windows.nums_units),
        "power_w": powers_w,
        "duration_s": [
            duration_s_from_kwh(energy_kwh, power_w) if power_w else None
            for energy_kwh, power_w in zip(windows.energies_kwh, powers_w, strict=True)
        ],
    }
