"""A run that goes on foretells its total, and warns, stops or calls before its budget is spent."""

import math
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.contract.windows import Window
from mlflow_carbon.errors import CarbonBudgetError, InvalidInputError
from mlflow_carbon.grid.intensity import given_intensity
from mlflow_carbon.recording.live_forecast import CarbonPlan, LiveForecast
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.track import track

# Sweden in the paper's table: 7 g/kWh; 3.6 MJ are one kWh, so 7 g.
SWEDEN = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 1.0}
KWH = 3.6e6


def meter_of(*energies_kwh):
    """A meter whose windows take these energies, and the run all of them."""
    windows = [reading(cpu_joules=energy_kwh * KWH) for energy_kwh in energies_kwh]
    return FakeMeter([*windows, reading(cpu_joules=sum(energies_kwh) * KWH)])


class MeterWithGaps(FakeMeter):
    """A meter that has read so many kWh after each window."""

    def __init__(self, readings, so_far_kwh):
        super().__init__(readings)
        self._so_far = iter(so_far_kwh)

    def reading_so_far(self, _window):
        return reading(cpu_joules=next(self._so_far) * KWH)


def run_windows(meter, num_windows, **options):
    """Marks windows of one unit; returns how many the loop got through, and the finished run."""
    done = 0
    try:
        with mlflow.start_run() as run, track(meter=meter, **SWEDEN, **options) as tracker:
            for _ in range(num_windows):
                with tracker.window():
                    pass
                done += 1
    except CarbonBudgetError:
        pass
    return done, MlflowClient().get_run(run.info.run_id)


def points(run, key):
    history = MlflowClient().get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in history]


def test_forecast_is_a_series_that_ends_in_what_was_spent(store):
    _, run = run_windows(meter_of(9, 10, 11, 10), 4, total_units=4)
    # after two: 19 spent, mean 9.5, two left: 38; after three: 30 + 10; after four: 40; × 7 g/kWh
    assert points(run, "carbon/forecast_co2e_g") == [
        (2, pytest.approx(38 * 7)),
        (3, pytest.approx(280)),
        (4, pytest.approx(280)),
    ]
    assert run.data.tags["carbon.forecast_interval_g"] == "280 to 280"  # nothing is left to do


def test_interval_of_the_forecast_is_a_tag(store):
    with mlflow.start_run() as run, track(meter=meter_of(9, 10, 11), total_units=4, **SWEDEN) as it:
        for _ in range(3):
            with it.window():
                pass
    tags = MlflowClient().get_run(run.info.run_id).data.tags
    # one left after three: t(0.975, 2) · 1 · √(1/3 + 1) = 4.3027 · 1.1547 = 4.968 kWh, 34.78 g
    low_g, high_g = tags["carbon.forecast_interval_g"].split(" to ")
    assert float(high_g) == pytest.approx(314.78, abs=0.01)
    assert float(low_g) == pytest.approx(245.22, abs=0.01)


def test_gaps_between_windows_count(store):
    readings = [reading(cpu_joules=kwh * KWH) for kwh in (10, 10, 10, 39)]
    # 5 kWh before the first window, which are spent once; then 2 before each: 12 a unit
    meter = MeterWithGaps(readings, [15, 27, 39])
    _, run = run_windows(meter, 3, total_units=3)
    # after two: 27 + (10 + 12) / 2
    assert points(run, keys.FORECAST_CO2E_G) == [
        (2, pytest.approx(38 * 7)),  # 7 g/kWh
        (3, pytest.approx(39 * 7)),
    ]


def test_items_with_a_length_tell_the_total(store):
    with mlflow.start_run() as run, track(meter=meter_of(4, 6, 5), **SWEDEN) as tracker:
        list(tracker.windows(range(5), units_per_window=2))
    # windows of 2, 2 and 1 units; after two 10 kWh, one unit left of 2.5
    assert points(run, keys.FORECAST_CO2E_G)[0] == (2, pytest.approx(12.5 * 7))


def test_items_without_a_length_are_no_forecast_and_no_error(store):
    class Endless:
        def __len__(self):
            raise NotImplementedError

        def __iter__(self):
            return iter("abc")

    with mlflow.start_run() as run, track(meter=meter_of(1, 1, 1, 1), **SWEDEN) as tracker:
        assert list(tracker.windows(Endless())) == ["a", "b", "c"]
    assert points(run, keys.FORECAST_CO2E_G) == []


def test_more_units_than_foretold_end_the_forecast(store):
    _, run = run_windows(meter_of(1, 1, 1, 1), 4, total_units=2.5)
    assert [step for step, _ in points(run, keys.FORECAST_CO2E_G)] == [2]


# 7 g a kWh: a budget of 0.35 kg are 50 kWh. The dearest of these windows costs 11 kWh: after four
# 40.5 + 11 > 50.
UNEVEN = (9, 11, 10, 10.5, 9.5, 10, 11, 9, 10, 10)


def test_stop_raises_in_the_users_loop_before_the_budget_is_exceeded(store):
    done, run = run_windows(
        meter_of(*UNEVEN[:4]), 10, total_units=10, carbon_budget_kg=0.35, on_budget="stop"
    )
    assert done == 4
    assert run.info.status == "FAILED"
    # the totals are kept, and keep the budget
    assert run.data.metrics[keys.CO2E_G] == pytest.approx(40.5 * 7)
    assert run.data.tags[keys.TAG_BUDGET_KG] == "0.35"
    assert run.data.tags[keys.TAG_BUDGET_STATE] == "within"


def test_stop_raises_instead_of_an_item_and_says_why(store):
    seen = []
    with pytest.raises(CarbonBudgetError) as caught:
        with track(
            meter=meter_of(*UNEVEN[:4]), carbon_budget_kg=0.35, on_budget="stop", **SWEDEN
        ) as tracker:
            for item in tracker.windows(range(10)):
                seen.append(item)
    assert seen == [0, 1, 2, 3]
    # 40.5 / 4 × 10 × 7 g; s = 0.854: 3.1824 · 0.854 · √(6²/4 + 6) = 10.5 kWh more at most
    assert str(caught.value) == (
        "0.283 kg CO2e of a budget of 0.35 kg are spent; 0.709 kg expected in all, at most "
        "0.782 kg. The next window may exceed it. Raise carbon_budget_kg, or pass on_budget='warn'."
    )


def test_loop_that_is_over_is_not_stopped(store):
    items = (item for item in range(4))  # says nothing of its length
    with track(
        meter=meter_of(*UNEVEN[:4]), carbon_budget_kg=0.35, on_budget="stop", **SWEDEN
    ) as tracker:
        assert list(tracker.windows(items)) == [0, 1, 2, 3]


def test_error_of_the_block_is_not_replaced_by_the_budgets(store):
    options = {"carbon_budget_kg": 0.01, "on_budget": "stop"}
    with pytest.raises(ZeroDivisionError), track(meter=meter_of(9), **options, **SWEDEN) as tracker:
        with tracker.window():
            raise ZeroDivisionError


def test_default_warns_once_for_each_state_and_goes_on(store, caplog):
    caplog.set_level("WARNING", logger="mlflow.carbon")
    done, run = run_windows(meter_of(*UNEVEN), 10, total_units=10, carbon_budget_kg=0.35)
    assert done == 10
    assert run.data.tags[keys.TAG_BUDGET_STATE] == "exceeded"
    warnings = [record.getMessage() for record in caplog.records if "budget" in record.getMessage()]
    # will exceed after two; the fifth may exceed; exceeded by the sixth (after five: 50 kWh)
    assert [warning.partition(": ")[2][:38] for warning in warnings] == [
        "0.14 kg CO2e of a budget of 0.35 kg ar",
        "0.283 kg CO2e of a budget of 0.35 kg a",
        "0.42 kg CO2e of a budget of 0.35 kg ar",
    ]


def test_function_is_called_with_each_new_verdict_and_may_raise(store):
    states = []

    def stop_early(verdict):
        states.append(verdict.state)
        if verdict.state == "will_exceed":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_windows(
            meter_of(9, 11), 10, total_units=10, carbon_budget_kg=0.35, on_budget=stop_early
        )
    assert states == ["at_risk", "will_exceed"]


def test_budget_that_is_kept_says_so_quietly(store, caplog):
    caplog.set_level("WARNING", logger="mlflow.carbon")
    _, run = run_windows(meter_of(1, 1, 1), 3, total_units=3, carbon_budget_kg=10)
    assert run.data.tags[keys.TAG_BUDGET_STATE] == "within"
    assert "budget" not in caplog.text


def test_unmarked_minutes_are_judged_too(store, caplog):
    caplog.set_level("WARNING", logger="mlflow.carbon")
    meter = FakeMeter([reading(cpu_joules=9 * KWH)])
    with track(meter=meter, carbon_budget_kg=0.06, **SWEDEN):
        meter.on_minute(reading(cpu_joules=5 * KWH, duration_s=60))
    # 5 kWh are 35 g of 60 g; another such minute may be 70 g
    assert "0.07 kg after another window as dear as the dearest" in caplog.text


def test_no_plan_asks_the_meter_once_a_window_and_foretells_nothing(store):
    meter = MeterWithGaps([reading(cpu_joules=KWH)] * 3, [1, 2])  # would raise if asked more often
    done, run = run_windows(meter, 2)
    assert done == 2
    assert points(run, keys.FORECAST_CO2E_G) == []
    assert keys.TAG_BUDGET_KG not in run.data.tags


def test_block_inside_a_tracked_run_keeps_the_runs_budget(store):
    readings = [reading(cpu_joules=9 * KWH), reading(cpu_joules=9 * KWH)]
    with pytest.raises(CarbonBudgetError), mlflow.start_run():
        with track(meter=FakeMeter(readings), carbon_budget_kg=0.1, on_budget="stop", **SWEDEN):
            with track() as inner:
                for _ in inner.windows(range(3)):
                    pass


def test_block_inside_a_tracked_run_may_bring_a_budget(store):
    with mlflow.start_run(), track(meter=meter_of(9, 9), **SWEDEN):
        with track(carbon_budget_kg=0.1, on_budget="stop") as inner:
            with pytest.raises(CarbonBudgetError):
                list(inner.windows(range(3)))


def test_earlier_part_of_a_resumed_run_counts(store):
    with mlflow.start_run() as run, track(meter=meter_of(30), **SWEDEN) as tracker:
        with tracker.window():
            pass
    done = []
    # 50 kWh in all: after 30 + 9 + 9 another 9 may be too much
    options = {"carbon_budget_kg": 0.35, "on_budget": "stop"}
    with pytest.raises(CarbonBudgetError), mlflow.start_run(run_id=run.info.run_id):
        with track(meter=meter_of(9, 9), **options, **SWEDEN) as tracker:
            for item in tracker.windows(range(10)):
                done.append(item)
    assert done == [0, 1]


def live_of(energies_kwh, *, total_units, budget_kwh):
    """The forecast after windows of one unit and these energies, at 1000 g/kWh."""
    live = LiveForecast(CarbonPlan(total_units, budget_kg=budget_kwh))
    assumptions = replace(
        resolve_assumptions(**SWEDEN), intensity=given_intensity(1000, region="SE")
    )
    spent_kwh = 0.0
    for energy_kwh in energies_kwh:
        spent_kwh += energy_kwh
        record = Window.of(reading(cpu_joules=energy_kwh * KWH), 1, "iteration")
        live.add(record, is_planned=True, spent_kwh=spent_kwh, assumptions=assumptions)
    return live


@pytest.mark.parametrize(
    ("budget_kwh", "state"),
    [
        # 21 windows of 1 kWh, whose spread is computed, and one of 10, whose is not: 31 spent,
        # 8 left of mean 31/22: 42.3 expected; 41 after another window of 10
        (40.9, "stop_now"),
        (41.9, "will_exceed"),
        (100, "within"),
    ],
)
def test_mean_and_dearest_window_are_always_up_to_date(budget_kwh, state):
    live = live_of([1.0] * 21 + [10.0], total_units=30, budget_kwh=budget_kwh)
    assert live.verdict.state == state


def test_minutes_before_the_first_window_say_nothing_of_the_units():
    live = LiveForecast(CarbonPlan(total_units=3))
    assumptions = resolve_assumptions(**SWEDEN)
    minute = Window.of(reading(cpu_joules=100 * KWH), 1, "iteration")
    live.add(minute, is_planned=False, spent_kwh=100.0, assumptions=assumptions)
    unit = Window.of(reading(cpu_joules=10 * KWH), 1, "iteration")
    live.add(unit, is_planned=True, spent_kwh=110.0, assumptions=assumptions)
    found = live.add(unit, is_planned=True, spent_kwh=120.0, assumptions=assumptions)
    # 120 spent and one unit of 10 left
    assert found.values[keys.FORECAST_CO2E_G] == pytest.approx(130 * 7)


def test_long_runs_compute_the_spread_seldom():
    live = LiveForecast(CarbonPlan(total_units=2000, budget_kg=1e9))
    assumptions = resolve_assumptions(**SWEDEN)
    record = Window.of(reading(cpu_joules=KWH), 1, "iteration")
    figures = [
        live.add(record, is_planned=True, spent_kwh=float(number), assumptions=assumptions)
        for number in range(1, 2001)
    ]
    computed = [number for number, found in enumerate(figures, start=1) if found.values]
    # each of the first 20, then every 5 % more: ln(2000 / 20) / ln(1.05) = 94
    assert computed[:19] == list(range(2, 21))
    assert 100 < len(computed) < 120
    assert computed[-1] == 2000
    assert figures[-1].values[keys.FORECAST_CO2E_G] == pytest.approx(2000 * 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"total_units": 0}, "total_units is 0;"),
        ({"total_units": math.nan}, "total_units is nan;"),
        ({"carbon_budget_kg": -1}, "carbon_budget_kg is -1;"),
        ({"carbon_budget_kg": math.inf}, "carbon_budget_kg is inf;"),
        ({"on_budget": "halt"}, "on_budget is 'halt'; use 'warn', 'stop' or a function."),
    ],
)
def test_bad_plan_is_told_before_the_block_starts(store, options, message):
    entered = False
    with pytest.raises(InvalidInputError) as caught, track(meter=FakeMeter([]), **options):
        entered = True
    assert message in str(caught.value)
    assert not entered
