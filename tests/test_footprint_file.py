"""The artifact with everything that is known of a run's footprint."""

import json
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import mlflow
import pytest
from jsonschema import Draft202012Validator
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.contract.footprint_file import ARTIFACT, footprint_text
from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowColumns
from mlflow_carbon.grid.intensity import given_intensity
from mlflow_carbon.metering.launch import Place
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.recording.recovery import recover
from mlflow_carbon.recording.run_files import attach, attach_in_folder, folder_of, is_within_reach
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


@pytest.mark.parametrize(
    ("has_parent", "duration_s", "has_file"),
    [(False, 0.01, True), (False, 1.0, True), (True, 59.0, False), (True, 60.0, True)],
)
def test_run_gets_a_file_however_short_and_a_child_from_a_minute_on(
    store, has_parent, duration_s, has_file
):
    client = MlflowClient()
    tags = {"mlflow.parentRunId": client.create_run("0").info.run_id} if has_parent else {}
    run_id = client.create_run("0", tags=tags).info.run_id
    metered(run_id, reading(gpu_joules=[360], duration_s=duration_s))
    paths = [it.path for it in client.list_artifacts(run_id, "carbon")]
    assert paths == ([ARTIFACT] if has_file else [])


def ended_node(index, run_id, *readings):
    """Meters one node of two, its windows an epoch each, to its end."""
    place = Place(rank=index, num_ranks=2, node_index=index, num_nodes=2, launch_key="key")
    outbox, meter = Outbox(MlflowClient(), run_id), FakeMeter(readings)
    assumptions = resolve_assumptions(region="Sweden", intensity_set="paper_table1", pue=2.0)
    recorder = Recorder(outbox, meter, unit="epoch", assumptions=assumptions, place=place)
    recorder.start()
    for _ in readings[1:]:
        recorder.close(recorder.open(), 1)
    recorder.finish()


def test_last_node_completes_the_file_of_several_nodes(store):
    run_id = MlflowClient().create_run("0").info.run_id
    window, total = (reading(cpu_joules=joules, duration_s=20) for joules in (100, 360))
    ended_node(0, run_id, window, total)
    first = stored(run_id)
    assert faults(first) == []
    assert [node["index"] for node in first["nodes"]] == [0]
    assert first["missing_nodes"] == ["1"]
    ended_node(1, run_id, reading(cpu_joules=720, duration_s=30))
    found = stored(run_id)
    assert faults(found) == []
    assert "missing_nodes" not in found
    # 360 J and 720 J
    assert [node["energy_kwh"] for node in found["nodes"]] == pytest.approx([0.0001, 0.0002])
    assert found["energy_kwh"] == pytest.approx(0.0003)
    assert found["windows"]["energy_kwh"] == pytest.approx([100 / 3.6e6])


KILLED = """
import os, signal, sys
from pathlib import Path
from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.recording.journal import Batch, Journal, Point
journal = Journal(Path(sys.argv[1]), run_id=sys.argv[2], tracking_uri=sys.argv[3])
price = resolve_assumptions(region="Sweden", intensity_set="paper_table1", pue=2.0)
end_ms = 1_700_000_000_000
so_far = RunRecord("", so_far=Total(10.0, 0.5, 1.0, {"cpu": 0.5}), total_end_ms=end_ms)
points = [("carbon/energy_kwh", 0.0, end_ms - 10_000, 0), ("carbon/energy_kwh", 0.5, end_ms, 1),
          ("carbon/power_w", 180_000.0, end_ms, 1), ("carbon/co2e_g", 7.0, end_ms, 1)]
tags = {"carbon.schema": "2", "carbon.unit": "minute", **price.tags(), **so_far.total_tags()}
journal.append(Batch(tuple(Point(*it) for it in points), tags))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_recovered_run_gets_a_file_that_calls_itself_a_lower_bound(store, tmp_path):
    run_id = MlflowClient().create_run("0").info.run_id
    folder = tmp_path / "journals"
    command = [sys.executable, "-c", KILLED, str(folder), run_id, store]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [it.reason for it in recover(MlflowClient(), folder)] == [None]
    found = stored(run_id)
    assert faults(found) == []
    assert found["is_lower_bound"] is True
    assert (found["energy_kwh"], found["co2e_g"]) == (0.5, pytest.approx(7.0))
    assert found["windows"]["energy_kwh"] == [0.5]


def test_short_run_gets_no_file_where_writing_it_takes_a_call(store):
    client = MlflowClient()
    bucket = client.create_experiment("bucket", artifact_location="s3://nobody/here")
    outbox = Outbox(client, client.create_run(bucket).info.run_id, artifact_uri="s3://nobody/here")
    assert not outbox.writes_files_at_once
    child = Outbox(client, "1", artifact_uri="/tmp", parent_run_id="2")
    assert not child.writes_files_at_once


def test_folder_of_artifacts_is_found_by_path_and_by_address():
    assert folder_of("sqlite:///x", "/a b/c%20d") == Path("/a b/c%20d")
    assert folder_of("sqlite:///x", "file:///a%20b/c") == Path("/a b/c")
    assert folder_of("sqlite:///x", "s3://bucket/c") is None


def test_folder_that_cannot_be_written_stops_no_run(tmp_path, caplog):
    (tmp_path / "carbon").write_text("a file where a folder should be")
    attach_in_folder("1", tmp_path, ARTIFACT, "{}")
    assert caplog.records == []


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
    attach(client, run_id, ARTIFACT, lambda: "{}", is_for_children=False)
    assert client.asked == [(run_id, "{}", ARTIFACT)]
    assert caplog.records == []


@pytest.mark.parametrize(
    ("tracking_uri", "artifact_uri", "is_there"),
    [
        ("http://server", "mlflow-artifacts:/1/abc/artifacts", True),
        ("http://server", "s3://bucket/abc", True),
        ("http://server", "/srv/artifacts", False),
        ("http://server", "file:///srv/artifacts", False),
        ("http://server", "C:\\artifacts", False),
        ("sqlite:///mlflow.db", "/home/me/artifacts", True),
        ("http://server", None, False),
    ],
)
def test_artifacts_are_within_reach_where_the_server_keeps_them(
    tracking_uri, artifact_uri, is_there
):
    assert is_within_reach(tracking_uri, artifact_uri) is is_there
    is_here = is_there and artifact_uri.startswith("/")
    assert (folder_of(tracking_uri, artifact_uri) is not None) is is_here


def test_folder_of_a_server_is_not_looked_for_here(store):
    client = NoArtifacts(MlflowClient())
    client.tracking_uri = "http://server"
    run_id = MlflowClient().create_run("0").info.run_id
    attach(client, run_id, ARTIFACT, lambda: "{}", is_for_children=False)
    assert client.asked == []
