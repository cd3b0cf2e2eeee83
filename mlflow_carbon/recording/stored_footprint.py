"""The footprint file of a run as its store tells it: of several nodes, or of a killed process."""

from mlflow import MlflowClient

from mlflow_carbon.contract.footprint_file import ARTIFACT, footprint_text
from mlflow_carbon.contract.run_description import SHORTEST_NOTED_S
from mlflow_carbon.contract.windows import WindowColumns
from mlflow_carbon.recording.run_files import attach
from mlflow_carbon.store.run_records import read_record


def attach_stored_footprint(client: MlflowClient, run_id: str) -> None:
    """Writes ``carbon/footprint.json`` from a run's tags and curves, where it took long enough.

    Of several nodes it holds each one's part as far as it is written; the node that ends last
    completes it. Of a killed process it holds the lower bound.

    Args:
        client: of the run's store.
        run_id: the run; one with a parent gets the file, too.
    """
    attach(client, run_id, ARTIFACT, lambda: _text(client, run_id), is_for_children=True)


def _text(client: MlflowClient, run_id: str) -> str | None:
    """Returns the document; ``None`` where nothing was measured, or for too short a time.

    Raises:
        BadRecordError: a figure is what no run can have measured.
        Exception: whatever the store raises.
    """
    record = read_record(client, client.get_run(run_id)).or_lower_bound()
    duration_s = None if record.total is None else record.total.duration_s
    if (duration_s or 0.0) < SHORTEST_NOTED_S:
        return None
    own = [window for window in record.windows.values() if window.unit is not None]
    return footprint_text(record, WindowColumns(own))
