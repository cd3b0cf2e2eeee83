"""The plugin beside the MLflow of this environment: unasked, by ``track``, and by its commands."""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.cli import cli
from mlflow_carbon.tracking.mlflow_seams import features_off

IS_SKINNY = importlib.util.find_spec("flask") is None

WORK = "sum(i * i for i in range(3 * 10**6))"  # longer than the 10 ms in which CPU time is counted
LOOP = f"""
import mlflow
with mlflow.start_run():
    for epoch in range(2):
        {WORK}
        mlflow.log_metric("loss", 1.0 / (epoch + 1), step=epoch)
"""
SKLEARN = """
import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression
with mlflow.start_run():
    features = np.random.default_rng(0).normal(size=(20000, 20))
    model = LogisticRegression(max_iter=500).fit(features, features[:, 0] > 0)
    mlflow.sklearn.log_model(model, name="model", registered_model_name="NAME", input_example=None)
"""
ON_AND_OFF = f"""
import mlflow
mlflow.autolog()
with mlflow.start_run(run_name="on"):
    {WORK}
mlflow.autolog(disable=True)
with mlflow.start_run(run_name="off"):
    {WORK}
"""


def run_script(text, **variables):
    """Runs a user's script, which knows nothing of us."""
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=os.environ | variables
    )
    assert done.returncode == 0, done.stderr
    assert "is not tracked here" not in done.stderr
    assert "not metered" not in done.stderr
    return done


def newest_runs(place):
    client = MlflowClient()
    return client.search_runs([os.environ["MLFLOW_EXPERIMENT_ID"]])


def is_metered(run):
    return "carbon/energy_kwh" in run.data.metrics


@pytest.fixture(scope="module")
def metered(store, tmp_path_factory):
    """A run of three epochs under ``track``, with a tagged model; gives its id and name."""
    name = f"metered-{os.getpid()}"
    client = MlflowClient()
    experiment_id = client.create_experiment(name, str(tmp_path_factory.mktemp("artifacts")))
    with mlflow.start_run(experiment_id=experiment_id) as run:
        with mlflow_carbon.track(unit="epoch", region="SE", pue=1.2) as tracker:
            for _ in tracker.windows(range(3)):
                eval(WORK)
    client.create_registered_model(name)
    client.create_model_version(name, "s3://bucket/model", run.info.run_id)
    CliRunner().invoke(cli, ["tag-models", name])
    return run.info.run_id, name


# The distribution


def test_wheel_brings_neither_networks_nor_the_stores_of_a_server():
    assert importlib.util.find_spec("torch") is None
    assert (importlib.util.find_spec("sqlalchemy") is None) is IS_SKINNY


def test_installed_version_is_the_codes():
    assert version("mlflow-carbon") == mlflow_carbon.__version__
    assert "site-packages" in mlflow_carbon.__file__


def test_plugin_is_the_only_entry_point_of_its_kind_that_is_ours():
    ours = [it for it in entry_points(group="mlflow.run_context_provider") if "carbon" in it.value]
    assert [it.value for it in ours] == ["mlflow_carbon.plugin:CarbonContextProvider"]


def test_every_feature_has_its_names_in_this_mlflow():
    assert features_off() == ()


# Unasked


def test_loop_of_a_user_is_metered_without_a_changed_line(place):
    run_script(LOOP, MLFLOW_CARBON_AUTOLOG="true")
    (run,) = newest_runs(place)
    assert is_metered(run)
    assert run.data.metrics["loss"] == 0.5
    assert run.data.tags["carbon.region"] == "SE"
    assert run.data.tags["carbon.plugin_version"] == mlflow_carbon.__version__


def test_loop_of_a_user_is_left_alone_where_nothing_is_switched_on(place):
    run_script(LOOP)
    (run,) = newest_runs(place)
    assert set(run.data.metrics) == {"loss"}
    assert not [tag for tag in run.data.tags if tag.startswith("carbon")]


def test_sklearn_model_gets_figures_and_its_version_the_tags(place):
    run_script(SKLEARN.replace("NAME", place.name), MLFLOW_CARBON_AUTOLOG="true")
    client = MlflowClient()
    (run,) = newest_runs(place)
    (model,) = client.search_logged_models([run.info.experiment_id])
    on_model = {
        metric.key: metric.value for metric in client.get_logged_model(model.model_id).metrics
    }
    assert on_model["carbon/co2e_kg"] == pytest.approx(run.data.metrics["carbon/co2e_g"] / 1000)
    found = client.search_logged_models([run.info.experiment_id], "metrics.`carbon/co2e_kg` < 5")
    assert [it.model_id for it in found] == [model.model_id]
    (version_of_model,) = client.search_model_versions(f"name = '{place.name}'")
    assert version_of_model.tags["carbon.band"] == "A"
    assert client.get_registered_model(place.name).tags["carbon.under_1kg"] == "true"


def test_mlflow_autolog_switches_on_and_off(place):
    run_script(ON_AND_OFF)
    metered_by_name = {run.info.run_name: is_metered(run) for run in newest_runs(place)}
    assert metered_by_name == {"on": True, "off": False}


def test_version_that_is_registered_later_gets_its_tags_at_once(place):
    name = place.name
    mlflow_carbon.autolog(region="SE")
    try:
        with mlflow.start_run() as run:
            eval(WORK)
        client = MlflowClient()
        client.create_registered_model(name)
        made = client.create_model_version(name, "s3://bucket/model", run.info.run_id)
        tags = client.get_model_version(name, made.version).tags
    finally:
        mlflow_carbon.autolog(disable=True)
    assert tags["carbon.band"] == "A"


# By track()


def test_track_measures_windows(metered):
    run_id, _ = metered
    data = mlflow.get_run(run_id).data
    assert (data.tags["carbon.unit"], data.tags["carbon.num_windows"]) == ("epoch", "3")
    assert data.metrics["carbon/co2e_g_per_epoch"] > 0


def test_nested_runs_are_not_added_to_their_parent(place):
    mlflow_carbon.autolog(region="SE")
    try:
        with mlflow.start_run() as parent:
            with mlflow.start_run(nested=True) as child:
                eval(WORK)
    finally:
        mlflow_carbon.autolog(disable=True)
    tags = {run.info.run_id: run.data.tags["carbon.scope"] for run in newest_runs(place)}
    assert tags == {parent.info.run_id: "parent", child.info.run_id: "run"}


def test_resumed_run_adds_to_its_total(place):
    totals_kwh = []
    run_id = None
    for _ in range(2):
        with mlflow.start_run(run_id=run_id) as run, mlflow_carbon.track(unit="epoch") as tracker:
            with tracker.window():
                eval(WORK)
        run_id = run.info.run_id
        data = mlflow.get_run(run_id).data
        totals_kwh.append(data.metrics["carbon/energy_kwh"])
    assert totals_kwh[0] < totals_kwh[1]
    assert data.tags["carbon.num_windows"] == "2"


# The commands

ARGUMENTS = {
    "compare": ["--region", "SE,PL"],
    "models": ["--max-co2e-kg", "5"],
    "tag-models": ["NAME"],
    "gate": ["models:/NAME/1", "--max-co2e-kg", "5"],
    "card": ["models:/NAME/1"],
    "predict": ["RUN", "--units", "100"],
    "advise": ["RUN", "--region", "SE,PL"],
    "equivalents": ["12.4"],
    "paper-check": [],
    "doctor": [],
    "recover": [],
    "backfill": ["--region", "SE", "--dry-run"],
    "run": ["--region", "SE", "--", sys.executable, "-c", "print()"],
    "total": [],
}
DRAWING = ["runs", "--out", "runs.png"]
HAS_MATPLOTLIB = importlib.util.find_spec("matplotlib") is not None  # some MLflows bring it
# Without the packages that export and draw, and without a study, one line refuses these.
REFUSED = {
    "export": (["--out", "runs.parquet"], "[parquet]"),
    "report": (["--out", "report.html"], "[plots]"),
    "study-report": ([], "No study in this store"),
}
if HAS_MATPLOTLIB:
    ARGUMENTS["plot"] = DRAWING
else:
    REFUSED["plot"] = (DRAWING, "[plots]")
SAYS = {
    "compare": "PL",
    "models": "NAME",
    "tag-models": "NAME: 1 version, nothing changed",
    "card": "co2_eq_emissions",
    "doctor": "Energy on this machine",
}


def test_every_command_is_in_the_suite():
    assert set(cli.commands) == {*ARGUMENTS, *REFUSED}


@pytest.mark.parametrize("command", REFUSED)
def test_command_says_what_it_needs(command, metered):
    arguments, reason = REFUSED[command]
    where = [] if command == "study-report" else ["--experiment", metered[1]]
    result = CliRunner().invoke(cli, [command, *arguments, *where])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert reason in result.output


@pytest.mark.parametrize("command", ARGUMENTS)
def test_command_works(command, metered):
    run_id, name = metered
    arguments = [it.replace("NAME", name).replace("RUN", run_id) for it in ARGUMENTS[command]]
    if command in ("compare", "backfill", "total", "plot"):
        arguments += ["--experiment", name]
    result = CliRunner().invoke(cli, [command, *arguments])
    assert result.exit_code == 0, result.output
    assert SAYS.get(command, "").replace("NAME", name) in result.output


def test_command_line_is_installed(metered):
    _, name = metered
    command = [Path(sys.executable).parent / "mlflow-carbon", "compare", "--format", "csv"]
    done = subprocess.run([*command, "--experiment", name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 2  # the names, and one row
