"""Fixtures that several test files share: one's own store, a meter, models, one torch thread."""

import os
import shutil

import hypothesis
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.tracking import fluent
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

import mlflow_carbon
from mlflow_carbon.registry.run_models import record_run_models
from mlflow_carbon.tracking.patches import INTEGRATION
from mlflow_carbon.tracking.process_metering import this_process
from tests.fakes.meter import FakeMeter, reading
from tests.fakes.metered_runs import write_run

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is slow; that is no fault of what is tested.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty sqlite store, migrated once: MLflow needs seconds for that."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what the project can make again, one for each test."""
    monkeypatch.setenv("LDM_PROJECT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A tracking store and registry on sqlite in the current folder; gives its URI."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    # what set_experiment left in a test before
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def fake_meter(store):
    """The process's one meter, of which each interval costs 36 J; autologging is off at the end."""
    meter = FakeMeter([reading(cpu_joules=36)] * 100)
    meter.stop = lambda: None
    this_process._meter = meter
    yield meter
    mlflow_carbon.autolog(disable=True)
    AUTOLOGGING_INTEGRATIONS[INTEGRATION] = {}
    this_process._meter = None


@pytest.fixture
def registered(store):
    """A model of 0.2 kWh (75 g), one of 8 kWh (3 kg) and one that was not measured."""
    client = MlflowClient(tracking_uri=store)
    for name, energy_kwh in (("small", 0.2), ("big", 8.0), ("unknown", None)):
        windows = [] if energy_kwh is None else [(energy_kwh, 100.0)]
        run_id = write_run(client, "train", windows=windows, unit="iteration")
        client.create_registered_model(name)
        client.create_model_version(name, "s3://bucket/model", run_id)
        record_run_models(client, run_id)
