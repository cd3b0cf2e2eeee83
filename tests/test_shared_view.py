"""The view of an experiment's runs that the receipt links to."""

import json

import mlflow
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.contract import keys
from mlflow_carbon.tracking.shared_view import TAG, share_view, view_state


def metered_run(**params: int) -> None:
    with mlflow.start_run():
        mlflow.log_params(params)
        with mlflow_carbon.track(region="SE", unit="sample") as tracker, tracker.window(1):
            pass


def state_of(experiment_id: str) -> dict:
    return json.loads(MlflowClient().get_experiment(experiment_id).tags[TAG])


def test_receipt_links_to_the_runs_with_carbon_columns(fake_meter, capsys):
    metered_run()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(
        "all runs: http://127.0.0.1:5000/#/experiments/0/runs"
        "?viewStateShareKey=carbon&workflowType=machine_learning"
    )
    state = state_of("0")
    assert f"metrics.`{keys.CO2E_G}`" in state["selectedColumns"]
    assert "compareRunCharts" not in state


def test_runs_with_steps_add_a_chart_that_others_leave_there(fake_meter):
    metered_run(num_inference_steps=20)
    (chart,) = state_of("0")["compareRunCharts"]
    assert chart["xaxis"]["key"] == "num_inference_steps"
    metered_run()
    assert state_of("0")["compareRunCharts"] == [chart]


def test_silent_runs_write_no_view(fake_meter, monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_SILENT", "true")
    metered_run()
    assert TAG not in MlflowClient().get_experiment("0").tags


def test_an_experiment_that_cannot_be_written_has_no_view(store):
    assert not share_view(store, "no such experiment", steps_parameter=None)


def test_every_shown_column_has_its_place_and_width():
    state = view_state(steps_parameter="steps")
    assert state["selectedColumns"] == state["columnOrder"] == list(state["columnWidths"])
    assert "params.`steps`" in state["selectedColumns"]
