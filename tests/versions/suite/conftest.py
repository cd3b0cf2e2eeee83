"""Where the suite works: one store, and a folder, an experiment and a journal of each test's own."""

import os

import mlflow
import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The URI of a server that the suite was given, else of one sqlite file: to make it is slow."""
    return os.environ.get("SUITE_SERVER") or f"sqlite:///{tmp_path_factory.mktemp('store')}/it.db"


@pytest.fixture(autouse=True)
def place(store, tmp_path, monkeypatch):
    """The test's folder, where it works; its name is that of its experiment too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("MLFLOW_CARBON_REGION", "SE")
    mlflow.set_tracking_uri(store)
    experiment = mlflow.set_experiment(tmp_path.name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment.experiment_id)
    return tmp_path
