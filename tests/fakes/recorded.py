"""A run's figures by short names, whichever version of the contract wrote them."""

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.entities import Run, RunData

from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.windows import Window
from mlflow_carbon.store.run_records import read_record


def recorded(run: Run | RunData | str) -> dict[str, float]:
    """Returns the figures of a run, of its data, or of the run with an id, as its record has them.

    Names: ``energy_kwh``, ``duration_s``, ``power_w``, ``coverage_fraction``, ``co2e_g``, ``pue``,
    ``intensity_g_per_kwh``, ``gpu`` and ``gpu/0`` (kWh), ``energy_kwh_per_<unit>``,
    ``co2e_g_per_<unit>``, both with ``…_std``, ``node/1/energy_kwh`` and so on.
    """
    found_run = MlflowClient().get_run(run) if isinstance(run, str) else run
    data = found_run.data if isinstance(found_run, Run) else found_run
    record = RunRecord.parse("", data.metrics, data.tags)
    found = {} if record.total is None else record.total.words()
    if record.total is not None and record.total.power_w is not None:
        found["power_w"] = record.total.power_w
    if record.co2e_g is not None:
        found["co2e_g"] = record.co2e_g
    if record.pue is not None:
        found["pue"] = record.pue
    if record.intensity is not None:
        found["intensity_g_per_kwh"] = record.intensity.g_per_kwh
    for unit, energy in record.energy_per_unit.items():
        for ending, energy_kwh in (("", energy.energy_kwh), ("_std", energy.std_kwh)):
            if energy_kwh is None:
                continue
            found[f"energy_kwh_per_{unit}{ending}"] = energy_kwh
            if record.pue is not None and record.intensity is not None:
                mass_g = energy_kwh * record.pue * record.intensity.g_per_kwh
                found[f"co2e_g_per_{unit}{ending}"] = mass_g
    for index, part in record.parts.items():
        words = {} if part.total is None else part.total.words()
        words |= {f"energy_kwh_per_{unit}": kwh for unit, kwh in part.energy_per_unit.items()}
        found |= {f"node/{index}/{name}": value for name, value in words.items()}
    return found


def windows_of(run_id: str, client: MlflowClient | None = None) -> Mapping[int, Window]:
    """Returns a run's windows, by step."""
    client = client or MlflowClient()
    return read_record(client, client.get_run(run_id)).windows
