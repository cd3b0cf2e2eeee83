"""``mlflow run`` of a project that opts in works without conda; other projects are untouched."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mlflow_carbon.project_backend import opts_in, own_experiment
from tests.fakes import conda

OPT_IN = "mlflow_carbon:\n  without_conda: current_environment\n"
SCRIPT = """
import sys
import mlflow
with mlflow.start_run():
    mlflow.log_param("executable", sys.executable)
"""
NOTICE = "conda is not installed; running in the current environment"


@pytest.fixture
def project(tmp_path):
    """A small project that opts in, with a conda environment that asks for nothing."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(
        "name: small\nconda_env: conda.yaml\n"
        + OPT_IN
        + "entry_points:\n  main:\n    command: python main.py\n"
    )
    (folder / "conda.yaml").write_text("dependencies:\n  - python=3.11\n  - pip:\n    - mlflow\n")
    (folder / "main.py").write_text(SCRIPT)
    return folder


def mlflow_run(project: Path, *options: str, path: Path | None = None, store: str):
    """Runs the project in a process of its own, with ``path`` first on PATH and no conda else."""
    system = ["/usr/local/bin", "/usr/bin", "/bin"]
    environment = {key: value for key, value in os.environ.items() if "CONDA" not in key}
    environment |= {
        "PATH": os.pathsep.join(([str(path)] if path else []) + system),
        "MLFLOW_TRACKING_URI": store,
        "PYTHONPATH": "",
    }
    return subprocess.run(
        [sys.executable, "-m", "mlflow", "run", str(project), *options],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )


def only_run(store: str):
    """Returns the one run of the store."""
    (run,) = MlflowClient(tracking_uri=store).search_runs(["0"])
    return run


needs_no_conda = pytest.mark.skipif(
    any(shutil.which("conda", path=folder) for folder in ("/usr/local/bin", "/usr/bin", "/bin")),
    reason="conda is installed system-wide",
)


@pytest.mark.slow
@needs_no_conda
def test_without_conda_the_current_environment_is_used_and_said_in_one_line(project, store):
    result = mlflow_run(project, store=store)
    assert result.returncode == 0, result.stderr
    assert sum(NOTICE in line for line in result.stderr.splitlines()) == 1
    run = only_run(store)
    assert run.info.status == "FINISHED"
    assert Path(run.data.params["executable"]).parent == Path(sys.executable).parent


@pytest.mark.slow
@needs_no_conda
def test_project_that_does_not_opt_in_fails_as_mlflow_fails(project, store, warm_start):
    file = project / "MLproject"
    file.write_text(file.read_text().replace(OPT_IN, ""))
    result = mlflow_run(project, store=store)
    assert result.returncode != 0
    assert "Could not find Conda executable" in result.stderr
    assert NOTICE not in result.stderr


@pytest.mark.slow
def test_local_env_manager_uses_the_python_that_mlflow_runs_in(project, store, warm_start):
    result = mlflow_run(project, "--env-manager", "local", store=store)
    assert result.returncode == 0, result.stderr
    assert NOTICE not in result.stderr
    executable = Path(only_run(store).data.params["executable"])
    assert executable.parent == Path(sys.executable).parent


@pytest.mark.slow
def test_relative_store_is_found_from_the_project_folder(project, store, warm_start):
    # MLflow resolves sqlite:///mlflow.db once here and once in the project's folder.
    result = mlflow_run(project, "--env-manager", "local", store="sqlite:///mlflow.db")
    assert result.returncode == 0, result.stderr
    assert only_run(store).info.status == "FINISHED"
    assert not (project / "mlflow.db").exists()


@pytest.mark.slow
def test_with_conda_present_its_environment_is_made_and_used(project, store, tmp_path):
    bin_folder = tmp_path / "conda"
    calls = conda.install(bin_folder)
    result = mlflow_run(project, path=bin_folder, store=store)
    assert result.returncode == 0, result.stderr
    assert NOTICE not in result.stderr
    created = [line for line in calls.read_text().splitlines() if line.startswith("env create")]
    assert len(created) == 1
    assert created[0].endswith(f"--file {project / 'conda.yaml'}")
    assert str(bin_folder / "envs") in only_run(store).data.params["executable"]


@pytest.mark.parametrize(
    "content",
    [
        "name: other\nconda_env: conda.yaml\n",
        "name: other\nconda_env: conda.yaml\nmlflow_carbon: yes\n",
        "name: other\nconda_env: conda.yaml\nmlflow_carbon: {without_conda: fail}\n",
        f"name: other\npython_env: python_env.yaml\n{OPT_IN}",
        f"name: other\n{OPT_IN}",
    ],
)
def test_only_the_exact_key_on_a_conda_project_opts_in(tmp_path, content):
    (tmp_path / "MLproject").write_text(content)
    assert not opts_in(tmp_path)


def test_folder_without_mlproject_does_not_opt_in(tmp_path):
    assert not opts_in(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "environment", "expected"),
    [
        ([], {}, "small-study"),
        (["--experiment-name", "mine"], {}, "mine"),
        (["--experiment-id", "0"], {}, "Default"),
        ([], {"MLFLOW_EXPERIMENT_NAME": "mine"}, "mine"),
    ],
)
def test_runs_go_to_the_experiment_of_the_project_where_the_user_names_none(
    project, store, warm_start, options, environment, expected, monkeypatch
):
    wish = OPT_IN + "  experiment: small-study\n"
    file = project / "MLproject"
    file.write_text(file.read_text().replace(OPT_IN, wish))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = mlflow_run(project, "--env-manager", "local", *options, store=store)
    assert result.returncode == 0, result.stderr
    client = MlflowClient(tracking_uri=store)
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert client.get_experiment(run.info.experiment_id).name == expected


def test_a_project_that_asks_for_nothing_or_code_that_chooses_gets_mlflows_experiment(
    project, store
):
    assert own_experiment(str(project), "7", store) == "7"
    (project / "MLproject").write_text("name: small\n" + OPT_IN + "  experiment: other\n")
    assert own_experiment(str(project), "7", store) == "7"  # no command line: the caller chose
    assert own_experiment("https://example.org/project.git", "7", store) == "7"
