"""Windows that lie in one another or overlap: no energy is counted twice in one mean."""

import threading
import time

import mlflow
import pytest
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.store.runs import read_runs
from mlflow_carbon.testing import FakeMeter, reading
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.track import track
from mlflow_carbon.tracking.tracking_options import TrackingOptions
from tests.fakes.recorded import recorded, windows_of

SWEDEN = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 1.0}


def data_of(run):
    return MlflowClient().get_run(run.info.run_id).data


def joules_of(run):
    windows = windows_of(run.info.run_id)
    return {step: pytest.approx(window.energy_kwh * 3.6e6) for step, window in windows.items()}


def outer_of(data):
    """Returns the number of outer windows, and their energy in J, by the tag with their sums."""
    words = dict(word.split("=") for word in data.tags["carbon.windows.epoch"].split())
    return float(words["num_windows"]), pytest.approx(float(words["energy_kwh"]) * 3.6e6)


def joules_per(unit, data):
    return pytest.approx(recorded(data)[f"energy_kwh_per_{unit}"] * 3.6e6)


# Windows in windows


def nested(meter, *, num_epochs=2, run_id=None):
    """Runs epochs of two iterations each, both marked."""
    with (
        mlflow.start_run(run_id=run_id) as run,
        track(unit="epoch", meter=meter, **SWEDEN) as outer,
    ):
        for _ in range(num_epochs):
            with outer.window():
                for _ in range(2):
                    with track(unit="iteration") as inner, inner.window():
                        pass
    return run


ONE_EPOCH = [reading(cpu_joules=10), reading(cpu_joules=20), reading(cpu_joules=35)]


@pytest.mark.slow
def test_inner_windows_are_the_runs_and_outer_ones_have_a_series_of_their_own(store):
    run = nested(FakeMeter([*ONE_EPOCH, *ONE_EPOCH, reading(cpu_joules=80)]))
    data = data_of(run)
    assert (data.tags["carbon.unit"], data.tags["carbon.num_units"]) == ("iteration", "4")
    assert joules_per("iteration", data) == 15  # (10 + 20 + 10 + 20) / 4
    assert joules_per("epoch", data) == 35
    assert joules_of(run) == {1: 10, 2: 20, 3: 10, 4: 20}
    assert outer_of(data) == (2, 70)


@pytest.mark.slow
def test_resumed_run_goes_on_with_the_series_of_each_unit(store):
    first = nested(FakeMeter([*ONE_EPOCH, reading(cpu_joules=40)]), num_epochs=1)
    second = [reading(cpu_joules=joules, start_unix_s=1_700_000_100) for joules in (10, 20, 45, 50)]
    run = nested(FakeMeter(second), num_epochs=1, run_id=first.info.run_id)
    data = data_of(run)
    assert outer_of(data_of(run)) == (2, 80)  # 35 + 45
    assert joules_per("epoch", data) == 40  # (35 + 45) / 2
    assert (data.tags["carbon.unit"], data.tags["carbon.num_units"]) == ("iteration", "4")
    assert recorded(data)["energy_kwh"] == pytest.approx(90 / 3.6e6)  # 40 + 50


@pytest.mark.slow
def test_units_that_take_turns_are_in_no_common_mean(store):
    meter = FakeMeter([reading(cpu_joules=joules) for joules in (30, 4, 30, 4, 70)])
    with mlflow.start_run() as run, track(unit="epoch", meter=meter, **SWEDEN) as training:
        for _ in range(2):
            with training.window():
                pass
            with track(unit="sample") as validation, validation.window(num_units=2):
                pass
    data = data_of(run)
    assert (data.tags["carbon.unit"], data.tags["carbon.num_units"]) == ("epoch", "2")
    assert joules_per("epoch", data) == 30
    assert joules_per("sample", data) == 2


def test_outer_window_of_one_unit_counts_the_units_of_its_inner_ones(store, caplog):
    meter = FakeMeter([reading(cpu_joules=60), reading(cpu_joules=70)])
    with mlflow.start_run() as run, track(unit="epoch", meter=meter, **SWEDEN) as tracker:
        with tracker.window():
            for _ in range(2):
                with tracker.window():
                    pass
    data = data_of(run)
    # 60 J for the two units within: the outer one is none besides them
    assert (data.tags["carbon.num_units"], data.tags["carbon.num_windows"]) == ("2", "1")
    assert joules_per("epoch", data) == 30
    assert data.tags["carbon.num_overlapping_windows"] == "3"
    assert caplog.text.count("overlap") == 1


@pytest.mark.slow
def test_windows_of_threads_count_their_common_energy_once(store):
    meter = FakeMeter([reading(cpu_joules=60), reading(cpu_joules=70)])
    both = threading.Barrier(2)

    def work(tracker):
        with tracker.window():
            both.wait()  # while both are open

    with mlflow.start_run() as run, track(unit="epoch", meter=meter, **SWEDEN) as tracker:
        threads = [threading.Thread(target=work, args=(tracker,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = data_of(run)
    assert data.tags["carbon.num_units"] == "2"
    assert joules_per("epoch", data) == 30


# Runs beside runs


def finish_at_once(*, parents):
    """Meters runs at one time, each in that of its parent's number; returns them."""
    process, runs = ProcessMetering(), []
    for parent in parents:
        tags = {} if parent is None else {"mlflow.parentRunId": runs[parent].info.run_id}
        runs.append(MlflowClient().create_run("0", tags=tags))
    trackings = [
        process.track(
            run.info.run_id,
            TrackingOptions(**SWEDEN),
            run=run,
            meter=FakeMeter([reading(cpu_joules=60, duration_s=60)]),
        )
        for run in runs
    ]
    for tracking, run in zip(reversed(trackings), reversed(runs), strict=True):
        tracking.finish()
        MlflowClient().set_terminated(run.info.run_id)
    return runs


@pytest.mark.slow
def test_runs_of_one_time_are_marked_as_sharing_it_and_their_parent_is_not(store):
    parent, *trials = finish_at_once(parents=[None, 0, 0])
    assert keys.TAG_SHARED not in data_of(parent).tags
    assert [data_of(trial).tags[keys.TAG_SHARED] for trial in trials] == ["true", "true"]


@pytest.mark.slow
def test_runs_one_after_the_other_share_nothing(store):
    first, second = finish_at_once(parents=[None]), finish_at_once(parents=[None])
    assert [keys.TAG_SHARED in data_of(run).tags for run in (*first, *second)] == [False, False]


@pytest.mark.slow
def test_compare_says_which_runs_shared_their_machine(store):
    finish_at_once(parents=[None, None])
    runs = read_runs(MlflowClient(), experiment_names=["Default"])
    notices = " ".join(compare_runs(runs).notices)
    assert "2 of 2 runs shared their machine with other runs at the same time" in notices


# Ends of loops


def num_units(leave):
    """Returns how many of a loop's epochs count; ``leave`` works through the windows."""
    meter = FakeMeter([reading(cpu_joules=10)] * 9)
    with mlflow.start_run() as run:
        try:
            with track(unit="epoch", meter=meter, **SWEDEN) as tracker:
                leave(tracker.windows(range(5)))
        except KeyboardInterrupt:
            pass
    return data_of(run).tags["carbon.num_units"]


def work():
    time.sleep(0.02)


@pytest.mark.slow
def test_item_that_zip_drops_is_no_unit(store):
    def leave(windows):
        for _ in zip(windows, range(3), strict=False):
            work()

    assert num_units(leave) == "3"


def test_item_at_which_the_loop_breaks_after_its_work_is_a_unit(store):
    def leave(windows):
        for item in windows:
            work()
            if item == 3:
                break

    assert num_units(leave) == "4"


def test_item_at_which_the_loop_breaks_before_its_work_is_no_unit(store):
    def leave(windows):
        for item in windows:
            if item == 3:
                break
            work()

    assert num_units(leave) == "3"


def test_item_at_which_an_exception_ends_the_loop_is_no_unit(store):
    def leave(windows):
        for item in windows:
            work()
            if item == 3:
                raise KeyboardInterrupt

    assert num_units(leave) == "3"


def test_window_that_an_exception_ends_is_none(store):
    meter = FakeMeter([reading(cpu_joules=10)] * 3)
    with mlflow.start_run() as run, track(unit="epoch", meter=meter, **SWEDEN) as tracker:
        with tracker.window():
            pass
        with pytest.raises(KeyboardInterrupt), tracker.window():
            raise KeyboardInterrupt
    assert data_of(run).tags["carbon.num_units"] == "1"


def test_second_block_of_one_track_says_why_before_it_begins(store):
    block = track(meter=FakeMeter([reading(cpu_joules=10)]), **SWEDEN)
    with mlflow.start_run():
        with block:
            pass
        with pytest.raises(InvalidInputError, match=r"Call track\(\) once for each block"), block:
            pytest.fail("the block began")


@pytest.mark.slow
def test_each_call_of_a_decorated_function_is_a_block(store):
    meter = FakeMeter([reading(cpu_joules=10)] * 2)

    @track(meter=meter, **SWEDEN)
    def step(number: int) -> int:
        return number + 1

    assert [step(1), step(2)] == [2, 3]
    assert meter.scripted == []


@pytest.mark.slow
def test_loop_that_is_left_in_an_autologged_run_counts_what_it_did(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    with mlflow.start_run() as run:
        for item in mlflow_carbon.windows(range(5), unit="epoch"):
            work()
            if item == 1:
                break
    assert data_of(run).tags["carbon.num_units"] == "2"
