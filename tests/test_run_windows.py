"""One run read back with its windows, found by id, name or as the latest."""

import pytest
from mlflow import MlflowClient

from mlflow_carbon.accounting.uncertainty import Stretch
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.store.run_windows import find_run, read_metered_run
from tests.fakes.metered_runs import TIMESTAMP_MS, WINDOW_S, write_run

END_S = TIMESTAMP_MS / 1000


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def read(client, text):
    return read_metered_run(client, find_run(client, text))


def test_windows_come_back_in_order_with_their_power(client):
    run = read(client, write_run(client, "synthesis", windows=[(0.5, 4.0), (0.25, 2.0)]))
    # 0.5 kWh in 60 s are 30 kW
    assert run.windows == (Stretch(0.5, 4.0, 30_000.0), Stretch(0.25, 2.0, 15_000.0))
    assert (run.unit, run.num_units, run.energy_kwh, run.duration_s) == ("sample", 6.0, 0.75, 120.0)
    assert (run.pue, run.intensity.g_per_kwh, run.intensity.region) == (1.5, 250.0, "EU27")


def test_spans_carry_all_of_the_energy_at_the_runs_own_times(client):
    run = read(client, write_run(client, "a", windows=[(2.0, 1.0), (3.0, 1.0)], gap_kwh=0.5))
    spans = [(span.start_s - END_S, span.end_s - END_S, span.energy_kwh) for span in run.spans]
    # what was spent between the windows is spread over the whole run
    assert spans == [(-120, -60, 2.0), (-60, 0, 3.0), (-120, 0, 0.5)]
    assert run.window_duration_s == 2 * WINDOW_S


def test_windows_of_a_run_on_two_nodes_hold_the_energy_of_both(client):
    run_id = write_run(
        client, "a", windows=[(2.0, 1.0), (3.0, 1.0)], tags={"carbon.num_nodes": "2"}
    )
    # the first node's 2.5 kWh per sample, the other's 2.5 kWh
    client.log_metric(run_id, "carbon/energy_kwh_per_sample", 5.0, timestamp=TIMESTAMP_MS + 1)
    assert [window.energy_kwh for window in read(client, run_id).windows] == [4.0, 6.0]


def test_rest_that_is_one_of_rounding_is_no_span(client):
    run_id = write_run(client, "a", windows=[(2.0, 1.0), (3.0, 1.0)], gap_kwh=1e-12)
    assert len(read(client, run_id).spans) == 2


def test_run_without_windows_is_one_of_minutes(client):
    run_id = client.create_run("0").info.run_id
    totals = {keys.ENERGY_KWH: 0.25, keys.DURATION_S: 90.0, keys.POWER_W: 10_000.0}
    for key, value in totals.items():
        client.log_metric(run_id, key, value, timestamp=TIMESTAMP_MS, step=0)
    for key, value in ((keys.TAG_SCHEMA, "1"), (keys.TAG_UNIT, "minute")):
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id)
    run = read(client, run_id)
    assert run.windows == (Stretch(0.25, 1.5, 10_000.0),)
    assert [(span.start_s, span.energy_kwh) for span in run.spans] == [(END_S - 90, 0.25)]
    assert run.intensity is None


def test_run_is_found_by_id_name_and_as_the_latest(client):
    first = write_run(client, "a", windows=[(1, 1)], name="first")
    second = write_run(client, "b", windows=[(1, 1)], name='the "second"')
    client.create_run("0", run_name="not metered")
    found = [find_run(client, text).info.run_id for text in (first, "first", 'the "second"')]
    assert found == [first, first, second]
    assert find_run(client, "latest").info.run_id == second
    assert find_run(client, "latest", experiment_names=["a"]).info.run_id == first


def test_name_of_several_runs_is_refused_with_their_ids(client):
    ids = [write_run(client, "a", windows=[(1, 1)]) for _ in range(2)]
    with pytest.raises(InvalidInputError, match="Several metered runs are called 'run'") as caught:
        find_run(client, "run")
    assert all(run_id in str(caught.value) for run_id in ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nobody", "has the id or name 'nobody'"),
        ("0" * 32, "has the id or name '000"),
        ("latest", "No metered run has ended yet"),
    ],
)
def test_unknown_run_is_refused(client, text, message):
    with pytest.raises(NoRunsError, match=message):
        find_run(client, text)


def test_name_that_no_filter_can_hold_is_refused(client):
    with pytest.raises(InvalidInputError, match="both kinds of quotes"):
        find_run(client, "a'b\"c")


def test_run_that_goes_on_is_refused(client):
    run_id = write_run(client, "a", windows=[(1, 1)], status="RUNNING")
    with pytest.raises(NoRunsError, match="has not ended"):
        read(client, run_id)


def test_run_that_measured_nothing_is_refused_with_its_reason(client):
    run_id = write_run(client, "a", windows=[], tags={keys.TAG_ERROR: "RAPL cannot be read."})
    with pytest.raises(NoRunsError, match=r"no measured energy: RAPL cannot be read\."):
        read(client, run_id)


def test_latest_run_is_the_one_that_set_off_a_training_and_ended_after_it(client):
    sampling = client.create_run("0", run_name="synth")
    train = client.create_run("0", run_name="train")
    for end_ms, run in enumerate((train, sampling), start=train.info.start_time + 1):
        client.set_tag(run.info.run_id, "carbon.schema", "1")
        client.set_terminated(run.info.run_id, end_time=end_ms)
    assert find_run(client, "latest").info.run_id == sampling.info.run_id
