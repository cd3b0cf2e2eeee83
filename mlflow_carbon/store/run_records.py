"""One run's record, with the histories that MLflow keeps apart from the run."""

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.windows import Window

_WINDOW_SERIES = (keys.WINDOW_ENERGY_KWH, keys.WINDOW_DURATION_S, keys.WINDOW_NUM_UNITS)
_SERIES = (keys.DURATION_S, *_WINDOW_SERIES)


def read_record(client: MlflowClient, run: Run, *, has_components: bool = True) -> RunRecord:
    """Returns a run's record, with its windows and the time stamp of its total.

    Args:
        client: of the run's store.
        run: metered or not.
        has_components: whether to read the energy of each component of the windows.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    wanted = [key for key in run.data.metrics if key in _SERIES]
    if has_components:
        wanted += [key for key in run.data.metrics if keys.is_window_component(key)]
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in wanted}
    return RunRecord.read(run, histories)


def read_windows_of_unit(client: MlflowClient, run: Run, unit: str) -> dict[int, Window]:
    """Returns the windows, by step, of a unit that is not the run's own; empty without any.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    stored = {key: keys.window_key_of_unit(key, unit) for key in _WINDOW_SERIES}
    if stored[keys.WINDOW_ENERGY_KWH] not in run.data.metrics:
        return {}
    histories = {
        key: client.get_metric_history(run.info.run_id, name) for key, name in stored.items()
    }
    figures = Figures(run.info.run_id, run.data.metrics, run.data.tags)
    return Window.read(figures, histories, unit=unit, first_step=1)
