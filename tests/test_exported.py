"""Runs exported to Parquet files and compared from there, as they are from their stores."""

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.cli import cli
from mlflow_carbon.errors import InvalidInputError, NoRunsError, ParquetMissingError
from mlflow_carbon.store import exported
from mlflow_carbon.store.runs import export_runs, read_exported_runs, read_runs
from tests.fakes.metered_runs import write_run

WINDOWS = [(1e-6, 4.0), (1.4e-6, 4.0)]


@pytest.fixture
def client(store):
    """The client of a store with two finished runs, one that failed, and one of no energy."""
    client = MlflowClient()
    write_run(client, "a", windows=WINDOWS, params={"steps": "50"}, tags={"note": "=1\n<b>"})
    write_run(client, "a", windows=[(3e-6, 2.0)], params={"steps": "20"}, region="SE")
    write_run(client, "a", windows=WINDOWS, status="FAILED")
    write_run(client, "b", windows=WINDOWS, params={"steps": "50"})
    return client


def sorted_rows(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("run_id", ignore_index=True)


@pytest.mark.slow
def test_a_file_gives_the_same_runs_as_its_store(client, tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "ROWS_PER_BATCH", 3)  # so that the last batch is another
    path = tmp_path / "runs.parquet"
    assert export_runs(client, path, experiment_names=[]) == 4
    assert list(tmp_path.glob(".runs*")) == []
    for group_by in ([], ["steps", "mlflow.runName"]):
        from_store = read_runs(client, experiment_names=[], group_by=group_by)
        from_file = read_exported_runs([path], group_by=group_by)
        pd.testing.assert_frame_equal(sorted_rows(from_file), sorted_rows(from_store))
    assert len(from_file) == 3


@pytest.mark.slow
def test_a_run_in_two_files_counts_once_and_an_experiment_can_be_chosen(client, tmp_path):
    everything, of_b = tmp_path / "all.parquet", tmp_path / "b.parquet"
    export_runs(client, everything, experiment_names=[])
    assert export_runs(client, of_b, experiment_names=["b"]) == 1
    assert len(read_exported_runs([everything, of_b])) == 3
    assert set(read_exported_runs([everything], experiment_names=["b"])["experiment"]) == {"b"}
    with pytest.raises(InvalidInputError, match="No experiment 'c' in the files; they have 'a'"):
        read_exported_runs([everything], experiment_names=["c"])


@pytest.mark.slow
def test_the_command_and_the_library_compare_files_without_a_store(client, tmp_path, monkeypatch):
    path = tmp_path / "runs.parquet"
    done = CliRunner().invoke(cli, ["export", "--experiment", "a", "--out", str(path)])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"3 metered runs in {path}.\n"
    options = ["compare", "--group-by", "steps", "--region", "DE", "--format", "csv"]
    from_store = CliRunner().invoke(cli, [*options, "--experiment", "a"])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing answers there
    from_file = CliRunner().invoke(cli, [*options, "--from-parquet", str(path)])
    assert from_file.exit_code == 0, from_file.output
    assert from_file.stdout == from_store.stdout
    frame = mlflow_carbon.compare(from_parquet=[path], group_by=["steps"], regions=["DE"])
    assert set(frame["steps"]) == {"20", "50"}


@pytest.mark.parametrize("filter_string", ["", "params.steps = '7'"])
def test_without_a_metered_run_nothing_is_written(client, tmp_path, filter_string):
    client.create_experiment("empty")
    path = tmp_path / "runs.parquet"
    path.write_text("kept")
    options = ["--experiment", "a" if filter_string else "empty", "--filter", filter_string]
    done = CliRunner().invoke(cli, ["export", *options, "--out", str(path)])
    assert done.exit_code == 1
    said = f" that fits {filter_string!r}" if filter_string else ""
    assert f"No metered run in experiment {options[1]!r}{said}, so nothing was wri" in done.stderr
    assert path.read_text() == "kept"
    assert list(tmp_path.glob(".runs*")) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--from-parquet", "nowhere.parquet"], "No file 'nowhere.parquet'"),
        (["--from-parquet", "setup.cfg"], "cannot be read as exported runs"),
        (["--from-parquet", "x", "--include", "failed"], "leave out --filter, --include"),
    ],
)
def test_what_is_no_such_file_is_one_clear_error(options, message):
    done = CliRunner().invoke(cli, ["compare", *options])
    assert done.exit_code in (1, 2)
    assert message in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_named_and_none_is_left(client, tmp_path):
    with pytest.raises(InvalidInputError, match=r"out is .*nowhere.*cannot be written"):
        export_runs(client, tmp_path / "nowhere" / "runs.parquet", experiment_names=[])
    with pytest.raises(NoRunsError):
        path = tmp_path / "failed.parquet"
        export_runs(client, path, experiment_names=["a"], filter_string="status = 'FAILED'")
        read_exported_runs([path])


def test_missing_packages_are_named(monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None if name == "duckdb" else object())
    with pytest.raises(ParquetMissingError, match=r"need duckdb: pip install .*\[parquet"):
        exported.require_parquet()
