"""A run's curves: windows that are written as points are read as windows, gaps or not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import Window, WindowColumns
from mlflow_carbon.recording.run_curves import RunCurves

START_S = 1_700_000_000.0
SWEDEN = resolve_assumptions(region="Sweden", intensity_set="paper_table1", pue=2.0)
KEYS = (keys.ENERGY_KWH, keys.CO2E_G, keys.POWER_W, "carbon/co2e_g_per_sample")

energies_kwh = st.floats(1e-9, 1.0)
gaps = st.tuples(st.sampled_from([0.0, 0.0, 1e-4, 5.0]), st.floats(0, 1e-3))  # in s, in kWh
steps = st.lists(
    st.tuples(energies_kwh, st.floats(0.01, 100.0), st.integers(1, 1000), gaps), max_size=30
)


def written(parts, *, is_node=False, spent_kwh=0.0, unit="sample"):
    """Writes windows one by one; returns them by step, and the points by metric."""
    curves, columns = RunCurves(spent_kwh=spent_kwh, is_node=is_node), WindowColumns()
    windows, histories, now_s = {}, {}, START_S
    for step, (energy_kwh, duration_s, num_units, (gap_s, gap_kwh)) in enumerate(parts, start=1):
        now_s += gap_s + duration_s
        spent_kwh += energy_kwh + (gap_kwh if gap_s else 0.0)
        window = Window(now_s, duration_s, energy_kwh, {}, float(num_units), unit)
        windows[step] = window
        columns.append(window)
        values, points = curves.add(
            window,
            step=step,
            end_unix_s=now_s,
            so_far=Total(1.0, spent_kwh),
            windows=columns,
            assumptions=SWEDEN,
            has_forecast=False,
        )
        for point in points:
            made = Metric(point.key, point.value, point.timestamp_ms, point.step)
            histories.setdefault(point.key, []).append(made)
        for key, value in values.items():
            histories.setdefault(key, []).append(Metric(key, value, round(now_s * 1000), step))
    return windows, histories


def tags_of(unit="sample"):
    return {keys.TAG_SCHEMA: "2", keys.TAG_UNIT: unit, **SWEDEN.tags()}


@pytest.mark.slow
@given(parts=steps, is_node=st.booleans(), earlier_kwh=st.sampled_from([0.0, 3.0]))
@settings(max_examples=100, deadline=None)
def test_windows_that_are_written_to_the_curves_are_read_as_they_were(parts, is_node, earlier_kwh):
    windows, histories = written(parts, is_node=is_node, spent_kwh=earlier_kwh)
    read = RunRecord.parse("1", {}, tags_of(), histories).windows
    assert read.keys() == windows.keys()
    for step, window in windows.items():
        assert read[step].num_units == pytest.approx(window.num_units, rel=1e-3)
        assert read[step].energy_kwh == pytest.approx(window.energy_kwh, rel=1e-4, abs=1e-14)
        assert read[step].power_w == pytest.approx(window.power_w, rel=1e-9)
        assert read[step].duration_s == pytest.approx(window.duration_s, rel=1e-4)
        assert read[step].end_unix_s == pytest.approx(window.end_unix_s, abs=0.001)
        assert read[step].unit == "sample"


def test_whole_numbers_of_units_are_read_exactly():
    parts = [(1e-5 * (1 + k % 3), 0.5, 8 if k % 10 else 3, (1e-4, 1e-7)) for k in range(5000)]
    windows, histories = written(parts)
    read = RunRecord.parse("1", {}, tags_of(), histories).windows
    assert [w.num_units for w in read.values()] == [w.num_units for w in windows.values()]


def test_minutes_need_no_curve_of_their_own():
    parts = [(1e-3, 60.0, 1, (0.0, 0.0)), (2e-3, 60.0, 1, (0.0, 0.0))]
    _, histories = written(parts, unit="minute")
    assert set(histories) == {keys.ENERGY_KWH, keys.CO2E_G, keys.POWER_W}
    read = RunRecord.parse("1", {}, tags_of("minute"), histories).windows
    assert [w.num_units for w in read.values()] == pytest.approx([1.0, 1.0])


def test_energy_never_falls_along_the_curve():
    parts = [(1e-3, 1.0, 4, (0.0, 0.0)), (1e-3, 1.0, 4, (5.0, 1e-4)), (1e-3, 1.0, 4, (0.0, 0.0))]
    _, histories = written(parts)
    points = histories[keys.ENERGY_KWH]
    assert [point.step for point in points] == [0, 1, 1, 2, 3]
    assert [point.value for point in points] == pytest.approx([0, 1e-3, 1.1e-3, 2.1e-3, 3.1e-3])
    stamps = [point.timestamp for point in points]
    assert stamps == sorted(stamps)


def test_curves_begin_before_the_first_window_and_each_window_is_a_slope():
    _, histories = written([(1e-3, 1.0, 4, (5.0, 1e-4)), (1e-3, 1.0, 4, (0.0, 0.0))])
    for key, factor in ((keys.ENERGY_KWH, 1.0), (keys.CO2E_G, SWEDEN.g_per_kwh)):
        points = histories[key]
        assert [point.step for point in points] == [0, 1, 2]
        expected = [factor * kwh for kwh in (1e-4, 1.1e-3, 2.1e-3)]
        assert [point.value for point in points] == pytest.approx(expected)


@pytest.mark.slow
@given(parts=steps, is_node=st.booleans())
@settings(max_examples=50, deadline=None)
def test_curves_whose_windows_start_at_their_own_step_are_read_alike(parts, is_node):
    """Runs of earlier releases have the start of a window at the step of its end."""
    _, histories = written(parts, is_node=is_node)
    ends = {(it.step, it.timestamp) for it in histories.get(keys.POWER_W, ())}
    earlier = {
        key: [
            it
            if (it.step, it.timestamp) in ends and it.step > 0
            else Metric(it.key, it.value, it.timestamp, it.step + 1)
            for it in points
        ]
        for key, points in histories.items()
    }
    read, of_earlier = (
        RunRecord.parse("1", {}, tags_of(), found).windows for found in (histories, earlier)
    )
    assert read.keys() == of_earlier.keys()
    for step, window in read.items():
        assert of_earlier[step].energy_kwh == pytest.approx(window.energy_kwh, rel=1e-9)
        assert of_earlier[step].num_units == window.num_units


def test_total_at_the_time_of_the_last_window_is_no_part_of_it():
    _, histories = written([(1e-3, 1.0, 4, (0.0, 0.0))])
    last = histories[keys.ENERGY_KWH][-1]
    histories[keys.ENERGY_KWH].append(Metric(keys.ENERGY_KWH, 0.5, last.timestamp, 1))
    (window,) = RunRecord.parse("1", {}, tags_of(), histories).windows.values()
    assert (window.energy_kwh, window.num_units) == (pytest.approx(1e-3), 4)


def test_window_without_energy_is_counted_with_the_next():
    parts = [(0.0, 1.0, 4, (0.0, 0.0)), (1e-3, 1.0, 4, (0.0, 0.0))]
    _, histories = written(parts)
    (window,) = RunRecord.parse("1", {}, tags_of(), histories).windows.values()
    assert (window.energy_kwh, window.num_units) == (pytest.approx(1e-3), 8)


def test_total_of_a_run_that_goes_on_is_a_lower_bound():
    so_far = RunRecord("1", so_far=Total(3.0, 2.0, 0.5, {"cpu": 2.0}), total_end_ms=7)
    tags = tags_of() | so_far.total_tags()
    read = RunRecord.parse("1", {keys.ENERGY_KWH: 2.0, keys.CO2E_G: 28.0}, tags)
    assert (read.total, read.co2e_g) == (None, None)
    bound = read.or_lower_bound()
    assert bound.is_partial
    assert (bound.total, bound.total_end_ms) == (so_far.so_far, 7)
    assert bound.co2e_g == 28.0  # 2 kWh × 14 g/kWh
