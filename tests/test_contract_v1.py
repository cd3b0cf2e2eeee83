"""A store that version 1 of the contract wrote, years ago perhaps, is read as it was meant."""

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

from mlflow_carbon.cli import cli

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
