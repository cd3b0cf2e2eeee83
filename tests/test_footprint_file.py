"""The artifact with everything that is known of a run's footprint."""

import json
from dataclasses import replace
from importlib.resources import files

import mlflow
import pytest
from jsonschema import Draft202012Validator
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_carbon.contract.footprint_file import ARTIFACT, footprint_text
from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowColumns
from mlflow_carbon.grid.intensity import given_intensity
from mlflow_carbon.recording.run_files import attach
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.tracking_options import TrackingOptions

SWEDEN = TrackingOptions(unit="epoch", region="Sweden", intensity_set="paper_table1", pue=2.0)
SCHEMA = json.loads(files("mlflow_carbon").joinpath("data/footprint.schema.json").read_text())
HOW = MeterDescription(
    ("gpu",), {"cpu": "unavailable", "gpu": "sampled"}, None, "whole_node", "1 GPU", "meter 1", ()
)
RECORD = RunRecord(
    "r",
    total=Total(10.0, 0.001, 1.0, {"gpu": 0.001}, (DeviceEnergy("gpu", 3, 0.001, "sampled"),)),
    co2e_g=0.04,  # x PUE 2 x 20 g/kWh
    pue=2.0,
    intensity=given_intensity(20.0, region="SE"),
    description=HOW,
)


def faults(document):
    return [fault.message for fault in Draft202012Validator(SCHEMA).iter_errors(document)]


def metered(run_id, *readings):
    """Meters windows of one epoch each; the last reading is the total."""
    tracking = ProcessMetering().track(run_id, SWEDEN, meter=FakeMeter(readings))
    for _ in readings[1:]:
        tracking.close(tracking.open(), 1)
    tracking.finish()
    MlflowClient().set_terminated(run_id)


def stored(run_id):
    return mlflow.artifacts.load_dict(f"runs:/{run_id}/{ARTIFACT}")


def test_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_file_has_the_run_its_components_its_price_and_its_windows(store):
    run_id = MlflowClient().create_run("0").info.run_id
    metered(
        run_id,
        reading(gpu_joules=[360], duration_s=10),
        reading(gpu_joules=[720], duration_s=20),
        reading(gpu_joules=[1800], duration_s=60),
    )
    found = stored(run_id)
    assert faults(found) == []
    # 1800 J = 0.0005 kWh; x PUE 2 x 7 g/kWh
    assert (found["run_id"], found["energy_kwh"]) == (run_id, pytest.approx(0.0005))
    assert found["co2e_g"] == pytest.approx(0.007)
    assert found["components"]["gpu"]["devices"] == [
        {"index": 0, "energy_kwh": pytest.approx(0.0005)}
    ]
    assert (found["price"]["region"], found["price"]["pue"]) == ("SE", 2.0)
    assert found["windows"] == {
        "unit": "epoch",
        "energy_kwh": pytest.approx([0.0001, 0.0002]),
        "num_units": [1, 1],
        "power_w": pytest.approx([36, 36]),
        "duration_s": pytest.approx([10, 20]),
    }
    assert found["per_unit"]["epoch"]["energy_kwh"] == pytest.approx(0.00015)


def test_what_is_not_known_is_absent():
    found = json.loads(footprint_text(RECORD, WindowColumns()))
    assert faults(found) == []
    assert found["components"]["cpu"] == {"method": "unavailable"}
    assert found["components"]["gpu"]["devices"] == [{"index": 3, "energy_kwh": 0.001}]
    assert not {"windows", "per_unit"} & found.keys()
    assert "problems" not in found["measurement"]
    bare = RunRecord("r", total=Total(None, 0.5))
    found = json.loads(footprint_text(bare, WindowColumns()))
    assert found == {"version": 1, "run_id": "r", "energy_kwh": 0.5}
    assert footprint_text(replace(RECORD, total=Total(3.0)), WindowColumns()) is None


def test_window_without_a_duration_has_neither_power_nor_duration():
    window = Window(1.0, 0.0, 0.001, {}, 2.0, "sample")
    record = replace(RECORD, unit="sample", energy_per_unit={"sample": UnitEnergy(0.0005)})
    found = json.loads(footprint_text(record, WindowColumns([window])))
    assert faults(found) == []
    assert found["windows"]["power_w"] == found["windows"]["duration_s"] == [None]
    assert found["per_unit"]["sample"]["co2e_g"] == pytest.approx(0.02)


def test_schema_refuses_another_version_and_unknown_names():
    found = json.loads(footprint_text(RECORD, WindowColumns()))
    assert faults(found | {"version": 2}) == ["1 was expected"]
    assert len(faults(found | {"energy_wh": 1.0})) == 1
    assert len(faults(found | {"energy_kwh": -1.0})) == 1


@pytest.mark.slow
@pytest.mark.parametrize("parent", ["mlflow.parentRunId", None])
def test_trial_and_short_run_get_no_file(store, parent):
    client = MlflowClient()
    tags = {} if parent is None else {parent: client.create_run("0").info.run_id}
    run_id = client.create_run("0", tags=tags).info.run_id
    duration_s = 0.5 if parent is None else 60
    metered(run_id, reading(gpu_joules=[360], duration_s=duration_s))
    assert client.list_artifacts(run_id, "carbon") == []


class NoArtifacts:
    """A client whose store takes no artifact."""

    tracking_uri = "sqlite:///x"

    def __init__(self, client):
        self.get_run = client.get_run
        self.asked = []

    def log_text(self, run_id, text, path):
        self.asked.append((run_id, text, path))
        raise MlflowException("no room")


def test_store_that_takes_no_artifact_stops_no_run(store, caplog):
    client = NoArtifacts(MlflowClient())
    run_id = MlflowClient().create_run("0").info.run_id
    attach(client, run_id, ARTIFACT, "{}")
    assert client.asked == [(run_id, "{}", ARTIFACT)]
    assert caplog.records == []


def test_folder_of_a_server_is_not_looked_for_here(store):
    client = NoArtifacts(MlflowClient())
    client.tracking_uri = "http://server"
    attach(client, MlflowClient().create_run("0").info.run_id, ARTIFACT, "{}")
    assert client.asked == []
