"""What sqlite keeps in a column, whatever the column's type: it ends no command."""

import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import write_run


def changed(statement, run_id):
    path = MlflowClient().tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"{statement} WHERE run_uuid = ?", (run_id,))
        database.commit()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE latest_metrics SET value = 'abc'",
        "UPDATE latest_metrics SET value = x'00ff'",
        "UPDATE metrics SET value = 'abc'",
        "UPDATE metrics SET value = 5e-324",
        "UPDATE runs SET start_time = 'abc'",
        "UPDATE runs SET status = NULL",
        "UPDATE tags SET value = x'00ff'",
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ["compare", "--experiment", "e"],
        ["total", "--experiment", "e"],
        ["export", "--experiment", "e", "--out", "runs.parquet"],
    ],
    ids=lambda command: command[0],
)
def test_value_of_another_kind_in_one_run_ends_no_command(
    store, tmp_path, monkeypatch, change, command
):
    monkeypatch.chdir(tmp_path)
    windows = [(0.001, 10), (0.002, 10)]
    write_run(MlflowClient(), "e", windows=windows)
    changed(change, write_run(MlflowClient(), "e", windows=windows))
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.exception


def test_number_of_units_too_small_to_divide_by_is_one_error(store):
    run_id = write_run(MlflowClient(), "e", windows=[(0.001, 10), (0.002, 10)])
    changed("UPDATE metrics SET value = 5e-324", run_id)
    result = CliRunner().invoke(cli, ["predict", run_id, "--units", "100"])
    assert result.exit_code == 1
    assert "the windows measured 9.88131e-324 in all" in result.stderr
