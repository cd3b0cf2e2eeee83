"""A script in every rank of a launch: one leader measures each node, and one run has all of it."""

import os
import time

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.launch import find_place
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.launch_run import RunSearch, find_launch_run
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.track import track
from mlflow_carbon.tracking.tracking_options import TrackingOptions
from tests.fakes.recorded import recorded

SWEDEN = {"unit": "epoch", "region": "Sweden", "intensity_set": "paper_table1", "pue": 2.0}
TEN_S = reading(cpu_joules=500, duration_s=10)


@pytest.fixture
def rank(store, monkeypatch):
    """Makes this process a rank of a launch of torchrun on nodes of two ranks each."""

    def be(number, *, num_nodes=2, attempt=0, job="job-1"):
        variables = {
            "RANK": number,
            "LOCAL_RANK": number % 2,
            "WORLD_SIZE": 2 * num_nodes,
            "LOCAL_WORLD_SIZE": 2,
            "GROUP_RANK": number // 2,
            "TORCHELASTIC_RUN_ID": job,
            "TORCHELASTIC_RESTART_COUNT": attempt,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return be


def runs():
    return MlflowClient().search_runs(["0"])


def energy_joules(run):
    return pytest.approx(recorded(run)["energy_kwh"] * 3.6e6)


def start_process(run_id, **options):
    """Starts what ``track()`` starts, as if in another process; it measures 500 J."""
    meter = FakeMeter([TEN_S])
    return ProcessMetering().track(run_id, TrackingOptions(**SWEDEN), meter=meter, **options)


@pytest.mark.parametrize("number", [1, 3])
def test_rank_that_leads_no_node_measures_and_writes_nothing(rank, number):
    rank(number)
    meter = FakeMeter([])
    with track(meter=meter, **SWEDEN) as tracker:
        assert list(tracker.windows(range(3))) == [0, 1, 2]
        with tracker.window(num_units=4):
            pass
        with pytest.raises(InvalidInputError, match="num_units is 0"), tracker.window(num_units=0):
            pass
    assert (tracker.run_id, meter.num_opened, runs()) == ("", 0, [])


def test_rank_that_leads_no_node_leaves_the_users_run_alone(rank):
    rank(1)
    with mlflow.start_run() as run, track(**SWEDEN) as tracker:
        pass
    assert tracker.run_id == run.info.run_id
    assert not [tag for tag in runs()[0].data.tags if tag.startswith("carbon.")]


def test_single_process_has_no_trace_of_a_launch(store):
    with track(meter=FakeMeter([TEN_S]), **SWEDEN):
        pass
    (run,) = runs()
    assert not [key for key in run.data.metrics if "node" in key]
    assert not {"carbon.launch", "carbon.num_nodes"} & run.data.tags.keys()


@pytest.mark.slow
def test_ranks_of_one_node_have_its_total_and_no_nodes(rank):
    rank(0, num_nodes=1)
    with track(meter=FakeMeter([TEN_S]), **SWEDEN):
        pass
    (run,) = runs()
    assert energy_joules(run) == 500
    assert "carbon.num_nodes" not in run.data.tags


@pytest.mark.parametrize("number", [0, 1])
def test_rank_that_does_something_alone_misses_no_other_node(rank, number):
    rank(number)
    with track(meter=FakeMeter([TEN_S]), is_alone=True, **SWEDEN):
        pass
    (run,) = runs()
    assert energy_joules(run) == 500
    nodes = {"carbon.launch", "carbon.num_nodes", "carbon.missing_nodes"}
    assert not nodes & run.data.tags.keys()


@pytest.mark.slow
@pytest.mark.parametrize("first_to_end", [0, 1])
def test_further_node_finds_the_run_of_rank_zero(rank, first_to_end):
    rank(0)
    with mlflow.start_run() as run:
        leaders = [start_process(run.info.run_id)]
        rank(2)
        leaders.append(start_process(""))
        for leader in (leaders[first_to_end], leaders[1 - first_to_end]):
            leader.finish()
    (found,) = runs()
    assert leaders[1].run_id == run.info.run_id
    assert energy_joules(found) == 1000
    assert "carbon.missing_nodes" not in found.data.tags


def test_further_node_with_a_run_of_its_own_writes_to_that_of_rank_zero(rank):
    rank(0)
    with mlflow.start_run() as run:
        first = start_process(run.info.run_id)
    rank(2)
    with mlflow.start_run() as stray:
        start_process(stray.info.run_id, run=stray).finish()
    first.finish()
    data = {found.info.run_id: found for found in runs()}
    assert energy_joules(data[run.info.run_id]) == 1000
    assert not [key for key in data[stray.info.run_id].data.metrics if key.startswith("carbon")]


@pytest.mark.parametrize("by_variable", [False, True])
def test_further_node_writes_to_the_run_that_it_is_told(rank, monkeypatch, by_variable):
    with mlflow.start_run() as run:
        pass
    rank(2)
    if by_variable:
        monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    named = {} if by_variable else {"run_id": run.info.run_id}
    with track(meter=FakeMeter([TEN_S]), **SWEDEN, **named) as tracker:
        assert tracker.run_id == run.info.run_id
    assert recorded(runs()[0])["node/1/energy_kwh"] == pytest.approx(500 / 3.6e6)


@pytest.mark.slow
def test_each_block_of_a_script_finds_its_own_run(rank):
    rank(0)
    first, second = ProcessMetering(), ProcessMetering()
    own = []
    for joules in (100, 200):
        with mlflow.start_run() as run:
            meter = FakeMeter([reading(cpu_joules=joules)])
            first.track(run.info.run_id, TrackingOptions(**SWEDEN), meter=meter).finish()
            own.append(run.info.run_id)
    rank(2)
    found = []
    for joules in (100, 200):
        meter = FakeMeter([reading(cpu_joules=joules)])
        tracking = second.track("", TrackingOptions(**SWEDEN), meter=meter)
        tracking.finish()
        found.append(tracking.run_id)
    assert found == own


def test_run_of_another_launch_is_not_found(rank):
    rank(0, job="job-2")
    with mlflow.start_run() as run:
        start_process(run.info.run_id).finish()
    found = {}
    for job in ("job-1", "job-2"):
        rank(2, job=job)
        found[job] = find_launch_run(MlflowClient(), None, find_place(os.environ), 0)
    assert found["job-1"] is None
    assert found["job-2"].info.run_id == run.info.run_id


def test_run_of_an_earlier_launch_of_the_same_name_is_not_found(rank):
    rank(0)
    with mlflow.start_run() as run:
        start_process(run.info.run_id).finish()
    client = MlflowClient()
    name, _ = client.get_run(run.info.run_id).data.tags["carbon.launch"].split(" ")
    rank(2)
    place = find_place(os.environ)
    client.set_tag(run.info.run_id, "carbon.launch", f"{name} 1700000000")  # long before us
    assert find_launch_run(client, None, place, 0) is None


def test_search_gives_up_in_time_and_never_raises():
    def find():
        raise ConnectionError

    search = RunSearch(find, lambda _: None)
    started_s = time.monotonic()
    search.close(0.2)
    assert time.monotonic() - started_s < 1.0
