"""Several nodes in one run: each is there, all add up in any order, and a dead one is missed."""

import os
from dataclasses import replace
from itertools import permutations

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.metering.launch import Place
from mlflow_carbon.recording.earlier import read_earlier_part
from mlflow_carbon.recording.journal import Journal
from mlflow_carbon.recording.outbox import Outbox
from mlflow_carbon.recording.recorder import Recorder
from mlflow_carbon.recording.recovery import recover
from mlflow_carbon.testing.meter import DESCRIPTION, FakeMeter, reading
from tests.fakes.recorded import recorded, windows_of

# 7 g/kWh; with PUE 2, one kWh of IT energy is 14 g.
SWEDEN = resolve_assumptions(region="Sweden", intensity_set="paper_table1", pue=2.0)
START_UNIX_S = 1_700_000_000.0


def at(start_s, measured):
    """Returns a reading that starts so many seconds after the others of its test."""
    return replace(measured, start_unix_s=START_UNIX_S + start_s)


def node(index, run_id, readings, *, num_nodes=2, meter=None, outbox=None, **options):
    """Returns the recorder of one node's leader over scripted readings."""
    place = Place(
        rank=index, num_ranks=num_nodes, node_index=index, num_nodes=num_nodes, launch_key="key"
    )
    outbox = outbox or Outbox(MlflowClient(), run_id)
    options = {"unit": "epoch", "assumptions": SWEDEN, **options}
    return Recorder(outbox, meter or FakeMeter(readings), place=place, **options)


def measure(recorder, num_windows=0):
    """Runs a node's work from its start to its end."""
    recorder.start()
    for _ in range(num_windows):
        recorder.close(recorder.open(), 1)
    recorder.finish()


@pytest.fixture
def run_id(store):
    with mlflow.start_run() as run:
        return run.info.run_id


def data_of(run_id):
    return MlflowClient().get_run(run_id).data


# In J: 100 + 300, 200 + 600, 300 + 900.
NODES = [
    reading(cpu_joules=100 * (1 + i), gpu_joules=[300 * (1 + i)], duration_s=10) for i in range(3)
]


def sums_joules(figures):
    return [pytest.approx(figures[key] * 3.6e6) for key in ("energy_kwh", "cpu", "gpu")]


@pytest.mark.slow
def test_nodes_are_kept_apart_and_added_up(run_id):
    for index in (0, 1):
        measure(node(index, run_id, [NODES[index]]))
    metrics = recorded(run_id)
    assert metrics["node/0/energy_kwh"] == pytest.approx(400 / 3.6e6)
    assert metrics["node/1/energy_kwh"] == pytest.approx(800 / 3.6e6)
    assert sums_joules(metrics) == [1200, 300, 900]
    shown = data_of(run_id).metrics
    assert shown["carbon/energy_kwh"] == pytest.approx(1200 / 3.6e6)
    assert shown["carbon/co2e_g"] == pytest.approx(1200 / 3.6e6 * 14)
    assert metrics["co2e_g"] == pytest.approx(1200 / 3.6e6 * 14)
    assert metrics["duration_s"] == 10  # they ran side by side
    assert metrics["power_w"] == pytest.approx(120)  # 1200 J / 10 s
    assert metrics["coverage_fraction"] == pytest.approx(0.5)
    assert metrics["node/1/gpu/0"] == pytest.approx(600 / 3.6e6)
    assert "gpu/0" not in metrics  # of which node?


@pytest.mark.slow
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_order_in_which_nodes_end_does_not_matter(run_id, order):
    for index in order:  # the later one's interval ends before the first one's, too
        measure(node(index, run_id, [at(-index, NODES[index])], num_nodes=3))
    data = data_of(run_id)
    assert sums_joules(recorded(data)) == [2400, 600, 1800]
    assert recorded(data)["power_w"] == pytest.approx(240)
    assert "carbon.missing_nodes" not in data.tags


def test_node_that_never_came_is_missed_in_tag_and_coverage(run_id):
    measure(node(0, run_id, [NODES[0]]))
    data = data_of(run_id)
    assert data.tags["carbon.missing_nodes"] == "1"
    assert recorded(data)["energy_kwh"] == pytest.approx(400 / 3.6e6)
    # 0.5 of 10 s, and nothing of the other node's 10 s
    assert recorded(data)["coverage_fraction"] == pytest.approx(0.25)


def test_node_that_dies_counts_to_its_last_minute_and_is_missed(run_id):
    meter, outbox = FakeMeter([]), Outbox(MlflowClient(), run_id)
    node(1, run_id, [], meter=meter, outbox=outbox).start()
    meter.on_minute(reading(cpu_joules=600, duration_s=60))
    assert outbox.close()
    measure(node(0, run_id, [reading(cpu_joules=1200, duration_s=120)]))
    data = data_of(run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1800 / 3.6e6)
    assert data.tags["carbon.missing_nodes"] == "1"
    # observed: half of 120 s and half of 60 s, of 2 x 120 s
    assert recorded(data)["coverage_fraction"] == pytest.approx(90 / 240)


@pytest.mark.slow
def test_sum_is_there_though_the_first_node_died(run_id):
    outbox = Outbox(MlflowClient(), run_id)
    node(0, run_id, [], outbox=outbox).start()
    assert outbox.close()
    measure(node(1, run_id, [NODES[1]]))
    data = data_of(run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(800 / 3.6e6)
    assert data.tags["carbon.missing_nodes"] == "0"


@pytest.mark.slow
def test_node_that_could_not_measure_is_missed_and_says_why(run_id):
    locked = replace(DESCRIPTION, problems=("RAPL is locked.",))
    blind = node(1, run_id, [], meter=FakeMeter([reading(duration_s=10)], locked))
    measure(node(0, run_id, [NODES[0]]))
    measure(blind)
    tags = data_of(run_id).tags
    assert tags["carbon.missing_nodes"] == "1"
    assert tags["carbon.node.1.error"] == "RAPL is locked."
    assert "carbon.error" not in tags


@pytest.mark.slow
def test_window_series_is_the_first_nodes_and_figures_per_unit_are_of_all(run_id):
    for index, joules in ((0, 100), (1, 300)):
        windows = [reading(cpu_joules=joules)] * 2
        total = reading(cpu_joules=2 * joules, duration_s=10)
        measure(node(index, run_id, [*windows, total]), num_windows=2)
    data = data_of(run_id)
    windows = windows_of(run_id)
    assert {step: round(w.energy_kwh * 3.6e6) for step, w in windows.items()} == {1: 100, 2: 100}
    assert [window.num_units for window in windows.values()] == [1, 1]
    assert data.metrics["carbon/co2e_g_per_epoch"] == pytest.approx(400 / 3.6e6 * 14)
    assert recorded(data)["energy_kwh_per_epoch"] == pytest.approx(400 / 3.6e6)
    assert recorded(data)["co2e_g_per_epoch"] == pytest.approx(400 / 3.6e6 * 14)
    assert data.tags["carbon.num_windows"] == "2"
    for key, steps in (("co2e_g_per_epoch", [1, 2, 3]), ("energy_kwh", [0, 1])):
        history = MlflowClient().get_metric_history(run_id, f"carbon/{key}")
        found = sorted({point.step for point in history})
        assert found[: len(steps)] == steps  # the sums have their own, the newest the last


@pytest.mark.slow
def test_figures_per_unit_are_absent_where_a_node_is(run_id):
    measure(node(0, run_id, [reading(cpu_joules=1), reading(cpu_joules=2)]), num_windows=1)
    assert "energy_kwh_per_epoch" not in recorded(run_id)


@pytest.mark.slow
def test_node_that_was_started_anew_adds_to_its_first_attempt(run_id):
    client = MlflowClient()
    for index in (0, 1):
        measure(node(index, run_id, [NODES[index]]))
    for index in (0, 1):
        earlier = read_earlier_part(client, client.get_run(run_id), node_index=index)
        measure(node(index, run_id, [at(10**9, NODES[index])], earlier=earlier))
    data = data_of(run_id)
    assert sums_joules(recorded(data)) == [2400, 600, 1800]
    assert recorded(data)["duration_s"] == 20


@pytest.mark.slow
def test_killed_nodes_journal_is_recovered_into_the_sum_and_only_once(run_id, tmp_path):
    folder = tmp_path / "left"
    measure(node(0, run_id, [NODES[0]]))
    outbox = Outbox(MlflowClient(), run_id, is_held=True)
    measure(node(1, run_id, [NODES[1]], outbox=outbox))
    journal = Journal(folder, run_id=run_id, tracking_uri=MlflowClient().tracking_uri)
    for batch in outbox.held:
        journal.append(batch)
    journal.close(is_delivered=False)
    (path,) = folder.iterdir()
    left = path.read_text().replace(f'"process": [{os.getpid()},', '"process": [1,')
    for _ in range(2):
        path.write_text(left)
        assert [done.reason for done in recover(MlflowClient(), folder)] == [None]
    data = data_of(run_id)
    assert sums_joules(recorded(data)) == [1200, 300, 900]
    assert "carbon.missing_nodes" not in data.tags
    # two sums: that of one node and that of both
    assert len(MlflowClient().get_metric_history(run_id, "carbon/energy_kwh")) == 2
