"""A tracking server that is away, slow, or refuses: the run goes on, and nothing is lost."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon import MeterSettings
from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.proxy import Proxy, proxy_before
from tests.fakes.recorded import windows_of

pytestmark = pytest.mark.slow

SIMULATED = MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, sim_cpu_util_fraction=1.0)
NUM_WINDOWS = 5
# What the end of a run may take where the store is away: 15 s for the delivery, and as much for
# the run's models, which are not asked for then. A busy machine is allowed some more.
END_LIMIT_S = 40.0


@pytest.fixture(scope="module")
def server_uri(empty_store, tmp_path_factory, warm_python_folder) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    store = folder / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    python = f"{warm_python_folder}/python"
    with mlflow_server(f"sqlite:///{store}", folder, python=python) as uri:
        yield uri


@pytest.fixture
def proxy(server_uri, tmp_path, monkeypatch) -> Iterator[Proxy]:
    """What stands between the user and the server; MLflow retries a little less than usual."""
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with proxy_before(server_uri) as proxy:
        mlflow.set_tracking_uri(proxy.uri)
        yield proxy
        mlflow.set_tracking_uri(None)


@pytest.fixture
def run_id(proxy) -> str:
    """A run that somebody else has created and ends."""
    return MlflowClient().create_run("0").info.run_id


def tracked(run_id: str):
    return mlflow_carbon.track(unit="sample", region="SE", settings=SIMULATED, run_id=run_id)


def steps(run_id: str, server_uri: str) -> list[int]:
    """Returns the steps of the windows in the order of their ends."""
    windows = windows_of(run_id, MlflowClient(tracking_uri=server_uri))
    return sorted(windows, key=lambda step: (windows[step].end_unix_s, step))


def has_total(run_id: str, server_uri: str) -> bool:
    tags = MlflowClient(tracking_uri=server_uri).get_run(run_id).data.tags
    return tags.get("carbon.total", "").startswith("ended ")


def test_server_that_goes_away_and_comes_back_has_every_window(proxy, run_id, server_uri):
    with tracked(run_id) as tracker:
        for number in tracker.windows(range(NUM_WINDOWS)):
            proxy.is_away = number in (1, 2, 3)
            time.sleep(0.3)
    assert steps(run_id, server_uri) == [1, 2, 3, 4, 5]
    assert has_total(run_id, server_uri)


def test_server_that_is_away_at_the_start_is_written_to_later(proxy, run_id, server_uri):
    proxy.is_away = True
    with tracked(run_id) as tracker:
        for number in tracker.windows(range(NUM_WINDOWS)):
            proxy.is_away = number < 3
            time.sleep(0.1)
    assert steps(run_id, server_uri) == [1, 2, 3, 4, 5]
    assert has_total(run_id, server_uri)


def test_slow_server_does_not_slow_the_work(proxy, run_id, server_uri):
    proxy.delay_s = 5.0
    with tracked(run_id) as tracker:
        start_s = time.monotonic()
        for _ in tracker.windows(range(20)):
            time.sleep(0.01)
        worked_s = time.monotonic() - start_s
        proxy.delay_s = 0.0
    assert worked_s < 5.0  # less than a single call takes
    assert steps(run_id, server_uri) == list(range(1, 21))


def test_server_that_refuses_lets_the_run_go_on(proxy, run_id, server_uri, caplog):
    proxy.status = 403
    start_s = time.monotonic()
    with tracked(run_id) as tracker:
        results = [number**2 for number in tracker.windows(range(NUM_WINDOWS))]
    assert time.monotonic() - start_s < END_LIMIT_S
    assert results == [0, 1, 4, 9, 16]
    messages = [it.getMessage() for it in caplog.records if it.name == "mlflow.carbon"]
    assert len([text for text in messages if "cannot be written" in text]) == 1
    assert len([text for text in messages if "mlflow-carbon recover" in text]) == 1


SCRIPT = """
import sys
import mlflow_carbon
from mlflow_carbon import MeterSettings
settings = MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, sim_cpu_util_fraction=1.0)
with mlflow_carbon.track(unit="sample", run_id=sys.argv[1], settings=settings) as tracker:
    for _ in tracker.windows(range(5)):
        pass
print("result 42")
"""


def command(folder: Path, proxy: Proxy, *arguments: str) -> str:
    """Returns what a command of Python printed to stdout."""
    environment = os.environ | {"MLFLOW_TRACKING_URI": proxy.uri}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_a_server_never_took_is_recovered_once(
    proxy, run_id, server_uri, tmp_path, warm_start
):
    (tmp_path / "script.py").write_text(SCRIPT)
    proxy.is_away = True
    assert command(tmp_path, proxy, "script.py", run_id) == "result 42\n"
    assert steps(run_id, server_uri) == []
    proxy.is_away = False
    assert f"run {run_id}" in command(tmp_path, proxy, "-m", "mlflow_carbon", "recover")
    assert steps(run_id, server_uri) == [1, 2, 3, 4, 5]
    assert has_total(run_id, server_uri)
    assert "Nothing to recover" in command(tmp_path, proxy, "-m", "mlflow_carbon", "recover")
