"""Where the suite works: one store; a folder, an experiment and a journal for each test."""

import os

import mlflow
import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The URI of a server that the suite was given, else of one sqlite file: to make it is slow."""
    folder = tmp_path_factory.mktemp("store")
    uri = os.environ.get("SUITE_SERVER") or f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    return uri


@pytest.fixture(autouse=True)
def place(store, tmp_path, monkeypatch):
    """The test's folder, where it works; its name is that of its experiment too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("MLFLOW_CARBON_REGION", "SE")
    experiment = mlflow.set_experiment(tmp_path.name)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", experiment.experiment_id)
    return tmp_path
