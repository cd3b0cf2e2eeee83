"""The whole footprint of a project: every run once, however it ended."""

import json

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.reporting.total import read_total
from mlflow_carbon.reporting.total_report import paper_sentence
from tests.fakes.metered_runs import write_run


def total(*arguments: str):
    """Runs the command; returns its result."""
    return CliRunner().invoke(cli, ["total", *arguments])


@pytest.fixture
def project(store):
    """0.1 kWh finished, 0.2 failed, 0.3 killed without totals; a sweep of 1 kWh; one unmetered."""
    client = MlflowClient(tracking_uri=store)
    write_run(client, "p", windows=[(0.1, 1.0)])
    write_run(client, "p", windows=[(0.2, 1.0)], status="FAILED")
    priced = {"carbon.intensity_g_per_kwh": "250", "carbon.pue": "1.5"}  # tagged at the start
    windows = [(0.1, 1.0), (0.2, 1.0)]
    killed = write_run(client, "p", windows=windows, status="KILLED", tags=priced)
    _without_totals(client, killed)
    parent = write_run(client, "p", windows=[(1.0, 1.0)])
    for status in ("FINISHED", "FAILED", "KILLED"):  # a trial that was stopped early is KILLED
        write_run(client, "p", windows=[(0.3, 1.0)], status=status, parent_run_id=parent)
    write_run(client, "elsewhere", windows=[(9.0, 1.0)])
    experiment = client.get_experiment_by_name("p").experiment_id
    client.set_terminated(client.create_run(experiment).info.run_id)
    return client


def _without_totals(client: MlflowClient, run_id: str) -> None:
    """Takes the totals out of the database, as where the process was killed."""
    import sqlite3
    from contextlib import closing

    path = client.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        for table in ("metrics", "latest_metrics"):
            database.execute(f"DELETE FROM {table} WHERE run_uuid = ? AND step = 0", (run_id,))
        database.commit()


@pytest.mark.slow
def test_total_counts_failed_and_killed_runs_and_a_sweep_once(project):
    found = read_total(project, experiment_names=["p"])
    # 0.1 + 0.2 + 0.3 (windows of the killed run) + 1.0 (the sweep, not 1.9)
    assert found.energy_kwh == pytest.approx(1.6)
    assert found.co2e_g == pytest.approx(1.6 * 1.5 * 250)
    assert (len(found.runs), len(found.counted), found.num_unmetered) == (7, 4, 1)


@pytest.mark.slow
def test_tables_and_search_give_the_same_total(project):
    project.set_tag(next(iter(read_total(project).runs)).run_id, "carbon.total", "ended x")
    frames = [read_total(project, since_unix_s=1.0, is_direct=way) for way in (True, False)]
    assert frames[0] == frames[1]
    assert (len(frames[0].runs), frames[0].num_unmetered, len(frames[0].faults)) == (7, 1, 1)


def test_children_count_where_they_are_more_than_their_parent(store):
    client = MlflowClient(tracking_uri=store)
    parent = write_run(client, "p", windows=[(0.1, 1.0)])  # children on other machines
    for _ in range(3):
        write_run(client, "p", windows=[(0.3, 1.0)], parent_run_id=parent)
    assert read_total(client).energy_kwh == pytest.approx(0.9)


def test_grandchildren_are_inside_the_root(store):
    client = MlflowClient(tracking_uri=store)
    root = write_run(client, "p", windows=[(1.0, 1.0)])
    child = write_run(client, "p", windows=[(0.5, 1.0)], parent_run_id=root)
    write_run(client, "p", windows=[(0.4, 1.0)], parent_run_id=child)
    assert read_total(client).energy_kwh == pytest.approx(1.0)


def test_parent_that_is_its_own_or_not_there_does_not_lose_a_run(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "p", windows=[(0.5, 1.0)], parent_run_id="gone")
    run_id = write_run(client, "p", windows=[(0.25, 1.0)])
    client.set_tag(run_id, "mlflow.parentRunId", run_id)
    assert read_total(client).energy_kwh == pytest.approx(0.75)


def test_runs_of_one_process_at_one_time_count_once(store):
    client = MlflowClient(tracking_uri=store)
    for energy_kwh in (0.4, 0.5):  # each holds the energy of both
        write_run(client, "p", windows=[(energy_kwh, 1.0)], tags={"carbon.shared": "true"})
    assert read_total(client).energy_kwh == pytest.approx(0.5)


@pytest.mark.slow
def test_command_prints_answer_score_and_sentence(project):
    result = total("--experiment", "p")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("600 g CO2e, 1.6 kWh")
    assert "SCI for AI, (O + M) / R: 600 g CO2e per project" in result.stdout
    assert "All 7 metered runs of this work (3 finished, 2 failed, 2 killed) used 1.6 kWh" in (
        result.stdout
    )
    assert "EU27 250 g/kWh (2022, paper_table1), PUE 1.5" in result.stdout
    assert "Not in it: 1 run not metered." in result.stdout
    assert "A lower bound: 1 run killed or not yet ended." in result.stdout


@pytest.mark.slow
def test_score_adds_embodied_emissions_per_functional_unit(project):
    arguments = ("--embodied-kg", "0.4", "--functional-units", "10", "--functional-unit", "model")
    # (600 g + 400 g) / 10
    assert (
        "SCI for AI, (O + M) / R: 100 g CO2e per model"
        in total("--experiment", "p", *arguments).stdout
    )


def test_everyday_quantities_begin_at_one_phone_charge(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "small", windows=[(1e-6, 1.0)])
    write_run(client, "big", windows=[(1.0, 1.0)])
    assert "As much as" not in total("--experiment", "small").stdout
    assert "As much as" in total("--experiment", "big").stdout


@pytest.mark.slow
def test_json_holds_each_status_in_full_precision(project):
    rows = json.loads(total("--experiment", "p", "--format", "json").stdout)
    by_status = {row["status"]: row for row in rows}
    assert by_status["FAILED"]["num_runs"] == 2
    assert by_status["FAILED"]["num_counted"] == 1
    assert sum(row["energy_kwh"] for row in rows) == pytest.approx(1.6)


@pytest.mark.slow
def test_region_and_pue_price_everything_anew(project):
    text = total("--experiment", "p", "--region", "Sweden", "--pue", "1").stdout
    assert text.startswith("57.3 g CO2e")  # 1.6 kWh x 35.82
    assert "SE 35.82 g/kWh (2024, ember), PUE 1" in text


@pytest.mark.slow
def test_since_leaves_out_what_started_before(project):
    result = total("--since", "2999-01-01")
    assert result.exit_code == 1
    assert "No metered run in this store" in result.stderr
    assert total("--since", "2000-01-01").stdout.startswith("3.98 kg CO2e")  # 10.6 kWh


def test_nothing_to_add_up_is_wrong_usage(store):
    assert total().exit_code == 2
    with pytest.raises(NoRunsError, match="No metered run in this store"):
        read_total(MlflowClient(tracking_uri=store))


@pytest.mark.slow
def test_bad_run_is_left_out_by_name(project):
    bad = write_run(project, "p", windows=[(1.0, 1.0)], pue=0.5)
    found = read_total(project, experiment_names=["p"])
    assert found.energy_kwh == pytest.approx(1.6)
    assert bad in found.faults[0]
    assert "1.6 kWh" in paper_sentence(found)
