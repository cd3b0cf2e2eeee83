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
        word = "AND" if " WHERE " in statement else "WHERE"
        database.execute(f"{statement} {word} run_uuid = ?", (run_id,))
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
        "UPDATE params SET value = x'fffe80'",
        "UPDATE runs SET name = x'fffe80'",
        "UPDATE runs SET start_time = NULL",
        "UPDATE tags SET value = x'fffe80' WHERE key = 'carbon.total'",
        "UPDATE tags SET value = x'fffe80' WHERE key = 'carbon.region'",
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


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET start_time = 'abc'",
        "UPDATE runs SET name = x'fffe80'",
        "UPDATE params SET value = x'fffe80'",
        "UPDATE tags SET value = x'fffe80'",
        "UPDATE tags SET value = x'fffe80' WHERE key = 'carbon.total'",
        "UPDATE tags SET value = x'fffe80' WHERE key = 'carbon.region'",
    ],
)
@pytest.mark.parametrize("command", ["predict", "advise"])
@pytest.mark.parametrize("name", ["latest", None])
def test_value_of_another_kind_in_a_named_run_is_no_traceback(store, change, command, name):
    windows = [(0.001, 10), (0.002, 10)]
    run_id = write_run(MlflowClient(), "e", windows=windows)
    changed(change, run_id)
    options = ["--units", "100"] if command == "predict" else []
    wanted = [name, "--experiment", "e"] if name else [run_id]
    result = CliRunner().invoke(cli, [command, *wanted, *options])
    assert result.exit_code in (0, 1)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "its address" not in result.stderr


def test_run_without_a_start_is_told_as_such_not_as_a_wrong_address(store):
    run_id = write_run(MlflowClient(), "e", windows=[(0.001, 10), (0.002, 10)])
    changed("UPDATE runs SET start_time = NULL", run_id)
    result = CliRunner().invoke(cli, ["predict", run_id, "--units", "100"])
    assert result.exit_code == 1
    assert "start_time cannot be None. One of its runs lacks that" in result.stderr
    assert "--tracking-uri" not in result.stderr


@pytest.mark.parametrize("name", ["latest", "run"])
def test_run_without_a_start_is_left_out_and_named_where_another_is_the_latest(store, caplog, name):
    good, bad = (write_run(MlflowClient(), "e", windows=[(0.001, 10)] * 2) for _ in range(2))
    changed("UPDATE runs SET start_time = NULL", bad)
    result = CliRunner().invoke(cli, ["predict", name, "--units", "100", "--format", "json"])
    assert result.exit_code == 0, result.stderr
    assert good in result.stdout
    assert bad not in result.stdout
    assert f"Left out without a start_time, which MLflow needs: run {bad}." in caplog.text


def test_store_that_holds_no_other_run_than_one_without_a_start_has_none_that_ended(store):
    changed(
        "UPDATE runs SET start_time = NULL",
        write_run(MlflowClient(), "e", windows=[(0.001, 10)] * 2),
    )
    result = CliRunner().invoke(cli, ["predict", "latest", "--units", "100"])
    assert result.exit_code == 1
    assert "No metered run has ended yet" in result.stderr


def test_number_of_units_too_small_to_divide_by_is_one_error(store):
    run_id = write_run(MlflowClient(), "e", windows=[(0.001, 10), (0.002, 10)])
    changed("UPDATE metrics SET value = 5e-324", run_id)
    result = CliRunner().invoke(cli, ["predict", run_id, "--units", "100"])
    assert result.exit_code == 1
    assert "the windows measured 9.88131e-324 in all" in result.stderr
