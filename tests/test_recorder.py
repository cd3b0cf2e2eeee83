"""What a metered run carries: windows as it goes on, totals at its end, tags that say how."""

import math
import os

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.testing.meter import DESCRIPTION, FakeMeter, reading
from mlflow_carbon.tracking.track import track
from tests.fakes.recorded import recorded, windows_of

# Sweden in the paper's table: 7 g/kWh; with PUE 2, one kWh of IT energy is 14 g.
SWEDEN = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 2.0}
TWO_WINDOWS = [
    reading(cpu_joules=36, gpu_joules=[100, 224], duration_s=10),  # 360 J
    reading(cpu_joules=72, gpu_joules=[200, 448], duration_s=20),  # 720 J
    reading(cpu_joules=180, gpu_joules=[600, 1020], duration_s=100),  # the run: 1800 J
]


def tracked_run(readings=TWO_WINDOWS, *, units=(4, 4), description=DESCRIPTION, **settings):
    """Runs windows of the given units over scripted readings; returns the finished run."""
    meter = FakeMeter(readings, description)
    options = {"unit": "sample", **SWEDEN, **settings}
    with mlflow.start_run() as run, track(meter=meter, **options) as tracker:
        for num_units in units:
            with tracker.window(num_units=num_units):
                pass
    return MlflowClient().get_run(run.info.run_id)


def test_totals_are_the_whole_interval_gaps_included(store):
    metrics = recorded(tracked_run().data)
    # 1800 J = 0.0005 kWh; x PUE 2 = 0.001 kWh; x 7 g/kWh = 0.007 g; 1800 J / 100 s = 18 W
    assert metrics["energy_kwh"] == pytest.approx(0.0005)
    assert metrics["co2e_g"] == pytest.approx(0.007)
    assert metrics["power_w"] == pytest.approx(18)
    assert metrics["duration_s"] == 100
    assert metrics["pue"] == 2
    assert metrics["intensity_g_per_kwh"] == 7
    assert metrics["coverage_fraction"] == 0.5


def test_components_and_devices_add_up_to_the_total(store):
    metrics = recorded(tracked_run().data)
    devices = [metrics[f"gpu/{index}"] for index in (0, 1)]
    assert sum(devices) == pytest.approx(metrics["gpu"])
    components = metrics["gpu"] + metrics["cpu"]
    assert components == pytest.approx(metrics["energy_kwh"])
    assert metrics["gpu/1"] == pytest.approx(1020 / 3.6e6)


def test_run_value_is_energy_of_the_windows_over_their_units(store):
    metrics = recorded(tracked_run().data)
    # (360 + 720) J / 8 samples = 135 J; windows 90 and 180 J per sample: std 63.64 J
    assert metrics["energy_kwh_per_sample"] == pytest.approx(135 / 3.6e6)
    assert metrics["energy_kwh_per_sample_std"] == pytest.approx(90 / math.sqrt(2) / 3.6e6)
    assert metrics["co2e_g_per_sample"] == pytest.approx(135 / 3.6e6 * 14)
    assert metrics["co2e_g_per_sample_std"] == pytest.approx(90 / math.sqrt(2) / 3.6e6 * 14)


def test_one_window_has_no_spread(store):
    metrics = recorded(tracked_run(TWO_WINDOWS[1:], units=(4,)).data)
    assert "energy_kwh_per_sample" in metrics
    assert "energy_kwh_per_sample_std" not in metrics


def joules_at_steps(run_id, key):
    """Returns a curve in J, or for CO2e in what a J costs here, in MLflow's order."""
    history = MlflowClient().get_metric_history(run_id, key)
    ordered = sorted(history, key=lambda point: (point.step, point.timestamp, point.value))
    return [(point.step, round(point.value * 3.6e6, 6)) for point in ordered]


def test_curves_hold_the_energy_so_far_at_each_end_of_a_window_and_at_last_the_total(store):
    run_id = tracked_run().info.run_id
    # the first window from 0 to 360 J, the second up to 1080 J, the run's end at 1800 J
    energies = [(0, 0), (1, 360), (2, 1080), (3, 1800)]
    assert joules_at_steps(run_id, "carbon/energy_kwh") == energies
    co2e = [(step, 14 * joules) for step, joules in energies]  # 14 g/kWh
    assert joules_at_steps(run_id, "carbon/co2e_g") == co2e
    history = MlflowClient().get_metric_history(run_id, "carbon/power_w")
    assert [(point.step, point.value) for point in history] == [
        (1, pytest.approx(36)),
        (2, pytest.approx(36)),
    ]
    # 360 J over 4 samples; 1080 J over 8; and the same at the end
    per_sample = [(1, 90 * 14), (2, 135 * 14), (3, 135 * 14)]
    assert joules_at_steps(run_id, "carbon/co2e_g_per_sample") == per_sample
    gpu = [(1, 324), (2, 972)]  # 100 + 224; with 200 + 448
    assert joules_at_steps(run_id, "carbon/gpu_energy_kwh") == gpu


def test_run_has_six_charts_at_most_and_none_is_empty(store):
    for settings in ({}, {"total_units": 8}):
        metrics = tracked_run(**settings).data.metrics
        charts = [key for key in metrics if key.startswith("carbon/")]
        assert len(charts) <= 6
        assert all(key.count("/") == 1 for key in charts)  # one section


def test_windows_can_be_read_from_the_curves(store):
    windows = windows_of(tracked_run().info.run_id)
    assert {step: window.energy_kwh for step, window in windows.items()} == {
        1: pytest.approx(360 / 3.6e6),
        2: pytest.approx(720 / 3.6e6),
    }
    assert [window.num_units for window in windows.values()] == [4, 4]
    assert [window.duration_s for window in windows.values()] == [
        pytest.approx(10),
        pytest.approx(20),
    ]


def test_tags_say_how_it_was_measured_and_what_was_assumed(store):
    tags = tracked_run().data.tags
    expected = {
        "carbon.schema": "2",
        "carbon.scope": "run",
        "carbon.region": "SE",
        "carbon.period": "2022",
        "carbon.intensity_set": "paper_table1",
        "carbon.components": "cpu,gpu",
        "carbon.method.cpu": "tdp",
        "carbon.method.gpu": "counter",
        "carbon.cpu_tdp_source": "user",
        "carbon.attribution": "whole_node",
        "carbon.tracker": "carbontracker 2.4.7",
        "carbon.unit": "sample",
        "carbon.num_units": "8",
        "carbon.num_windows": "2",
    }
    assert expected.items() <= tags.items()
    assert not [tag for tag in tags if tag.startswith("carbon.default.")]


def test_fallback_of_a_silent_provider_is_tagged(store, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    live = {"region": "UK", "intensity_set": None, "intensity_provider": "uk-carbon-intensity"}
    tags = tracked_run(**live).data.tags
    assert tags["carbon.intensity_fallback"].startswith("uk-carbon-intensity cannot be reached")
    assert (tags["carbon.region"], tags["carbon.intensity_set"]) == ("GB", "ember")


def test_own_intensity_prices_the_run_and_is_tagged_as_given(store):
    meter = FakeMeter([reading(cpu_joules=3.6e6)])
    with track(carbon_intensity_g_per_kwh=20.5, region="My roof", meter=meter) as tracker:
        pass
    data = MlflowClient().get_run(tracker.run_id).data
    assert recorded(data)["co2e_g"] == pytest.approx(20.5)  # 1 kWh × PUE 1 × 20.5 g/kWh
    assert (data.tags["carbon.region"], data.tags["carbon.intensity_set"]) == ("My roof", "given")
    assert data.tags["carbon.intensity_source"] == "the user's own figure"
    assert "carbon.default.region" not in data.tags


def test_what_the_user_left_open_is_tagged_as_default(store):
    tags = tracked_run(region=None, intensity_set=None, pue=None).data.tags
    assert tags["carbon.default.region"] == "WORLD"
    assert tags["carbon.default.intensity_set"] == "ember"
    assert tags["carbon.default.pue"] == "1"


def test_unmarked_block_is_reported_per_minute(store):
    run = tracked_run(TWO_WINDOWS[2:], units=())
    # 1800 J in 100 s = 1080 J per minute
    assert recorded(run)["energy_kwh_per_minute"] == pytest.approx(1080 / 3.6e6)
    assert run.data.tags["carbon.unit"] == "minute"


def test_nothing_measured_writes_no_energy_and_says_why(store, caplog):
    blind = DESCRIPTION.__class__(
        components=("cpu",),
        method_by_component={"cpu": "unavailable"},
        cpu_tdp_source=None,
        attribution="whole_node",
        hardware="unknown",
        tracker="carbontracker 2.4.7",
        problems=("RAPL cannot be read.",),
    )
    run = tracked_run([reading(), reading()], units=(4,), description=blind)
    assert {key for key in run.data.metrics if "energy" in key or "co2e" in key} == set()
    assert run.data.tags["carbon.error"] == "RAPL cannot be read."
    assert caplog.text.count("RAPL cannot be read.") == 1
    assert run.data.tags["carbon.method.cpu"] == "unavailable"


def test_iterable_is_cut_into_windows_and_the_rest_is_a_shorter_one(store):
    per_window = [reading(cpu_joules=10), reading(cpu_joules=10), reading(cpu_joules=4)]
    meter = FakeMeter([*per_window, reading(cpu_joules=30)])
    with mlflow.start_run() as run, track(meter=meter, **SWEDEN) as tracker:
        assert list(tracker.windows(range(12), units_per_window=5)) == list(range(12))
    windows = windows_of(run.info.run_id)
    assert [window.num_units for window in windows.values()] == [5, 5, 2]


@pytest.mark.slow
def test_iterable_that_fills_its_windows_leaves_no_empty_one(store):
    meter = FakeMeter([reading(cpu_joules=10)] * 2 + [reading()] + [reading(cpu_joules=30)])
    with mlflow.start_run() as run, track(meter=meter, **SWEDEN) as tracker:
        assert len(list(tracker.windows(range(10), units_per_window=5))) == 10
    assert MlflowClient().get_run(run.info.run_id).data.tags["carbon.num_windows"] == "2"


def test_error_in_the_block_reaches_the_user_and_the_totals_are_kept(store):
    meter = FakeMeter(TWO_WINDOWS)
    with pytest.raises(ZeroDivisionError), mlflow.start_run() as run, track(meter=meter) as tracker:
        with tracker.window(num_units=4):
            pass
        with tracker.window(num_units=4):
            raise ZeroDivisionError
    finished = MlflowClient().get_run(run.info.run_id)
    assert finished.info.status == "FAILED"
    assert recorded(finished)["energy_kwh"] == pytest.approx(0.0005)


def test_without_a_run_one_is_started_and_ended(store):
    with track(meter=FakeMeter(TWO_WINDOWS[2:]), **SWEDEN) as tracker:
        run_id = tracker.run_id
    assert mlflow.active_run() is None
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_child_run_marks_its_metered_parent(store):
    parent_meter, child_meter = FakeMeter(TWO_WINDOWS[2:]), FakeMeter(TWO_WINDOWS[2:])
    with mlflow.start_run() as parent, track(meter=parent_meter):
        with mlflow.start_run(nested=True) as child, track(meter=child_meter):
            pass
    scopes = [
        MlflowClient().get_run(run.info.run_id).data.tags["carbon.scope"] for run in (parent, child)
    ]
    assert scopes == ["parent", "run"]


def test_store_that_refuses_warns_once_and_lets_the_run_go_on(store, caplog):
    meter = FakeMeter(TWO_WINDOWS)
    caplog.set_level("WARNING", logger="mlflow.carbon")
    with track(meter=meter, run_id="0" * 32, **SWEDEN) as tracker:  # no such run
        for _ in range(2):
            with tracker.window(num_units=4):
                pass
    warnings = [record for record in caplog.records if record.name == "mlflow.carbon"]
    assert len(warnings) == 1
    assert "cannot be written" in warnings[0].getMessage()


@pytest.mark.slow
def test_forked_child_repeats_no_figure(store):
    meter = FakeMeter(TWO_WINDOWS)
    with mlflow.start_run() as run, track(meter=meter, unit="sample", **SWEDEN) as tracker:
        child = os.fork()
        if child == 0:
            with tracker.window(num_units=4):
                pass
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        for _ in range(2):
            with tracker.window(num_units=4):
                pass
    assert list(windows_of(run.info.run_id)) == [1, 2]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"unit": "furlong"}, InvalidInputError, "unit is 'furlong'; use one of iteration"),
        ({"region": "Atlantis"}, NoIntensityError, "Atlantis"),
        ({"pue": 0.9}, InvalidInputError, "0.9"),
        ({"region": "Poland", "month": "2022-02", "intensity_set": None}, NoIntensityError, "PL"),
        ({"intensity_provider": "uk-carbon-intensity"}, InvalidInputError, "neither a month nor"),
        (
            {"intensity_provider": "me", "intensity_set": None},
            InvalidInputError,
            "provider is 'me'",
        ),
    ],
)
def test_bad_setting_is_told_before_the_block_starts(store, settings, error, message):
    entered = False
    with pytest.raises(error) as caught, track(meter=FakeMeter([]), **{**SWEDEN, **settings}):
        entered = True
    assert message in str(caught.value)
    assert not entered


@pytest.mark.parametrize("num_units", [0, -1, math.nan, math.inf])
def test_window_of_no_units_is_refused(store, num_units):
    meter = FakeMeter([reading(cpu_joules=1)])
    with track(meter=meter, **SWEDEN) as tracker:
        with pytest.raises(InvalidInputError, match="give a number above zero"):
            with tracker.window(num_units=num_units):
                pass


@pytest.mark.slow
def test_block_inside_a_metered_run_adds_windows_to_it_and_totals_are_written_once(store):
    meter = FakeMeter(TWO_WINDOWS)
    with mlflow.start_run() as run, track(meter=meter, unit="sample", **SWEDEN) as outer:
        with outer.window(num_units=4):
            pass
        with track(unit="sample") as inner, inner.window(num_units=4):
            pass
        assert "energy_kwh" not in recorded(run.info.run_id)
    finished = MlflowClient().get_run(run.info.run_id).data
    assert inner.run_id == outer.run_id
    assert finished.tags["carbon.num_windows"] == "2"
    assert recorded(finished)["pue"] == 2  # left open inside, so the outer's


def test_what_the_inner_block_asks_for_counts_for_the_run(store):
    meter = FakeMeter(TWO_WINDOWS[1:])
    with mlflow.start_run() as run, track(meter=meter, pue=2.0):
        with track(unit="epoch", region="Poland", intensity_set="paper_table1") as inner:
            with inner.window():
                pass
    data = MlflowClient().get_run(run.info.run_id).data
    assert data.tags["carbon.region"] == "PL"
    assert not [tag for tag in data.tags if tag.startswith("carbon.default.")]
    assert data.tags["carbon.unit"] == "epoch"
    # 1800 J = 0.0005 kWh; x PUE 2 of the outer block x Poland's 666 g/kWh
    assert recorded(data)["co2e_g"] == pytest.approx(0.0005 * 2 * 666)


def reading_of(*devices):
    """Returns a reading of half a millisecond; each device is its component, energy and method."""
    found = tuple(DeviceEnergy(name, 0, energy_kwh, method) for name, energy_kwh, method in devices)
    return Reading(1_700_000_000.0, 0.0005, found, coverage_fraction=0.0, num_readings=2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tdp", "counter"])
def test_run_shorter_than_a_step_of_its_counter_has_no_energy_rather_than_none(store, method):
    run = tracked_run([reading_of(("cpu", 0.0, method))], units=())
    assert [key for key in run.data.metrics if key.startswith("carbon/")] == []
    assert recorded(run) == {"duration_s": 0.0005}
    assert "shorter than its step" in run.data.tags["carbon.error"]


@pytest.mark.slow
def test_run_without_a_figure_says_why_and_no_price_until_it_is_resumed_with_one(store):
    silent, counted = reading_of(("cpu", 0.0, "tdp")), reading_of(("cpu", 1e-6, "tdp"))
    run = tracked_run([silent], units=())
    tags = {key for key in run.data.tags if key.startswith("carbon.")}
    methods = {key for key in tags if key.startswith("carbon.method.")}
    assert tags - methods == {
        *("carbon.schema", "carbon.scope", "carbon.plugin_version", "carbon.total", "carbon.error")
    }
    with mlflow.start_run(run_id=run.info.run_id), track(meter=FakeMeter([counted]), **SWEDEN):
        pass
    data = MlflowClient().get_run(run.info.run_id).data
    assert recorded(data)["duration_s"] == 0.001  # of both parts
    assert recorded(data)["co2e_g"] == pytest.approx(1e-6 * 2 * 7)  # PUE and intensity
    for tag in ("region", "pue", "intensity_source", "hardware", "tracker", "scope"):
        assert f"carbon.{tag}" in data.tags


@pytest.mark.slow
def test_windows_of_a_run_without_energy_have_no_mean(store):
    silent = reading_of(("cpu", 0.0, "tdp"))
    metrics = recorded(tracked_run([silent, silent], units=(1,)).data)
    assert "energy_kwh_per_sample" not in metrics


def test_counter_that_did_not_move_leaves_the_total_to_those_that_did(store):
    readings = [reading_of(("cpu", 0.0, "tdp"), ("gpu", 1e-6, "counter"))]
    metrics = recorded(tracked_run(readings, units=()).data)
    assert metrics["energy_kwh"] == metrics["gpu"] == 1e-6
    assert "cpu" not in metrics


def test_no_power_that_was_observed_or_simulated_is_energy_of_zero(store):
    readings = [reading_of(("cpu", 0.0, "simulated"), ("gpu", 0.0, "sampled"))]
    assert recorded(tracked_run(readings, units=()))["energy_kwh"] == 0


# The run's description


def test_description_says_what_the_run_cost_beside_what_the_user_wrote(store):
    meter = FakeMeter(TWO_WINDOWS)
    with mlflow.start_run(description="my own words") as run:
        with track(meter=meter, unit="sample", **SWEDEN) as tracker:
            for _ in range(2):
                with tracker.window(num_units=4):
                    pass
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    # 0.0005 kWh × 14 g/kWh; 135 J a sample
    line = (
        "7 mg CO2e (500 mWh) · SE 7 g/kWh (2022, paper_table1) × PUE 2 · "
        "CPU estimated, GPU counted · 8 samples, 525 µg each"
    )
    written = f"my own words\n\n\u2060{line} <!-- carbon -->"
    assert tags["mlflow.note.content"] == written
    assert "carbon.note" not in tags


def test_description_says_what_would_have_cost_less(store):
    with mlflow.start_run() as run:
        mlflow.log_param("steps", "1000")
        meter = FakeMeter(TWO_WINDOWS)
        with track(meter=meter, unit="sample", region="PL", pue=1.0) as tracker:
            for _ in range(2):
                with tracker.window(num_units=4):
                    pass
    note = MlflowClient().get_run(run.info.run_id).data.tags["mlflow.note.content"]
    # 1 - 20 / 1000, and 35.82 g/kWh in place of 615
    assert " · cheaper: 20 steps up to −98 % · in Sweden 35.82 g/kWh (2024, ember) −94 % <!" in note


def test_trial_that_takes_no_second_has_no_description(store):
    run = tracked_run([reading(cpu_joules=10, duration_s=0.9)], units=())
    assert "mlflow.note.content" not in run.data.tags
