"""Rankings and best starts, the latter against brute force by the minute."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlflow_carbon.accounting.advice import best_start, rank
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, Slot, mean_g_per_kwh
from mlflow_carbon.grid.intensity import (
    given_intensity,
    latest_intensities,
    lookup_intensity,
    monthly_intensities,
)

HOUR_S = 3600.0


def series_of(values, *, holes=()):
    slots = [
        Slot(hour * HOUR_S, (hour + 1) * HOUR_S, value)
        for hour, value in enumerate(values)
        if hour not in holes
    ]
    return IntensitySeries(tuple(slots), "as given", "test")


def test_regions_are_ranked_from_best_to_worst():
    # 10 kWh × PUE 1.5 × g/kWh of Table 1: Sweden 7, Germany 366, Poland 666
    regions = [
        lookup_intensity(name, intensity_set="paper_table1") for name in ("Poland", "SE", "DEU")
    ]
    options = rank(10, regions, pue=1.5)
    assert [option.intensity.region for option in options] == ["SE", "DE", "PL"]
    assert [option.co2e_g for option in options] == pytest.approx([105, 5490, 9990])
    assert options[-1].ratio_to_best == pytest.approx(666 / 7)


def test_months_are_ranked():
    months = [month for month in monthly_intensities("DE") if month.period.startswith("2022")]
    options = rank(1, months, pue=1)
    assert (options[0].intensity.period, options[-1].intensity.period) == ("2022-02", "2022-03")
    assert options[-1].ratio_to_best == pytest.approx(460.25 / 313.5)


def test_every_region_of_a_set_can_be_ranked():
    options = rank(1, latest_intensities("ember"), pue=1)
    assert len(options) > 200
    assert len({option.intensity.region for option in options}) == len(options)


def test_nothing_is_times_zero():
    options = rank(1, [given_intensity(0, region="A"), given_intensity(5, region="B")], pue=1)
    assert [option.ratio_to_best for option in options] == [None, None]


def test_ranking_nothing_is_refused():
    with pytest.raises(InvalidInputError, match="no region or month to rank"):
        rank(1, [], pue=1)


def test_best_start_is_the_cheapest_two_hours():
    # 2 h from 0: (300 + 200) / 2 = 250; from 2: (100 + 50) / 2 = 75; from 3: (50 + 400) / 2
    series = series_of([300, 200, 100, 50, 400])
    found = best_start(series, now_s=0, duration_s=2 * HOUR_S, deadline_s=5 * HOUR_S)
    assert found.start_s == 2 * HOUR_S
    assert (found.g_per_kwh, found.g_per_kwh_now) == (75, 250)
    assert found.saving_fraction == pytest.approx(0.7)


def test_deadline_forbids_the_best_hours():
    series = series_of([300, 200, 100, 50, 400])
    found = best_start(series, now_s=0, duration_s=2 * HOUR_S, deadline_s=3.5 * HOUR_S)
    # the last start, 1.5 h: half of 200, all of 100, half of 50
    assert found.start_s == 1.5 * HOUR_S
    assert found.g_per_kwh == pytest.approx(112.5)


def test_equal_starts_mean_now():
    found = best_start(series_of([5] * 10), now_s=900, duration_s=HOUR_S, deadline_s=10 * HOUR_S)
    assert (found.start_s, found.saving_fraction) == (900, 0)


def test_starts_in_a_hole_are_passed_over():
    series = series_of([300, 200, 1, 100, 90], holes=(2,))
    found = best_start(series, now_s=0, duration_s=HOUR_S, deadline_s=5 * HOUR_S)
    assert found.start_s == 4 * HOUR_S


@settings(deadline=None)
@given(
    st.lists(st.integers(min_value=0, max_value=900), min_size=6, max_size=24),
    st.integers(min_value=0, max_value=120),
    st.integers(min_value=1, max_value=200),
    st.integers(min_value=0, max_value=400),
)
def test_best_start_agrees_with_brute_force(values, now_min, duration_min, slack_min):
    series = series_of(values)
    end_s = series.slots[-1].end_s
    now_s, duration_s = 60.0 * now_min, 60.0 * duration_min
    deadline_s = min(now_s + duration_s + 60 * slack_min, end_s)
    if now_s + duration_s > deadline_s:
        return
    found = best_start(series, now_s=now_s, duration_s=duration_s, deadline_s=deadline_s)
    num_starts = int((deadline_s - duration_s - now_s) // 60) + 1
    brute = min(
        mean_g_per_kwh(series, now_s + 60 * minute, now_s + 60 * minute + duration_s)
        for minute in range(num_starts)
    )
    # slot edges lie on whole minutes, so brute force meets the optimum
    assert found.g_per_kwh == pytest.approx(brute)
    assert now_s <= found.start_s <= deadline_s - duration_s


@pytest.mark.parametrize(
    ("duration_s", "deadline_s", "error", "message"),
    [
        (0, HOUR_S, InvalidInputError, "duration_s is 0"),
        (2 * HOUR_S, HOUR_S, InvalidInputError, "ends 3600 s after the deadline"),
        (9 * HOUR_S, 20 * HOUR_S, NoIntensityError, "nothing for 1970-01-01T03:00Z"),
    ],
)
def test_run_that_does_not_fit_is_refused(duration_s, deadline_s, error, message):
    with pytest.raises(error, match=message):
        best_start(series_of([1, 2, 3]), now_s=0, duration_s=duration_s, deadline_s=deadline_s)
