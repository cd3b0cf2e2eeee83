"""A real MLflow server on a free port of this machine, ended with the test."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # further processes, not needed
END_TIMEOUT_S = 10.0
START_TIMEOUT_S = 600.0  # a busy machine needs long


@contextmanager
def mlflow_server(
    store: str,
    folder: Path,
    *,
    options: Sequence[str] = (),
    environment: dict[str, str] | None = None,
    python: str | None = None,
) -> Iterator[str]:
    """Gives the URI of a server over this store; its log lies in the folder.

    Args:
        store: URI of the database.
        folder: where it runs and keeps artifacts.
        options: further ones of ``mlflow server``.
        environment: further variables.
        python: what runs it; the Python of the tests if ``None``.
    """
    port = free_port()
    command = [python or sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    command += ["--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *options],
            cwd=folder,
            env=os.environ | NO_JOBS | (environment or {}),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            uri = f"http://127.0.0.1:{port}"
            _wait_for(uri, process, folder / "server.log")
            yield uri
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and its workers, by force where they take too long."""
    if process.poll() is not None:  # it did not start, and its log says why
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """Returns a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=5)
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
        else:
            return
    raise RuntimeError(f"The server did not start: {log.read_text()[-2000:]}")
