"""``mlflow run . -e synth -P steps=...`` as a user types it: each way, each store, and killed."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from tests.fakes import conda
from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.recorded import recorded

ROOT = Path(__file__).parent.parent
SYSTEM_PATH = ["/usr/local/bin", "/usr/bin", "/bin"]
# 40 steps take longer than a kernel's tick, so that each sample has an energy.
SMALL = {"size": "32", "iterations": "8", "vqgan_iterations": "8", "num_samples": "4"}
SMALL["steps"] = "40"

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path):
    """A copy of the project's files, so that its folder stays clean."""
    folder = tmp_path / "project"
    tracked = ["MLproject", "conda.yaml", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"]
    folder.mkdir()
    for name in tracked:
        shutil.copy(ROOT / name, folder / name)
    for package in ("mlflow_carbon", "ldm_project"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignored)
    return folder


def command(entry_point="synth", **parameters) -> list[str]:
    given = [f"{name}={value}" for name, value in {**SMALL, **parameters}.items()]
    options = [part for parameter in given for part in ("-P", parameter)]
    return [sys.executable, "-m", "mlflow", "run", ".", "-e", entry_point, *options]


def environment(store: str, *, path: Path | None = None) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if "CONDA" not in key}
    return clean | {
        "PATH": os.pathsep.join(([str(path)] if path else []) + SYSTEM_PATH),
        "MLFLOW_TRACKING_URI": store,
        "OMP_NUM_THREADS": "1",
    }


def run(project, store, *extra, path=None, **parameters):
    return subprocess.run(
        [*command(**parameters), *extra],
        cwd=project,
        env=environment(store, path=path),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def runs_in(store: str):
    """Returns the runs of the experiment that the project asks for where its user names none."""
    client = MlflowClient(tracking_uri=store)
    own = client.get_experiment_by_name("ldm-ct")
    return [] if own is None else client.search_runs([own.experiment_id])


def synth_runs(store: str):
    runs = runs_in(store)
    return [run for run in runs if run.data.tags.get("mlflow.project.entryPoint") == "synth"]


def assert_measured(store: str):
    (synth,) = synth_runs(store)
    assert synth.info.status == "FINISHED"
    assert synth.data.params["steps"] == SMALL["steps"]
    assert recorded(synth)["energy_kwh"] > 0
    assert synth.data.tags["carbon.unit"] == "sample"
    assert synth.info.run_name == "synth 2D 32² dpmpp_sde-40 seed 0"
    assert synth.data.params["size"] == "32"
    assert synth.data.params["resolved.batch_size"] == "1"
    assert "num_samples" in synth.data.params
    description = synth.data.tags["mlflow.note.content"]
    (training,) = (run for run in runs_in(store) if run.info.run_name.startswith("train "))
    address = f"#/experiments/{training.info.experiment_id}/runs/{training.info.run_id}"
    assert f"Trained for this run: [train 2D 32² 8 iterations seed 0]({address})" in description
    (dataset,) = training.inputs.dataset_inputs
    assert (dataset.dataset.name, json.loads(dataset.dataset.profile)["size"]) == (
        "ct phantom",
        [32, 32],
    )


@pytest.mark.skipif(
    any(shutil.which("conda", path=folder) for folder in SYSTEM_PATH),
    reason="conda is installed system-wide",
)
def test_without_conda_it_runs_here_and_prints_what_it_cost(project, store):
    result = run(project, store)
    assert result.returncode == 0, result.stderr
    assert "running in the current environment" in result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "energy",
        "CO2e",
        "how",
        "run",
    ]
    assert "Wh per sample (4 windows of 4 samples" in result.stdout
    assert not re.search(r"\de[-+]\d", result.stdout), result.stdout  # a person reads it
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "tdp" not in result.stdout
    assert_measured(store)


def test_with_env_manager_local_it_runs_here(project, store, warm_start):
    result = run(project, store, "--env-manager", "local")
    assert result.returncode == 0, result.stderr
    assert_measured(store)


def test_with_conda_it_runs_in_the_environment_that_conda_yaml_describes(project, store, tmp_path):
    bin_folder = tmp_path / "conda"
    calls = conda.install(bin_folder)
    result = run(project, store, path=bin_folder)
    assert result.returncode == 0, result.stderr
    assert "env create" in calls.read_text()
    (environment_folder,) = (bin_folder / "envs").iterdir()
    installed = [path.name for path in environment_folder.glob("lib/*/site-packages/*.dist-info")]
    assert any(name.startswith("mlflow_carbon-") for name in installed)
    assert_measured(store)


def test_compare_entry_point_prints_the_table(project, store, warm_start):
    assert run(project, store).returncode == 0
    options = ["-P", "region=EU27,Sweden,Poland"]
    compared = subprocess.run(
        [sys.executable, "-m", "mlflow", "run", ".", "-e", "compare", *options],
        cwd=project,
        env=environment(store),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert compared.returncode == 0, compared.stderr
    lines = [line.split() for line in compared.stdout.splitlines()]
    assert [line[:2] for line in lines if line[:1] == ["40"]][:3] == [
        ["40", "EU27"],
        ["40", "SE"],
        ["40", "PL"],
    ]


@pytest.fixture
def server(empty_store, tmp_path, warm_start):
    """A real MLflow server; gives its URL."""
    shutil.copy(empty_store, tmp_path / "server.db")
    with mlflow_server(f"sqlite:///{tmp_path}/server.db", tmp_path) as uri:
        yield uri


def test_with_a_server_as_store_it_registers_and_measures(project, server, warm_start):
    result = run(project, server, "--env-manager", "local")
    assert result.returncode == 0, result.stderr
    assert_measured(server)
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    assert client.get_registered_model("ldm-ct-2d-32-tiny").tags["carbon.band"] == "A"


def test_killed_in_the_middle_it_keeps_what_was_logged_and_the_next_run_works(
    project, store, warm_start
):
    assert run(project, store, "--env-manager", "local").returncode == 0
    long = [*command(num_samples="4000", steps="20"), "--env-manager", "local"]
    process = subprocess.Popen(
        long,
        cwd=project,
        env=environment(store),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    client = MlflowClient(tracking_uri=store)
    deadline_s = time.monotonic() + 900
    windows = []
    while len(windows) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.5)
        running = [run for run in synth_runs(store) if run.info.status == "RUNNING"]
        for active in running:
            windows = client.get_metric_history(active.info.run_id, "carbon/power_w")
    (worker,) = [
        each
        for each in psutil.process_iter(["cmdline", "environ"])
        if "ldm_project" in (each.info["cmdline"] or ())
        and (each.info["environ"] or {}).get("MLFLOW_TRACKING_URI") == store
    ]
    worker.kill()
    process.wait(60)
    (killed,) = [run for run in synth_runs(store) if run.data.params["num_samples"] == "4000"]
    history = client.get_metric_history(killed.info.run_id, "carbon/power_w")
    assert len(history) >= 3
    assert killed.info.status == "FAILED"
    assert run(project, store, "--env-manager", "local").returncode == 0


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dims": "4"}, "dims is 4"),
        ({"size": "30"}, "30 is not divisible by 8"),
        ({"steps": "0"}, "steps is 0"),
        ({"data": "nowhere"}, "No folder, file or glob 'nowhere'"),
        ({"region": "Poland", "month": "2022-02"}, "PL in 2022-02"),
    ],
)
def test_bad_input_is_one_line_and_a_failed_run(project, store, warm_start, parameters, message):
    result = run(project, store, "--env-manager", "local", **parameters)
    assert result.returncode != 0
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr
    assert {run.info.status for run in runs_in(store)} == {"FAILED"}
