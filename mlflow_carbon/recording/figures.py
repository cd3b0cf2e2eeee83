"""From a meter's readings to the metrics and tags of the contract."""

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_carbon.accounting.emissions import co2e_g, facility_energy_kwh, mean_std
from mlflow_carbon.accounting.uncertainty import num_distinct_readings
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.metering.meter import MeterDescription
from mlflow_carbon.metering.readings import Reading
from mlflow_carbon.units import kg_from_grams, watts_from_kwh


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """One marked stretch of work: what it cost and how many units it did."""

    reading: Reading
    num_units: float


class WindowColumns:
    """Energy, units and mean power of windows in order: 24 bytes each, whatever they measured.

    A run may have a hundred thousand windows; its summary needs no more of them than this.
    """

    def __init__(self, records: Iterable[WindowRecord] = ()) -> None:
        self.energies_kwh = array("d")  # NaN where nothing was measured
        self.nums_units = array("d")
        self.powers_w = array("d")  # NaN where it is not known
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return len(self.nums_units)

    def append(self, record: WindowRecord) -> None:
        """Takes one more window."""
        energy_kwh, power_w = record.reading.energy_kwh, _power_w(record.reading)
        self.energies_kwh.append(math.nan if energy_kwh is None else energy_kwh)
        self.nums_units.append(record.num_units)
        self.powers_w.append(math.nan if power_w is None else power_w)


def window_metrics(reading: Reading, num_units: float) -> dict[str, float]:
    """Returns one point of each window series; ``reading`` must hold energy."""
    assert reading.energy_kwh is not None
    values = {
        keys.WINDOW_ENERGY_KWH: reading.energy_kwh,
        keys.WINDOW_DURATION_S: reading.duration_s,
        keys.WINDOW_NUM_UNITS: num_units,
    }
    power_w = _power_w(reading)
    if power_w is not None:
        values[keys.WINDOW_POWER_W] = power_w
    for component, energy_kwh in reading.energy_kwh_by_component().items():
        values[keys.window_component_energy_kwh(component)] = energy_kwh
    return values


def total_metrics(total: Reading, assumptions: Assumptions) -> dict[str, float]:
    """Returns the run's totals: energy by component and device, CO2e, and what was assumed."""
    values = {keys.DURATION_S: total.duration_s}
    if total.energy_kwh is None:
        return values
    mass_g = co2e_g(
        total.energy_kwh,
        pue=assumptions.pue,
        intensity_g_per_kwh=assumptions.intensity.g_per_kwh,
    )
    values |= {
        keys.ENERGY_KWH: total.energy_kwh,
        keys.FACILITY_ENERGY_KWH: facility_energy_kwh(total.energy_kwh, assumptions.pue),
        keys.CO2E_G: mass_g,
        keys.CO2E_KG: kg_from_grams(mass_g),
        keys.INTENSITY_G_PER_KWH: assumptions.intensity.g_per_kwh,
        keys.PUE: assumptions.pue,
    }
    if total.coverage_fraction is not None:
        values[keys.COVERAGE_FRACTION] = total.coverage_fraction
    by_place: dict[tuple[str, int | None], float] = {
        (device.component, device.index): device.energy_kwh for device in total.devices
    }
    by_place |= {(name, None): kwh for name, kwh in total.energy_kwh_by_component().items()}
    for (component, index), energy_kwh in by_place.items():
        values[keys.component_energy_kwh(component, index)] = energy_kwh
    if total.duration_s > 0:
        values[keys.POWER_W] = watts_from_kwh(total.energy_kwh, total.duration_s)
        for (component, index), energy_kwh in by_place.items():
            power_w = watts_from_kwh(energy_kwh, total.duration_s)
            values[keys.component_power_w(component, index)] = power_w
    return values


def node_metrics(total: Reading, assumptions: Assumptions, node_index: int) -> dict[str, float]:
    """Returns what one node adds to a run of several, and what all of them assume."""
    values = {keys.DURATION_S: total.duration_s}
    assumed = {}
    if total.energy_kwh is not None:
        values[keys.ENERGY_KWH] = total.energy_kwh
        values[keys.COVERAGE_FRACTION] = total.coverage_fraction or 0.0
        for device in total.devices:
            key = keys.component_energy_kwh(device.component, device.index)
            values[key] = device.energy_kwh
        for component, energy_kwh in total.energy_kwh_by_component().items():
            values[keys.component_energy_kwh(component)] = energy_kwh
        assumed = {
            keys.INTENSITY_G_PER_KWH: assumptions.intensity.g_per_kwh,
            keys.PUE: assumptions.pue,
        }
    of_node = {keys.node_metric(key, node_index): value for key, value in values.items()}
    return of_node | assumed


def per_unit_metrics(
    windows: WindowColumns, unit: str, assumptions: Assumptions
) -> dict[str, float]:
    """Returns the run value and ``std_within`` of energy in kWh and CO2e in g per unit."""
    measured = [
        (kwh, units)
        for kwh, units in zip(windows.energies_kwh, windows.nums_units, strict=True)
        if not math.isnan(kwh) and units > 0
    ]
    if not measured:
        return {}
    run_value_kwh = sum(kwh for kwh, _ in measured) / sum(units for _, units in measured)
    std_kwh = mean_std([kwh / units for kwh, units in measured]).std
    g_per_kwh = assumptions.pue * assumptions.intensity.g_per_kwh
    values = {
        keys.energy_kwh_per_unit(unit): run_value_kwh,
        keys.co2e_g_per_unit(unit): run_value_kwh * g_per_kwh,
    }
    if std_kwh is not None:
        values[keys.std_of(keys.energy_kwh_per_unit(unit))] = std_kwh
        values[keys.std_of(keys.co2e_g_per_unit(unit))] = std_kwh * g_per_kwh
    return values


def window_tags(windows: WindowColumns, unit: str) -> dict[str, str]:
    """Returns the tags that say how many windows and units the per-unit figures rest on."""
    if not len(windows):
        return {}
    num_distinct = num_distinct_readings(
        None if math.isnan(power_w) else power_w for power_w in windows.powers_w
    )
    return {
        keys.TAG_UNIT: unit,
        keys.TAG_NUM_UNITS: f"{sum(windows.nums_units):g}",
        keys.TAG_NUM_WINDOWS: str(len(windows)),
        **({} if num_distinct is None else {keys.TAG_NUM_DISTINCT_READINGS: str(num_distinct)}),
    }


def _power_w(reading: Reading) -> float | None:
    if reading.energy_kwh is None or reading.duration_s <= 0:
        return None
    return watts_from_kwh(reading.energy_kwh, reading.duration_s)


def description_tags(description: MeterDescription) -> dict[str, str]:
    """Returns the tags that say what measured, how, on what, and what could not be measured."""
    tags = {
        keys.TAG_COMPONENTS: ",".join(description.components),
        keys.TAG_ATTRIBUTION: description.attribution,
        keys.TAG_HARDWARE: description.hardware,
        keys.TAG_TRACKER: description.tracker,
    }
    for component, method in description.method_by_component.items():
        tags[keys.method_tag(component)] = method
    if description.cpu_tdp_source is not None:
        tags[keys.TAG_CPU_TDP_SOURCE] = description.cpu_tdp_source
    if description.cpu_idle_power_w is not None:
        tags[keys.TAG_CPU_IDLE_POWER_W] = f"{description.cpu_idle_power_w:.6g}"
    if description.unread:
        tags[keys.TAG_UNREAD_DEVICES] = ", ".join(description.unread)
    if description.problems:
        tags[keys.TAG_ERROR] = " ".join(description.problems)
    return tags
