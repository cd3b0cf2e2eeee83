"""One run's record, with the histories that MLflow keeps apart from the run."""

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord

_SERIES = (
    keys.DURATION_S,
    keys.WINDOW_ENERGY_KWH,
    keys.WINDOW_DURATION_S,
    keys.WINDOW_NUM_UNITS,
)


def read_record(client: MlflowClient, run: Run, *, has_components: bool = True) -> RunRecord:
    """Returns what a run holds, its windows and the time stamp of its total included.

    Args:
        client: of the run's store.
        run: metered or not.
        has_components: whether the windows are to know the energy of each component.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    wanted = [key for key in run.data.metrics if key in _SERIES]
    if has_components:
        wanted += [key for key in run.data.metrics if keys.is_window_component(key)]
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in wanted}
    return RunRecord.read(run, histories)
