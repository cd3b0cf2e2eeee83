"""A store that version 1 of the contract wrote, years ago perhaps, is read as it was meant."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

from mlflow_carbon.cli import cli
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.tracking_options import TrackingOptions
from tests.fakes.metered_runs import TIMESTAMP_MS, write_run

FIXTURE = Path(__file__).parent / "fixtures" / "contract_v1.db.gz"


@pytest.fixture(scope="module")
def kept_store(tmp_path_factory):
    """The stored store, brought to the schema of the MLflow that is installed."""
    path = tmp_path_factory.mktemp("kept") / "kept.db"
    path.write_bytes(gzip.decompress(FIXTURE.read_bytes()))
    uri = f"sqlite:///{path}"
    engine = create_sqlalchemy_engine(uri)
    _upgrade_db(engine)
    engine.dispose()
    return uri


def answer(kept_store, *command):
    """Returns the rows that the command line prints as JSON."""
    arguments = [*command, "--tracking-uri", kept_store, "--format", "json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_kept_runs_compare_as_measured(kept_store):
    rows = answer(kept_store, "compare", "--experiment", "kept", "--group-by", "steps")
    by_steps = {row["steps"]: row for row in rows}
    fifty = by_steps["50"]
    assert (fifty["region"], fifty["num_runs"], fifty["num_windows"]) == ("SE", 2, 4)
    # runs of 840 J and 760 J over 8 samples: 105 and 95 J per sample
    assert fifty["energy_kwh_per_unit_mean"] == pytest.approx(100 / 3.6e6)
    assert fifty["energy_kwh_per_unit_std_between"] == pytest.approx(50**0.5 / 3.6e6)
    # totals of 880 J and 800 J; x PUE 1.5 x 7 g/kWh
    assert fifty["co2e_g_mean"] == pytest.approx(840 / 3.6e6 * 1.5 * 7)


def test_kept_child_counts_and_its_parent_is_left_out(kept_store):
    rows = answer(kept_store, "compare", "--experiment", "kept", "--group-by", "steps")
    (ten,) = [row for row in rows if row["steps"] == "10"]
    assert (ten["unit"], ten["num_runs"]) == ("minute", 1)
    assert ten["energy_kwh_mean"] == pytest.approx(300 / 3.6e6)


def test_kept_runs_are_priced_anew(kept_store):
    rows = answer(
        kept_store, "compare", "--experiment", "kept", "--group-by", "steps", "--region", "Poland"
    )
    (hundred,) = [row for row in rows if row["steps"] == "100"]
    assert hundred["co2e_g_mean"] == pytest.approx(1720 / 3.6e6 * 1.5 * 666)


def test_kept_model_is_listed(kept_store):
    (model,) = answer(kept_store, "models")
    assert (model["name"], model["region"], model["band"]) == ("ldm-kept", "DE", "A")
    assert model["energy_kwh"] == pytest.approx(1720 / 3.6e6, rel=1e-5)  # a tag's 6 digits


# A run that version 1 began and version 2 goes on with


def resumed(client, *, killed):
    """A run of two windows by version 1, one after the other, and a part of one window more."""
    run_id = write_run(client, "mixed", windows=[(1e-5, 4.0), (2e-5, 4.0)], gap_kwh=1e-5)
    start_s = TIMESTAMP_MS / 1000 + 100
    window = reading(cpu_joules=72, duration_s=30, start_unix_s=start_s)  # 2e-5 kWh
    total = reading(cpu_joules=108, duration_s=50, start_unix_s=start_s)
    options = TrackingOptions(unit="sample", region="Sweden", intensity_set="paper_table1", pue=1.5)
    tracking = ProcessMetering().track(run_id, options, meter=FakeMeter([window, total]))
    tracking.close(tracking.open(), 2)
    if killed:
        assert tracking.flush()
    else:
        tracking.finish()
    return run_id


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_run_of_both_versions_holds_the_parts_of_both(store, killed):
    client = MlflowClient()
    run_id = resumed(client, killed=killed)
    record = read_record(client, client.get_run(run_id)).or_lower_bound()
    assert record.is_partial == killed
    # version 1: 3e-5 in windows and 1e-5 between them; now 2e-5 in a window, 1e-5 after it
    energy_kwh = 6e-5 if killed else 7e-5
    assert record.total.energy_kwh == pytest.approx(energy_kwh)
    assert record.total.duration_s == pytest.approx(150 if killed else 170)
    assert [window.num_units for window in record.windows.values()] == [4, 4, 2]
    energies = [window.energy_kwh for window in record.windows.values()]
    assert energies == pytest.approx([1e-5, 2e-5, 2e-5])
    assert record.energy_per_unit["sample"].energy_kwh == pytest.approx(5e-5 / 10)
    assert record.co2e_g == pytest.approx(energy_kwh * 1.5 * 7)


@pytest.mark.slow
def test_runs_of_both_versions_stand_in_one_comparison(store):
    client = MlflowClient()
    resumed(client, killed=False)  # 7e-5 kWh
    write_run(client, "mixed", windows=[(9e-5, 10.0)])
    rows = answer(store, "compare", "--experiment", "mixed", "--group-by", "region", "--pool")
    energies = {row["region"]: row["energy_kwh_mean"] for row in rows}
    assert energies == {"SE": pytest.approx(7e-5), "EU27": pytest.approx(9e-5)}
