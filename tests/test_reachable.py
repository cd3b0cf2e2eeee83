"""A tracking server that is away is named soon and given up soon, by every command that reads."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from mlflow_carbon.errors import TrackingStoreError
from mlflow_carbon.store.reachable import GIVE_UP_AFTER_S, TELL_AFTER_S, require_answer
from tests.fakes.mlflow_server import free_port, mlflow_server
from tests.fakes.proxy import proxy_before

READING = (
    "compare",
    "models",
    "predict latest --units 1",
    "advise latest",
    "gate models:/m/1 --max-co2e-kg 1",
    "card models:/m/1",
    "backfill --experiment e --dry-run",
)


@contextmanager
def listener_that_says_nothing():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://user:secret@127.0.0.1:{server.getsockname()[1]}"


def test_silent_server_is_named_and_given_up(caplog):
    with listener_that_says_nothing() as uri, pytest.raises(TrackingStoreError) as refused:
        require_answer(uri, tell_after_s=0.1, give_up_after_s=0.3)
    place = uri.replace("user:secret", "***")
    assert str(refused.value) == (
        f"The tracking server {place} does not answer within 0.3 s. "
        "Start it, or check its address and MLFLOW_TRACKING_URI."
    )
    told = [it.getMessage() for it in caplog.records if it.name == "mlflow.carbon"]
    assert told == [f"Waiting for the tracking server {place} ..."]


def test_server_that_refuses_connections_tells_why_where_mlflow_gives_up_first(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingStoreError, match=r"does not answer \(.*refused"):
        require_answer(f"http://127.0.0.1:{free_port()}", give_up_after_s=60.0)


@pytest.mark.parametrize("uri", ["sqlite:////nowhere/mlflow.db", "databricks", "some/folder"])
def test_other_stores_are_not_asked(uri):
    require_answer(uri, tell_after_s=0.0, give_up_after_s=0.0)


@pytest.mark.slow
def test_every_reading_command_gives_a_server_up_after_ten_seconds(warm_start):
    """All commands wait at the same time."""
    uri = f"http://127.0.0.1:{free_port()}"
    start_s = time.monotonic()
    waiting = {
        command: subprocess.Popen(
            [sys.executable, "-m", "mlflow_carbon", *command.split(), "--tracking-uri", uri],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in READING
    }
    for command, process in waiting.items():
        told = process.communicate()[1]
        took_s = time.monotonic() - start_s
        assert process.returncode == 1, command
        assert f"The tracking server {uri} does not answer" in told, command
        # MLflow alone takes 254 s; a busy machine is allowed its imports
        assert TELL_AFTER_S < took_s < 10 * GIVE_UP_AFTER_S, command


@pytest.mark.slow
def test_answer_of_any_kind_will_do(empty_store, tmp_path, caplog, warm_start):
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    with (
        mlflow_server(f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path) as uri,
        proxy_before(uri) as proxy,
    ):
        proxy.delay_s = TELL_AFTER_S + 0.5
        require_answer(proxy.uri, give_up_after_s=120.0)
        proxy.delay_s, proxy.status = 0.0, 403
        require_answer(proxy.uri, give_up_after_s=120.0)
    assert caplog.text.count("Waiting for the tracking server") == 1
