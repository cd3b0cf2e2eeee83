"""Fixtures that several test files share: a tracking store of one's own, and one torch thread."""

import os
import shutil

import mlflow
import pytest
from mlflow.tracking import fluent

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty sqlite store, migrated once: MLflow needs seconds for that."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A tracking store and registry on sqlite in the current folder; gives its URI."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    monkeypatch.setenv("LDM_PROJECT_CACHE", str(tmp_path / "cache"))
    # what set_experiment left in a test before
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)
