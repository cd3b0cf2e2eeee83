"""The receipt at the end of a metered run: on stderr, once, and kept for ``last_footprint()``."""

import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from mlflow import MlflowClient

from mlflow_carbon.redaction import without_credentials
from mlflow_carbon.reporting.receipt import RunFootprint, receipt_lines
from mlflow_carbon.tracking.shared_view import SHARE_KEY, share_view

SILENT = "MLFLOW_CARBON_SILENT"
LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves unless it is told otherwise
# MLflow's UI opens in its view of generative AI unless its address asks for that of training.
_VIEW = "workflowType=machine_learning"
# Where stderr knows ASCII only.
_PLAIN = str.maketrans({"·": "|", "−": "-", "±": "+-", "µ": "u", "…": "."})

_lock = threading.Lock()
_newest: list[RunFootprint] = []  # at most one


def last_footprint() -> RunFootprint | None:
    """Returns the cost of the metered run that ended last in this process; ``None`` before that.

    The record is that of the receipt: energy in kWh and CO2e in g with their bounds, by component
    and per unit. It prints as the receipt, and as a table in a notebook.
    """
    with _lock:
        return _newest[-1] if _newest else None


def keep(footprint: RunFootprint) -> None:
    """Makes a footprint the last one."""
    with _lock:
        _newest[:] = [footprint]


def is_silent(chosen: bool | None, environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether no receipt is wanted: as chosen, else as ``MLFLOW_CARBON_SILENT`` says."""
    if chosen is not None:
        return chosen
    return environment.get(SILENT, "").strip().lower() in ("true", "1")


def print_receipt(footprint: RunFootprint, stream: TextIO | None = None) -> None:
    """Prints a receipt in one piece, as wide as a terminal; a closed or full stream gets none.

    Args:
        footprint: what the run cost.
        stream: ``None`` for stderr.
    """
    stream = stream or sys.stderr
    try:
        block = "\n".join(receipt_lines(footprint, columns=_columns(stream))) + "\n"
        try:
            stream.write(block)
        except UnicodeEncodeError:
            stream.write(block.translate(_PLAIN).encode("ascii", "replace").decode("ascii"))
        stream.flush()
    except (AttributeError, OSError, ValueError):  # no stderr, a full disk, a closed one
        return


def _columns(stream: TextIO) -> int | None:
    """Returns the width of the terminal behind a stream; ``None`` where there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (AttributeError, OSError):  # no terminal, or a stand-in for a file
        return None


def place_in_ui(client: MlflowClient, run_id: str, experiment_id: str | None) -> str | None:
    """Returns the address of a run in MLflow's view of training, and how to start the UI.

    Args:
        client: of the run's store.
        run_id: the run.
        experiment_id: of the run; ``None`` where nobody has said.

    Returns:
        ``None`` where the address cannot be known.
    """
    if experiment_id is None:
        return None
    page = f"#/experiments/{experiment_id}/runs/{run_id}?{_VIEW}"
    uri = str(client.tracking_uri)
    if uri.startswith(("http://", "https://")):
        return f"{without_credentials(uri).rstrip('/')}/{page}"
    return f"{LOCAL_UI}/{page} (after: {_command_of_ui(uri)})"


def runs_in_ui(
    client: MlflowClient, experiment_id: str | None, *, steps_parameter: str | None
) -> str | None:
    """Returns the address of the experiment's runs in MLflow's UI, with their CO2e as columns.

    Args:
        client: of the runs' store.
        experiment_id: of the runs; ``None`` where nobody has said.
        steps_parameter: of the runs, where they have one.

    Returns:
        ``None`` where the experiment cannot be given such a view.
    """
    uri = str(client.tracking_uri)
    if experiment_id is None or not share_view(uri, experiment_id, steps_parameter=steps_parameter):
        return None
    is_served = uri.startswith(("http://", "https://"))
    address = without_credentials(uri).rstrip("/") if is_served else LOCAL_UI
    return f"{address}/#/experiments/{experiment_id}/runs?viewStateShareKey={SHARE_KEY}&{_VIEW}"


def _command_of_ui(uri: str) -> str:
    """Returns the command that serves a store; the address of one with a password is left out."""
    is_here = uri == "sqlite:///mlflow.db" or uri == f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    if is_here or not uri.startswith("sqlite:") or uri != without_credentials(uri):
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri {uri}"
