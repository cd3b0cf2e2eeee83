"""A tracking store's finished metered runs as one frame, and stores that cannot be read."""

import math
import re
import shutil
import statistics

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_TYPE

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import NoRunsError, TrackingStoreError
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.store.access import open_client
from mlflow_carbon.store.run_columns import unquoted
from mlflow_carbon.store.runs import read_runs
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.track import track
from tests.fakes.metered_runs import TIMESTAMP_MS, copy_run, experiment_id, write_run

JOULE = 1 / 3.6e6  # kWh
WINDOWS = [(1e-6, 4.0), (1.4e-6, 4.0)]


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def read_one(client, experiment="exp"):
    frame = read_runs(client, experiment_names=[experiment])
    assert len(frame) == 1
    return frame.iloc[0]


def test_read_runs_gives_the_totals_in_their_units(client):
    write_run(client, "exp", windows=WINDOWS, gap_kwh=0.6e-6, pue=1.5, intensity_g_per_kwh=200.0)
    row = read_one(client)
    # 1.0 + 1.4 + 0.6 = 3.0 µWh x 1.5 x 200 g/kWh = 0.9 mg; windows only: 2.4e-6 / 8 samples.
    assert row["energy_kwh"] == pytest.approx(3.0e-6)
    assert row["co2e_g"] == pytest.approx(0.9e-3)
    assert row["energy_kwh_per_unit"] == pytest.approx(0.3e-6)
    assert (row["pue"], row["intensity_g_per_kwh"]) == (1.5, 200.0)
    assert (row["num_units"], row["num_windows"]) == (8, 2)


def test_read_runs_reads_what_track_writes(client):
    # Two windows of 100 and 200 J for 4 samples each, in a run of 400 J.
    meter = FakeMeter([reading(cpu_joules=joules) for joules in (100, 200, 400)])
    settings = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 2.0}
    mlflow.set_experiment("exp")
    with track(unit="sample", meter=meter, **settings) as tracker:
        for _ in range(2):
            with tracker.window(num_units=4):
                pass
    row = read_one(client)
    # Per sample 25 and 50 J: run value 300 / 8 J, std 25 / sqrt(2) J.
    assert row["energy_kwh"] == pytest.approx(400 * JOULE)
    assert row["energy_kwh_per_unit"] == pytest.approx(37.5 * JOULE)
    assert row["energy_kwh_per_unit_std_within"] == pytest.approx(25 / math.sqrt(2) * JOULE)
    assert (row["region"], row["pue"], row["intensity_g_per_kwh"]) == ("SE", 2.0, 7.0)
    assert (row["unit"], row["num_units"], row["num_windows"]) == ("sample", 8, 2)


def test_read_runs_gives_the_tags_and_parameters_as_text(client):
    write_run(client, "exp", windows=WINDOWS, params={"steps": "50"}, tags={"lab": "A"})
    row = read_one(client)
    assert (row["region"], row["unit"], row["experiment"]) == ("EU27", "sample", "exp")
    assert (row["params.steps"], row["tags.lab"], row["methods"]) == ("50", "A", "cpu=counter")


def test_a_parameter_left_at_auto_is_what_it_became(client):
    params = ({"size": "auto", "resolved.size": "64x64"}, {"size": "32"}, {"resolved.own": "1"})
    for each in params:
        write_run(client, "e", windows=WINDOWS, params=each)
    runs = read_runs(client, experiment_names=["e"])
    assert list(runs["params.size"].fillna("-")) == ["64x64", "32", "-"]
    assert "params.resolved.size" not in runs
    assert list(runs["params.resolved.own"].fillna("-")) == ["-", "-", "1"]  # stands for nothing
    named = read_runs(client, experiment_names=["e"], names=["size"])
    assert list(named["params.size"].fillna("-")) == ["64x64", "32", "-"]


@pytest.mark.parametrize("name", ["size", "resolved.size", "params.resolved.size"])
def test_groups_are_made_of_what_auto_became(client, name):
    for params in ({"size": "auto", "resolved.size": "64x64"}, {"size": "64x64"}):
        write_run(client, "e", windows=[(1, 2.0)] * 3, params=params)
    found = compare_runs(read_runs(client, experiment_names=["e"]), group_by=[name]).table
    assert list(found[name]) == ["64x64"]
    assert list(found["num_runs"]) == [2]


def test_read_runs_leaves_what_was_not_measured_absent(client):
    write_run(client, "exp", windows=[])
    row = read_one(client)
    assert math.isnan(row["energy_kwh"])
    assert math.isnan(row["energy_kwh_per_unit"])


def test_read_runs_leaves_the_std_of_one_window_absent(client):
    write_run(client, "exp", windows=WINDOWS[:1])
    assert math.isnan(read_one(client)["energy_kwh_per_unit_std_within"])


def test_read_runs_agrees_with_the_window_series(client):
    run_id = write_run(client, "exp", windows=[(1e-6, 4.0), (1.4e-6, 4.0), (0.6e-6, 2.0)])
    energies = [m.value for m in client.get_metric_history(run_id, keys.WINDOW_ENERGY_KWH)]
    units = [m.value for m in client.get_metric_history(run_id, keys.WINDOW_NUM_UNITS)]
    row = read_one(client)
    per_unit = [kwh / num for kwh, num in zip(energies, units, strict=True)]
    assert row["energy_kwh_per_unit"] == pytest.approx(sum(energies) / sum(units))
    assert row["energy_kwh_per_unit_std_within"] == pytest.approx(statistics.stdev(per_unit))


@pytest.mark.parametrize("status", ["RUNNING", "FAILED", "KILLED"])
def test_read_runs_takes_only_finished_runs(client, status):
    finished = write_run(client, "exp", windows=WINDOWS)
    write_run(client, "exp", windows=WINDOWS, status=status)
    assert read_one(client)["run_id"] == finished


def test_read_runs_takes_only_metered_runs(client):
    run = client.create_run(experiment_id(client, "exp"))
    client.set_terminated(run.info.run_id)
    metered = write_run(client, "exp", windows=WINDOWS)
    assert read_one(client)["run_id"] == metered


def test_read_runs_leaves_out_deleted_runs(client):
    client.delete_run(write_run(client, "exp", windows=WINDOWS))
    kept = write_run(client, "exp", windows=WINDOWS)
    assert read_one(client)["run_id"] == kept


def test_read_runs_reads_several_experiments(client):
    write_run(client, "one", windows=WINDOWS)
    write_run(client, "two", windows=WINDOWS)
    write_run(client, "three", windows=WINDOWS)
    frame = read_runs(client, experiment_names=["one", "two"])
    assert sorted(frame["experiment"]) == ["one", "two"]


def test_read_runs_knows_a_parent_by_its_tag(client):
    write_run(client, "exp", windows=WINDOWS, tags={keys.TAG_SCOPE: keys.SCOPE_PARENT})
    assert read_one(client)["scope"] == keys.SCOPE_PARENT


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_read_runs_knows_an_untagged_parent_by_its_metered_child(client, status):
    parent = write_run(client, "exp", windows=WINDOWS)
    write_run(client, "exp", windows=WINDOWS, parent_run_id=parent, status=status)
    frame = read_runs(client, experiment_names=["exp"]).set_index("run_id")
    assert frame.loc[parent, "scope"] == keys.SCOPE_PARENT
    assert list(frame["scope"].drop(parent)) == [keys.SCOPE_RUN] * (status == "FINISHED")


def test_read_runs_undoes_the_shell_quotes_of_mlflow_run(client):
    tags = {MLFLOW_SOURCE_TYPE: "PROJECT"}
    write_run(client, "exp", windows=WINDOWS, params={"data": "'my scans'"}, tags=tags)
    assert read_one(client)["params.data"] == "my scans"


def test_read_runs_keeps_quotes_that_a_script_logged(client):
    write_run(client, "exp", windows=WINDOWS, params={"data": "'my scans'"})
    assert read_one(client)["params.data"] == "'my scans'"


@pytest.mark.parametrize(
    ("value", "expected"),
    [("200", "200"), ("'a b'", "a b"), ("'it'\"'\"'s'", "it's"), ("'odd", "'odd"), ("''", "")],
)
def test_unquoted_gives_what_was_typed(value, expected):
    assert unquoted(value) == expected


def test_read_runs_names_the_nearest_experiment(client):
    write_run(client, "synthesis", windows=WINDOWS)
    with pytest.raises(TrackingStoreError, match=r"No experiment 'syntesis'.*Nearest: 'synthesis'"):
        read_runs(client, experiment_names=["syntesis"])


def test_read_runs_refuses_a_deleted_experiment(client):
    write_run(client, "exp", windows=WINDOWS)
    client.delete_experiment(experiment_id(client, "exp"))
    with pytest.raises(TrackingStoreError, match="No experiment 'exp'"):
        read_runs(client, experiment_names=["exp"])


def test_read_runs_warns_of_runs_that_did_not_finish(client, caplog):
    write_run(client, "exp", windows=WINDOWS)
    write_run(client, "exp", windows=WINDOWS, status="FAILED")
    read_one(client)
    assert "Left out 1 of 2 metered runs in 'exp': not finished." in caplog.text


def test_read_runs_says_how_many_runs_did_not_finish(client):
    write_run(client, "exp", windows=WINDOWS, status="FAILED")
    with pytest.raises(
        NoRunsError, match=r"'exp'; 1 metered run is not finished, which `compare --include"
    ):
        read_runs(client, experiment_names=["exp"])


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        (keys.ENERGY_KWH, math.inf, "carbon/energy_kwh"),
        (keys.ENERGY_KWH, math.nan, "carbon/energy_kwh"),
        (keys.ENERGY_KWH, -1.0, "carbon/energy_kwh"),
        (keys.PUE, 0.5, "carbon/pue"),
        (keys.PUE, 3.5, "carbon/pue"),
        (keys.INTENSITY_G_PER_KWH, math.inf, "carbon/intensity_g_per_kwh"),
        ("carbon/energy_kwh_per_sample", math.nan, "carbon/energy_kwh_per_sample"),
    ],
)
def test_read_runs_leaves_out_a_run_of_impossible_figures_by_name(
    client, caplog, key, value, fault
):
    sound = write_run(client, "exp", windows=WINDOWS)
    run_id = write_run(client, "exp", windows=WINDOWS)
    client.log_metric(run_id, key, value, timestamp=TIMESTAMP_MS + 1)
    assert read_one(client)["run_id"] == sound
    assert re.search(f"Left out {fault} of run {run_id} is ", caplog.text)


@pytest.mark.parametrize("text", ["two", "nan", "inf", "-1", ""])
def test_read_runs_leaves_out_a_run_whose_count_is_no_number(client, caplog, text):
    sound = write_run(client, "exp", windows=WINDOWS)
    run_id = write_run(client, "exp", windows=WINDOWS, tags={keys.TAG_NUM_WINDOWS: text})
    assert read_one(client)["run_id"] == sound
    assert f"Left out carbon.num_windows of run {run_id} is {text!r}, not" in caplog.text


def test_read_runs_cuts_a_long_tag_in_what_it_tells(client, caplog):
    write_run(client, "exp", windows=WINDOWS)
    write_run(client, "exp", windows=WINDOWS, tags={keys.TAG_NUM_UNITS: "\x1b[2J" + "x" * 4000})
    read_one(client)
    assert r"is '\x1b[2Jxxx" in caplog.text
    assert len(caplog.text) < 400


def test_read_runs_says_that_no_run_can_be_read(client):
    run_id = write_run(client, "exp", windows=WINDOWS, tags={keys.TAG_NUM_WINDOWS: "two"})
    with pytest.raises(
        NoRunsError, match=f"No metered run .* carbon.num_windows of run {run_id} is 'two'"
    ):
        read_runs(client, experiment_names=["exp"])


@pytest.mark.slow
def test_read_runs_pages_past_a_thousand(client):
    copy_run(client, write_run(client, "exp", windows=WINDOWS), num_copies=1100)
    frame = read_runs(client, experiment_names=["exp"])
    assert frame["run_id"].nunique() == 1101
    assert frame["energy_kwh"].sum() == pytest.approx(1101 * 2.4e-6)


def test_open_client_creates_no_database(tmp_path):
    missing = tmp_path / "mlflow.db"
    with pytest.raises(TrackingStoreError, match=r"No tracking store at sqlite:///.*mlflow\.db"):
        open_client(f"sqlite:///{missing}")
    assert not missing.exists()


def test_open_client_finds_a_store_in_a_folder_with_a_space(empty_store, tmp_path):
    (tmp_path / "my scans").mkdir()
    shutil.copy(empty_store, tmp_path / "my scans" / "mlflow.db")
    # As MLflow itself writes the URI of its default store.
    client = open_client(f"sqlite:///{tmp_path}/my%20scans/mlflow.db")
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def test_read_runs_says_that_a_file_is_no_store(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, " * 100)
    with pytest.raises(TrackingStoreError, match="cannot be read"):
        read_runs(open_client(f"sqlite:///{tmp_path / 'mlflow.db'}"), experiment_names=["exp"])


def test_open_client_refuses_a_scheme_that_mlflow_does_not_know():
    with pytest.raises(TrackingStoreError, match=r"ftp://\*\*\*@host cannot be read"):
        open_client("ftp://me:secret@host")
