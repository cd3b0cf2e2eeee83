"""Writes a file to a run where its artifact store takes it, and makes nobody wait for long."""

import logging
import re
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.redaction import reason_of

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

WAIT_S = 5.0  # at the end of a run; an artifact store may hold a call for minutes
SHORTEST_CHILD_S = 60.0  # a child of a minute or more does not feel the write
MAX_ROUNDS = 4
_SERVERS = ("http://", "https://")


def attach(
    client: MlflowClient,
    run_id: str,
    path: str,
    make_text: Callable[[], str | None],
    *,
    is_for_children: bool,
) -> None:
    """Writes a text as an artifact, in a thread of its own that is waited for a limited time.

    A store that takes no artifact is no fault: the run's tags and curves hold the figures, too.

    Args:
        client: of the run's store.
        run_id: the run.
        path: where in the run's artifacts.
        make_text: returns the content, ``None`` for no file. It is asked again after each write,
            until it returns what was written: another node may have changed the run meanwhile.
        is_for_children: whether a run that has a parent gets the file, too; a short trial of a
            sweep must not get slower.
    """

    def write() -> None:
        try:
            run = client.get_run(run_id)
            is_wanted = is_for_children or MLFLOW_PARENT_RUN_ID not in run.data.tags
            if is_wanted and is_within_reach(client.tracking_uri, run.info.artifact_uri):
                _write(client, run_id, path, make_text)
        except Exception as error:  # the store is the user's: whatever it raises, the run goes on
            _logger.debug("Run %s gets no %s: %s", run_id, path, reason_of(error))

    _within_time(write)


def attach_in_folder(run_id: str, folder: Path, path: str, text: str) -> None:
    """Writes a text among a run's artifacts in a folder, without a call to the store.

    Args:
        run_id: the run.
        folder: of its artifacts, see ``folder_of``.
        path: where in it.
        text: the content.
    """

    def write() -> None:
        try:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        except OSError as error:
            _logger.debug("Run %s gets no %s: %s", run_id, path, reason_of(error))

    _within_time(write)


def folder_of(tracking_uri: str, artifact_uri: str | None) -> Path | None:
    """Returns the folder of this machine that holds a run's artifacts; ``None`` without one."""
    if artifact_uri is None or tracking_uri.startswith(_SERVERS) or not _is_folder(artifact_uri):
        return None
    parts = urlsplit(artifact_uri)
    if parts.scheme != "file":
        return Path(artifact_uri)
    path = unquote(parts.path)
    return Path(path[1:] if re.match(r"/[A-Za-z]:", path) else path)  # file:///C:/runs


def _within_time(write: Callable[[], None]) -> None:
    thread = threading.Thread(target=write, name="mlflow-carbon-file", daemon=True)
    thread.start()
    thread.join(WAIT_S)


def _write(
    client: MlflowClient, run_id: str, path: str, make_text: Callable[[], str | None]
) -> None:
    written = None
    for _ in range(MAX_ROUNDS):
        text = make_text()
        if text in (None, written):
            return
        client.log_text(run_id, str(text), path)
        written = text


def is_within_reach(tracking_uri: str, artifact_uri: str | None) -> bool:
    """Returns whether artifacts are kept where the store says: a server's folder is not here."""
    is_server = tracking_uri.startswith(_SERVERS)
    return artifact_uri is not None and not (is_server and _is_folder(artifact_uri))


def _is_folder(artifact_uri: str) -> bool:
    scheme = urlsplit(artifact_uri).scheme  # mlflow-artifacts:/1/... is the server's own
    return len(scheme) < 2 or scheme == "file"  # a letter is a drive
