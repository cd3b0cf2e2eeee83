"""Runs that were never metered get the energy of MLflow's system metrics, said to be such."""

import math
import os
import subprocess
import sys

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_carbon.cli import cli
from mlflow_carbon.recording.system_metrics import integrate
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.store.runs import read_runs
from tests.fakes.metered_runs import experiment_id, write_run
from tests.fakes.recorded import recorded

START_MS = 1_700_000_000_000
GPU = "system/gpu_0_power_usage_watts"
CPU = "system/cpu_utilization_percentage"
MARKET = ("--region", "SE", "--intensity-set", "paper_table1", "--pue", "1.5")  # 7 g/kWh


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def logged_run(client, series, *, duration_s=100, tags=None, status="FINISHED"):
    """Returns a run with these system metrics, as (second, value) points of each key."""
    run_id = client.create_run(
        experiment_id(client, "old"), start_time=START_MS, run_name="old", tags=tags
    ).info.run_id
    metrics = [
        Metric(key, value, START_MS + round(1000 * second), step)
        for key, points in series.items()
        for step, (second, value) in enumerate(points)
    ]
    client.log_batch(run_id, metrics=metrics)
    if status != "RUNNING":
        client.set_terminated(run_id, status, end_time=START_MS + 1000 * duration_s)
    return run_id


def every_10_s(value, until_s=100):
    return [(second, value) for second in range(0, until_s + 1, 10)]


def backfill(*args):
    result = CliRunner().invoke(cli, ["backfill", "--experiment", "old", *MARKET, *args])
    assert result.exit_code == 0, result.output
    return result


def energy_joules(client, run_id, component="energy_kwh"):
    return recorded(client.get_run(run_id).data)[component] * 3.6e6


def test_integral_is_that_of_the_trapezoids():
    # 10 s from 100 to 200 W: 1500 J; 10 s from 200 to 0 W: 1000 J
    integral = integrate([0.0, 10.0, 20.0], [100.0, 200.0, 0.0])
    assert integral.energy_kwh == pytest.approx(2500 / 3.6e6)
    assert (integral.covered_s, integral.num_gaps) == (20.0, 0)


def test_integral_leaves_a_gap_out():
    # three steps of 10 s at 100 W; the 500 s between them are more than 3 x 10 s
    times = [0.0, 10.0, 20.0, 520.0, 530.0]
    integral = integrate(times, [100.0] * 5)
    assert integral.energy_kwh == pytest.approx(3000 / 3.6e6)
    assert (integral.covered_s, integral.num_gaps) == (30.0, 1)


def test_integral_leaves_out_what_lies_beside_an_unknown_value():
    # steps of 10 s at 100 W; the two beside the unknown value have no energy
    integral = integrate([0.0, 10.0, 20.0, 30.0, 40.0], [100.0, 100.0, math.nan, 100.0, 100.0])
    assert integral.energy_kwh == pytest.approx(2000 / 3.6e6)
    assert (integral.covered_s, integral.num_gaps) == (20.0, 1)


@pytest.mark.parametrize("odd_w", [1e9, 4_294_967.295, -5.0])
def test_power_that_no_gpu_draws_is_left_out_and_said(client, odd_w):
    points = [(s, odd_w if s == 50 else 100.0) for s, _ in every_10_s(0)]
    run_id = logged_run(client, {GPU: points})
    backfill()
    data = client.get_run(run_id).data
    # 100 W for 80 s of 100 s: the 10 s before and after the odd value are not known
    assert energy_joules(client, run_id) == pytest.approx(8_000)
    assert recorded(data)["coverage_fraction"] == pytest.approx(0.8)
    assert "gpu 0 shows 1 impossible values" in data.tags["carbon.error"]


def test_integral_of_unknown_values_alone_is_absent():
    assert integrate([0.0, 10.0, 20.0], [math.nan] * 3).energy_kwh is None


@pytest.mark.parametrize("times", [[], [5.0], [5.0, 5.0]])
def test_integral_of_no_interval_is_absent(times):
    assert integrate(times, [100.0] * len(times)).energy_kwh is None


def test_run_gets_the_energy_of_each_gpu(client):
    run_id = logged_run(
        client,
        {GPU: every_10_s(100.0), "system/gpu_1_power_usage_watts": every_10_s(50.0)},
    )
    result = backfill()
    # 100 s x (100 + 50) W = 15 kJ = 4.17 Wh, x 1.5 x 7 g/kWh = 43.75 mg
    assert energy_joules(client, run_id) == pytest.approx(15_000)
    assert energy_joules(client, run_id, "gpu/1") == pytest.approx(5_000)
    metrics = recorded(client.get_run(run_id).data)
    assert metrics["co2e_g"] == pytest.approx(0.04375)
    assert metrics["coverage_fraction"] == pytest.approx(1.0)
    assert metrics["power_w"] == pytest.approx(150.0)
    assert metrics["energy_kwh_per_minute"] == pytest.approx(9_000 / 3.6e6)
    assert "4.167 Wh, 43.75 mg CO2e; 100 s of 100 s covered; written." in result.stdout


def test_run_is_tagged_as_backfilled(client):
    run_id = logged_run(client, {GPU: every_10_s(100.0)})
    backfill()
    tags = client.get_run(run_id).data.tags
    assert tags["carbon.method.gpu"] == "backfilled"
    assert tags["carbon.method.cpu"] == "unavailable"
    assert tags["carbon.tracker"] == "mlflow system metrics"
    assert tags["carbon.attribution"] == "gpu_only"
    assert (tags["carbon.region"], tags["carbon.schema"]) == ("SE", "2")
    assert "The CPU is left out" in tags["carbon.error"]


def test_gaps_and_ends_without_metrics_are_not_covered(client):
    points = [(second, 100.0) for second in (10, 20, 30, 80, 90)]
    run_id = logged_run(client, {GPU: points})
    result = backfill()
    # three steps of 10 s; 10 s before, 50 s between and 10 s after are nobody's
    metrics = recorded(client.get_run(run_id).data)
    assert energy_joules(client, run_id) == pytest.approx(3_000)
    assert metrics["coverage_fraction"] == pytest.approx(0.3)
    assert metrics["duration_s"] == 100.0
    shown = client.get_run(run_id).data.metrics
    assert shown["carbon/power_w"] == pytest.approx(100.0)  # while it was seen
    assert "30 s of 100 s covered; written." in result.stdout
    assert "1 gap is not counted." in result.stdout


def test_cpu_counts_by_its_use_where_its_power_is_given(client):
    run_id = logged_run(client, {CPU: every_10_s(50.0)})
    backfill("--cpu-tdp-w", "200")
    # at 50 % use a CPU draws 0.75 of its TDP: 100 s x 0.75 x 200 W
    assert energy_joules(client, run_id) == pytest.approx(15_000)
    data = client.get_run(run_id).data
    assert recorded(data)["coverage_fraction"] == 0.0  # its power is assumed
    assert data.tags["carbon.cpu_tdp_source"] == "user"
    assert data.tags["carbon.method.cpu"] == "backfilled"


def test_cpu_counts_by_the_table_where_it_is_named(client):
    run_id = logged_run(client, {CPU: every_10_s(50.0)})
    backfill("--cpu", "AMD EPYC 7232P 8-Core Processor")
    assert energy_joules(client, run_id) == pytest.approx(100 * 0.75 * 120)
    source = client.get_run(run_id).data.tags["carbon.cpu_tdp_source"]
    assert source == "table: AMD EPYC 7232P (120 W)"


def test_active_model_gets_no_figures_of_an_old_run(client, monkeypatch):
    model = mlflow.create_external_model(name="of another run")
    run_id = logged_run(client, {GPU: every_10_s(300)})
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", model.model_id)
    backfill()
    assert energy_joules(client, run_id) == pytest.approx(30_000)  # 300 W × 100 s
    assert not mlflow.get_logged_model(model.model_id).metrics


def test_dry_run_writes_nothing(client):
    run_id = logged_run(client, {GPU: every_10_s(100.0)})
    assert "100 s of 100 s covered; would be written." in backfill("--dry-run").stdout
    assert not any(key.startswith("carbon") for key in client.get_run(run_id).data.tags)


def test_second_backfill_changes_nothing(client):
    run_id = logged_run(client, {GPU: every_10_s(100.0)})
    backfill()
    before = client.get_run(run_id).data
    result = backfill("--cpu-tdp-w", "100")
    assert result.stdout == "Nothing to backfill.\n"
    assert "Left alone 1 run metered or backfilled already." in result.stderr
    after = client.get_run(run_id).data
    assert (after.metrics, after.tags) == (before.metrics, before.tags)


def test_runs_without_figures_or_end_are_left_alone(client):
    logged_run(client, {"loss": every_10_s(1.0)})
    logged_run(client, {GPU: every_10_s(100.0)}, status="RUNNING")
    result = backfill()
    assert result.stdout == "Nothing to backfill.\n"
    assert "Left alone 1 run without system metrics of power or CPU use." in result.stderr
    assert "Left alone 1 run not ended." in result.stderr


def test_run_of_one_point_has_no_energy(client):
    run_id = logged_run(client, {GPU: [(10, 100.0)]})
    assert "no energy; left as it is. The CPU is left out" in backfill().stdout
    assert "carbon.schema" not in client.get_run(run_id).data.tags


def test_parent_is_not_added_to_its_children(client):
    parent = logged_run(client, {GPU: every_10_s(100.0)})
    child = logged_run(client, {GPU: every_10_s(100.0)}, tags={"mlflow.parentRunId": parent})
    backfill()
    scopes = [client.get_run(run_id).data.tags["carbon.scope"] for run_id in (parent, child)]
    assert scopes == ["parent", "run"]


def test_nodes_are_told_apart(client):
    keys = [f"system/{node}/gpu_0_power_usage_watts" for node in ("a", "b")]
    run_id = logged_run(client, {key: every_10_s(100.0) for key in keys})
    backfill()
    assert energy_joules(client, run_id, "gpu/1") == pytest.approx(10_000)
    assert energy_joules(client, run_id) == pytest.approx(20_000)


@pytest.mark.slow
def test_models_of_a_backfilled_run_get_its_emissions(client):
    run_id = logged_run(client, {GPU: every_10_s(100.0)})
    client.create_registered_model("m")
    client.create_model_version("m", "s3://bucket/model", run_id)
    backfill()
    tags = client.get_registered_model("m").tags
    assert (tags["carbon.band"], tags["carbon.method.gpu"]) == ("A", "backfilled")


def test_comparison_says_that_runs_were_backfilled(client):
    logged_run(client, {GPU: every_10_s(100.0)})
    backfill()
    write_run(client, "old", windows=[(1e-6, 1.0)], unit="minute", region="SE")
    comparison = compare_runs(read_runs(client, experiment_names=["old"]))
    (notice,) = (text for text in comparison.notices if "backfilled" in text and "1 of 2" in text)
    assert "not metered as they ran" in notice


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--cpu", "AMD EPYC 7232Q"), "Nearest: AMD EPYC 7232P"),
        (("--cpu", "AMD EPYC 7232P", "--cpu-tdp-w", "5"), "not both"),
        (("--cpu-tdp-w", "nan"), "cpu_tdp_w is nan"),
        (("--pue", "0.5"), "PUE is 0.5"),
        (("--experiment", "older"), "No experiment 'older'"),
    ],
)
def test_backfill_exits_with_1_on_what_the_user_can_fix(client, args, message):
    logged_run(client, {GPU: every_10_s(100.0)})
    result = CliRunner().invoke(cli, ["backfill", "--experiment", "old", *args])
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


USER_SCRIPT = """
import time, mlflow
mlflow.set_experiment("old")
with mlflow.start_run(log_system_metrics=True):
    end = time.time() + 4
    while time.time() < end:
        sum(range(10**5))
"""


@pytest.mark.slow
def test_run_that_mlflow_itself_logged_is_backfilled(store, client, tmp_path):
    environment = {
        "MLFLOW_TRACKING_URI": store,
        "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "0.5",
        "MLFLOW_CARBON_AUTOLOG": "false",
    }
    subprocess.run(
        [sys.executable, "-c", USER_SCRIPT], env=os.environ | environment, cwd=tmp_path, check=True
    )
    backfill("--cpu-tdp-w", "100")
    (run,) = client.search_runs([experiment_id(client, "old")])
    # some of 4 s at 100 W at most
    assert 0 < recorded(run)["energy_kwh"] * 3.6e6 < 500
    assert run.data.tags["carbon.method.cpu"] == "backfilled"
