"""A run's metering: minutes, epochs, the parts of a resumed run, many runs at once."""

from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_carbon.contract.totals import Total
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.epoch_windows import EpochWindows
from mlflow_carbon.tracking.process_metering import ProcessMetering
from mlflow_carbon.tracking.track import track
from mlflow_carbon.tracking.tracking_options import TrackingOptions
from tests.fakes.recorded import recorded, windows_of

SWEDEN = TrackingOptions(unit="sample", region="Sweden", intensity_set="paper_table1", pue=2.0)
MINUTE = reading(cpu_joules=600, duration_s=60)


def energies_joules(run_id):
    """Returns the energies of the windows in J, by step."""
    windows = windows_of(run_id)
    return {step: round(window.energy_kwh * 3.6e6) for step, window in windows.items()}


def data_of(run_id):
    return MlflowClient().get_run(run_id).data


# Minutes


def test_minutes_are_the_windows_of_a_run_that_nobody_marks(store):
    meter = FakeMeter([reading(cpu_joules=1500, duration_s=150)])
    with mlflow.start_run() as run:
        tracking = ProcessMetering().track(run.info.run_id, SWEDEN, meter=meter)
        for _ in range(2):
            meter.on_minute(MINUTE)
        tracking.finish()
    data = data_of(run.info.run_id)
    assert energies_joules(run.info.run_id) == {1: 600, 2: 600}
    assert data.tags["carbon.unit"] == "minute"
    assert data.tags["carbon.num_units"] == "2"
    assert recorded(data)["energy_kwh_per_minute"] == pytest.approx(600 / 3.6e6)
    assert recorded(data)["energy_kwh"] == pytest.approx(1500 / 3.6e6)


def test_marked_window_ends_the_minutes_and_alone_counts(store):
    meter = FakeMeter([reading(cpu_joules=100), reading(cpu_joules=900, duration_s=90)])
    with mlflow.start_run() as run:
        tracking = ProcessMetering().track(run.info.run_id, SWEDEN, meter=meter)
        meter.on_minute(MINUTE)
        window = tracking.open()
        assert meter.on_minute is None
        tracking.close(window, 4)
        tracking.finish()
    data = data_of(run.info.run_id)
    assert energies_joules(run.info.run_id) == {1: 600, 2: 100}
    assert data.tags["carbon.first_window_step"] == "2"
    assert (data.tags["carbon.unit"], data.tags["carbon.num_windows"]) == ("sample", "1")
    assert recorded(data)["energy_kwh_per_sample"] == pytest.approx(25 / 3.6e6)


# Epochs of a framework


class Stopwatch:
    """Time in s that moves when the test says so."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Windows:
    """Stands for a recorder: keeps how many units each window did, and of what."""

    def __init__(self) -> None:
        self.closed: list[tuple[float, str]] = []

    def open(self, unit: str, *, is_automatic: bool) -> str:
        assert is_automatic
        return unit

    def close(self, window: str, num_units: float) -> None:
        self.closed.append((num_units, window))


def test_short_epochs_share_a_window_of_a_second():
    windows, clock = Windows(), Stopwatch()
    epochs = EpochWindows(windows, monotonic_s=clock)
    for _ in range(7):
        epochs.begin("epoch")
        clock.now_s += 0.4
        epochs.end("epoch")
    epochs.flush()
    assert windows.closed == [(3, "epoch"), (3, "epoch"), (1, "epoch")]  # 1.2 s, 1.2 s, the rest


def test_epochs_end_with_the_training():
    windows = Windows()
    epochs = EpochWindows(windows, monotonic_s=Stopwatch())
    epochs.begin("epoch")
    epochs.end("epoch")
    epochs.training_ends("iteration")  # another one, within
    assert windows.closed == []
    epochs.training_ends("epoch")
    assert windows.closed == [(1, "epoch")]


def test_rounds_after_epochs_have_windows_of_their_own():
    windows = Windows()
    epochs = EpochWindows(windows, monotonic_s=Stopwatch())
    for unit in ("epoch", "epoch", "iteration"):
        epochs.begin(unit)
        epochs.end(unit)
    epochs.flush()
    assert windows.closed == [(2, "epoch"), (1, "iteration")]


def test_rounds_within_an_epoch_are_a_part_of_it():
    windows = Windows()
    epochs = EpochWindows(windows, monotonic_s=Stopwatch())
    epochs.begin("epoch")
    for _ in range(3):
        epochs.begin("iteration")
        epochs.end("iteration")
    epochs.end("epoch")
    epochs.flush()
    assert windows.closed == [(1, "epoch")]


def test_epochs_of_a_framework_give_way_to_windows_of_the_user(store):
    meter = FakeMeter([reading(cpu_joules=100), reading(cpu_joules=900)])
    with mlflow.start_run() as run:
        tracking = ProcessMetering().track(run.info.run_id, SWEDEN, meter=meter)
        tracking.epoch_begins("epoch")
        window = tracking.open()
        tracking.close(window, 4)
        tracking.epoch_ends("epoch")
        tracking.finish()
    assert energies_joules(run.info.run_id) == {1: 100}


# Resumed runs


@pytest.mark.slow
def test_resumed_run_adds_to_what_it_spent_before(store):
    options = {"unit": "sample", "region": "Sweden", "intensity_set": "paper_table1", "pue": 2.0}
    first = FakeMeter(
        [reading(cpu_joules=360), reading(cpu_joules=400, gpu_joules=[200], duration_s=10)]
    )
    second = FakeMeter(
        [reading(cpu_joules=720), reading(cpu_joules=800, gpu_joules=[400], duration_s=30)]
    )
    with mlflow.start_run() as run, track(meter=first, **options) as tracker:
        with tracker.window(num_units=4):
            pass
    run_id = run.info.run_id
    with mlflow.start_run(run_id=run_id), track(meter=second, **options) as tracker:
        with tracker.window(num_units=4):
            pass
    data = data_of(run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1800 / 3.6e6)
    assert recorded(data)["gpu/0"] == pytest.approx(600 / 3.6e6)
    assert recorded(data)["duration_s"] == 40
    assert energies_joules(run_id) == {1: 360, 3: 720}  # the first part ends at step 2
    assert data.tags["carbon.num_units"] == "8"
    assert recorded(data)["energy_kwh_per_sample"] == pytest.approx(135 / 3.6e6)  # 1080 / 8


def test_part_that_was_killed_counts_with_its_windows(store):
    process = ProcessMetering()
    killed = FakeMeter([reading(cpu_joules=360, gpu_joules=[140], duration_s=10)])
    with mlflow.start_run() as run:
        tracking = process.track(run.info.run_id, SWEDEN, meter=killed)
        tracking.close(tracking.open(), 4)
        assert tracking.flush()  # all but the totals has arrived
    resumed = FakeMeter([reading(cpu_joules=500, duration_s=30)])
    tracking = ProcessMetering().track(run.info.run_id, SWEDEN, meter=resumed)
    tracking.finish()
    data = data_of(run.info.run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1000 / 3.6e6)  # 360 + 140 + 500
    assert recorded(data)["duration_s"] == 40
    assert (data.tags["carbon.unit"], data.tags["carbon.num_units"]) == ("sample", "4")


def test_total_that_the_store_did_not_tell_at_the_start_is_not_lost(store):
    class Waking(MlflowClient):
        is_awake = False

        def get_run(self, run_id):
            if not self.is_awake:
                raise ConnectionError
            return super().get_run(run_id)

    with mlflow.start_run() as run:
        first = FakeMeter([reading(cpu_joules=360, duration_s=10)])
        ProcessMetering().track(run.info.run_id, SWEDEN, meter=first).finish()
    client, second = Waking(), FakeMeter([reading(cpu_joules=500, duration_s=30)])
    tracking = ProcessMetering().track(run.info.run_id, SWEDEN, client=client, meter=second)
    Waking.is_awake = True  # the store, whichever copy of the client asks
    tracking.finish()
    data = data_of(run.info.run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(860 / 3.6e6)
    assert recorded(data)["duration_s"] == 40


def test_part_that_was_killed_after_a_finished_one_adds_its_windows(store):
    with mlflow.start_run() as run:
        first = FakeMeter([reading(cpu_joules=360, duration_s=10)])
        ProcessMetering().track(run.info.run_id, SWEDEN, meter=first).finish()
    later = replace(reading(cpu_joules=200, duration_s=10), start_unix_s=1_700_000_100.0)
    killed = ProcessMetering().track(run.info.run_id, SWEDEN, meter=FakeMeter([later]))
    killed.close(killed.open(), 4)
    assert killed.flush()  # its totals are never written
    third = replace(reading(cpu_joules=500, duration_s=30), start_unix_s=1_700_000_200.0)
    ProcessMetering().track(run.info.run_id, SWEDEN, meter=FakeMeter([third])).finish()
    data = data_of(run.info.run_id)
    assert recorded(data)["energy_kwh"] == pytest.approx(1060 / 3.6e6)  # 360 + 200 + 500
    assert recorded(data)["duration_s"] == 50


def test_intervals_add_up_with_their_coverage_weighted_by_time():
    covered = reading(cpu_joules=10, duration_s=30)  # coverage 0.5
    blind = reading(duration_s=10)
    total = Total.of(covered).plus(Total.of(blind))
    assert total.duration_s == 40
    assert total.coverage_fraction == pytest.approx(0.375)  # (0.5 * 30 + nothing) / 40


# Many runs of one process


@pytest.mark.slow
def test_nested_runs_tag_their_parent_once_and_are_all_kept(store):
    process = ProcessMetering()
    with mlflow.start_run() as parent:
        outer = process.track(
            parent.info.run_id, SWEDEN, run=parent, meter=FakeMeter([reading(cpu_joules=100)])
        )
        for _ in range(2):
            with mlflow.start_run(nested=True) as child:
                meter = FakeMeter([reading(cpu_joules=30)])
                process.track(child.info.run_id, SWEDEN, run=child, meter=meter).finish()
        outer.finish()
    assert data_of(parent.info.run_id).tags["carbon.scope"] == "parent"
    assert data_of(child.info.run_id).tags["carbon.scope"] == "run"
    assert recorded(data_of(child.info.run_id))["energy_kwh"] == pytest.approx(30 / 3.6e6)


def test_run_that_is_held_writes_nothing_until_it_is_released(store):
    with mlflow.start_run() as run:
        tracking = ProcessMetering().track(
            run.info.run_id, SWEDEN, run=run, meter=FakeMeter([reading(cpu_joules=1)]), is_held=True
        )
        tracking.finish()
    assert not [key for key in data_of(run.info.run_id).tags if key.startswith("carbon.")]


@pytest.mark.slow
def test_one_meter_serves_all_runs_and_stops_with_the_last(store):
    process = ProcessMetering()
    with mlflow.start_run() as parent, mlflow.start_run(nested=True) as child:
        trackings = [
            process.track(run.info.run_id, TrackingOptions(), run=run) for run in (parent, child)
        ]
        meter = process.meter
        assert trackings[1].meter is meter is not None
        trackings[1].finish()
        assert process.meter is meter
        trackings[0].finish()
    assert process.meter is None
