"""Beside mlflow-skinny, which brings no SQLAlchemy, all commands work against a server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.mlflow_server import mlflow_server

ROOT = Path(__file__).parent.parent

# Stands before each program: what only the whole package of MLflow brings cannot be imported.
SKINNY = """
import sys
for name in ("sqlalchemy", "alembic", "flask", "docker", "sklearn", "graphene"):
    sys.modules[name] = None
"""

IMPORT_ALL = """
import importlib, pkgutil
import mlflow
import mlflow_carbon
for module in pkgutil.walk_packages(mlflow_carbon.__path__, "mlflow_carbon."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print("imported")
"""

TRAIN = """
import mlflow
import mlflow_carbon
from mlflow import MlflowClient
from mlflow_carbon import MeterSettings
settings = MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, sim_cpu_util_fraction=1.0)
with mlflow.start_run() as run:
    with mlflow_carbon.track(unit="sample", region="SE", settings=settings) as tracker:
        for _ in tracker.windows(range(3)):
            sum(range(10**6))
        client = MlflowClient()
        client.create_registered_model("m")
        client.create_model_version("m", "s3://bucket/m", run.info.run_id)
print("trained")
"""

COMMAND = """
from mlflow_carbon.__main__ import main
main()
"""

# Commands one after the other, without loading MLflow anew for each: what each prints.
COMMANDS = """
import json
from click.testing import CliRunner
from mlflow_carbon.cli import cli
done = [CliRunner().invoke(cli, command) for command in json.loads(sys.argv[1])]
print(json.dumps([[each.exit_code, each.stdout] for each in done]))
"""


def run(folder, program, *arguments, uri):
    return subprocess.run(
        [sys.executable, "-c", SKINNY + program, *arguments],
        cwd=folder,
        env=os.environ
        | {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_CARBON_JOURNAL_DIR": str(folder / "journals"),
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_no_module_imports_a_database(tmp_path):
    done = run(tmp_path, IMPORT_ALL, uri="http://127.0.0.1:9")
    assert done.stdout == "imported\n", done.stderr


@pytest.mark.slow
def test_database_is_refused_in_a_sentence(empty_store, tmp_path):
    done = run(tmp_path, COMMAND, "compare", uri=f"sqlite:///{empty_store}")
    assert done.returncode == 1
    assert "is a database, and mlflow-skinny reads none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_server_is_enough(empty_store, tmp_path, warm_python_folder):
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    expected = {
        ("compare",): "SE",
        ("models",): "SE",
        ("gate", "models:/m/1", "--max-co2e-kg", "1"): "passes",
        ("card", "models:/m/1"): "co2_eq_emissions",
        ("predict", "latest", "--units", "10"): "SE",
        ("advise", "latest", "--region", "SE,PL"): "PL",
        ("tag-models", "--all"): "1 version, nothing changed",
        ("recover",): "Nothing to recover",
        ("backfill", "--experiment", "Default"): "Nothing to backfill",
    }
    python = f"{warm_python_folder}/python"
    with mlflow_server(f"sqlite:///{folder}/mlflow.db", folder, python=python) as uri:
        assert "trained" in run(tmp_path, TRAIN, uri=uri).stdout
        done = run(tmp_path, COMMANDS, json.dumps(list(expected)), uri=uri)
        assert done.returncode == 0, done.stderr
        results = json.loads(done.stdout)
        for (command, text), (exit_code, printed) in zip(expected.items(), results, strict=True):
            assert (exit_code, text in printed) == (0, True), (command, printed, done.stderr)
        doctor = run(tmp_path, COMMAND, "doctor", uri=uri)
        assert "Traceback" not in doctor.stderr
        assert "Energy on this machine" in doctor.stdout
    assert not (tmp_path / "mlflow.db").exists()
