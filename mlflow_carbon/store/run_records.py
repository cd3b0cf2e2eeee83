"""One run's record, with the histories that MLflow keeps apart from the run."""

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.unit_series import UnitSums
from mlflow_carbon.contract.windows import Window

_WINDOW_SERIES = (keys.WINDOW_ENERGY_KWH, keys.WINDOW_DURATION_S, keys.WINDOW_NUM_UNITS)
_CURVES = (keys.ENERGY_KWH, keys.NODE_ENERGY_KWH, keys.CO2E_G, keys.POWER_W)


def keys_of_histories(run: Run, *, has_components: bool = True) -> list[str]:
    """Returns the metrics of a run whose histories hold its windows and the end of its total.

    Args:
        run: metered or not, of either version.
        has_components: whether to read the energy of each component of the windows, which only
            version 1 has.
    """
    metrics, tags = run.data.metrics, run.data.tags
    wanted = {keys.DURATION_S, *_WINDOW_SERIES}
    if tags.get(keys.TAG_SCHEMA) == keys.SCHEMA_VERSION:
        unit = tags.get(keys.TAG_UNIT)
        wanted |= {*_CURVES, *(() if unit is None else (keys.co2e_g_per_unit(unit),))}
    return [
        key
        for key in metrics
        if key in wanted or (has_components and keys.is_window_component(key))
    ]


def read_record(client: MlflowClient, run: Run, *, has_components: bool = True) -> RunRecord:
    """Returns a run's record, with its windows and the time stamp of its total.

    Args:
        client: of the run's store.
        run: metered or not.
        has_components: as in ``keys_of_histories``.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    wanted = keys_of_histories(run, has_components=has_components)
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in wanted}
    return RunRecord.read(run, histories)


def read_sums_of_unit(client: MlflowClient, run: Run, unit: str) -> UnitSums | None:
    """Returns the sums of a unit that is not the run's own; ``None`` without windows of it.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    figures = Figures(run.info.run_id, run.data.metrics, run.data.tags)
    sums = UnitSums.read(figures, unit)
    stored = {key: keys.window_key_of_unit(key, unit) for key in _WINDOW_SERIES}
    if sums is not None or stored[keys.WINDOW_ENERGY_KWH] not in run.data.metrics:
        return sums
    histories = {
        key: client.get_metric_history(run.info.run_id, name) for key, name in stored.items()
    }
    return UnitSums.of(Window.read(figures, histories, unit=unit, first_step=1).values())
