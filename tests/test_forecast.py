"""Forecasts against hand computations and the figures of the paper; budgets state by state."""

import csv
from importlib.resources import files

import pytest

from mlflow_carbon.accounting.forecast import (
    AT_RISK,
    EXCEEDED,
    STOP_NOW,
    WILL_EXCEED,
    WITHIN,
    forecast_energy,
    judge_budget,
    num_units_asked,
    price,
)
from mlflow_carbon.accounting.uncertainty import Stretch, unit_statistics


def statistics_of(*energies_kwh):
    return unit_statistics([Stretch(energy_kwh, 1.0) for energy_kwh in energies_kwh])


def test_forecast_is_that_of_the_hand_computation():
    # mean 2, s = 1, n = 3; N = 9: 18 kWh, spread 9, t(0.975, 2) √(81/3 + 9) = 4.30265 · 6
    found = forecast_energy(statistics_of(1, 2, 3), 9)
    assert found.energy_kwh == 18
    assert found.spread_kwh == pytest.approx(9)
    assert found.interval.high_kwh == pytest.approx(18 + 25.8159, abs=1e-3)
    assert found.interval.low_kwh == 0  # 18 - 25.8 is no energy


def test_price_multiplies_every_figure_by_pue_and_intensity():
    # 18 kWh × 1.5 × 100 g/kWh = 2700 g; spread 9 kWh = 1350 g
    emissions = price(forecast_energy(statistics_of(1, 2, 3), 9), pue=1.5, intensity_g_per_kwh=100)
    assert emissions.co2e_g == pytest.approx(2700)
    assert emissions.spread_g == pytest.approx(1350)
    assert emissions.high_g == pytest.approx((18 + 25.8159) * 150, abs=0.2)
    assert emissions.low_g == 0


def test_own_total_is_certain_about_what_is_spent():
    # 7 kWh spent, gaps included; 9 units left of mean 2: 25, and the same width as without
    rest = forecast_energy(statistics_of(1, 2, 3), 9)
    total = forecast_energy(statistics_of(1, 2, 3), 9, spent_kwh=7)
    assert total.energy_kwh == 25
    assert total.interval.high_kwh == pytest.approx(rest.interval.high_kwh + 7)
    assert total.interval.low_kwh == 7
    assert total.spread_kwh == rest.spread_kwh


def test_forecast_of_one_window_has_no_interval():
    emissions = price(forecast_energy(statistics_of(2), 5), pue=1, intensity_g_per_kwh=10)
    assert emissions.co2e_g == 100
    assert (emissions.spread_g, emissions.low_g, emissions.high_g) == (None, None, None)


def paper_rows():
    text = (files("mlflow_carbon") / "data" / "paper_results.csv").read_text(encoding="utf-8")
    return [row for row in csv.DictReader(text.splitlines()) if row["kg_std"]]


@pytest.mark.parametrize("row", paper_rows(), ids=lambda row: row["id"])
def test_paper_is_reproduced_to_its_printed_digits(row):
    # 50 windows whose mean is the paper's energy per unit and whose std gives its ±
    per_unit_kwh = float(row["wh_it_per_unit"]) / 1000
    if row["N_epochs"]:
        per_unit_kwh *= float(row["N"]) / float(row["N_epochs"])  # its unit of training: an epoch
    num_units = float(row["N_epochs"] or row["N"])
    std_kwh = per_unit_kwh * float(row["kg_std"]) / float(row["kg_mean"])
    # 25 values below and 25 above by d have sample std d √(50/49)
    offset_kwh = std_kwh * (49 / 50) ** 0.5
    windows = [
        Stretch(per_unit_kwh + sign * offset_kwh, 1.0) for sign in (1, -1) for _ in range(25)
    ]
    emissions = price(
        forecast_energy(unit_statistics(windows), num_units), pue=1.55, intensity_g_per_kwh=251
    )
    decimals = max(len(row[name].partition(".")[2]) for name in ("kg_mean", "kg_std"))
    assert round(emissions.co2e_g / 1000, decimals) == float(row["kg_mean"])
    assert round(emissions.spread_g / 1000, decimals) == float(row["kg_std"])


@pytest.mark.parametrize(
    ("unit", "asked", "num_units"),
    [
        ("iteration", {"iterations": 150_000}, 150_000),
        ("sample", {"samples": 10_000}, 10_000),
        ("epoch", {"units": 50}, 50),
        ("sample", {"units": 10_000}, 10_000),
    ],
)
def test_units_are_asked_for_by_their_own_option(unit, asked, num_units):
    assert num_units_asked(unit, **asked) == num_units


def verdict(*energies_kwh, left, budget_kg, spent_kwh):
    return judge_budget(
        statistics_of(*energies_kwh),
        left,
        num_units_next=1,
        budget_kg=budget_kg,
        spent_kwh=spent_kwh,
        pue=1.0,
        intensity_g_per_kwh=1000.0,  # so that kWh are kg
    )


@pytest.mark.parametrize(
    ("left", "budget_kg", "spent_kwh", "state"),
    [
        # mean 10, s = 1, n = 3; 4 left: 40 ± 4.30 √(16/3 + 4) = 13.1; the dearest window: 11
        (4, 90, 30, WITHIN),  # 30 + 53.1 = 83.1
        (4, 80, 30, AT_RISK),  # 70 expected, 83.1 possible
        (4, 60, 30, WILL_EXCEED),  # 70 expected
        (4, 40.9, 30, STOP_NOW),  # the next window may end at 41
        (4, 41.1, 30, WILL_EXCEED),  # and is still under 41.1
        (0.5, 40.9, 30, WITHIN),  # the next window is the last, and half a one
        (4, 29, 30, EXCEEDED),
        (0, 31, 30, WITHIN),
        (0, 29, 30, EXCEEDED),
    ],
)
def test_budget_is_judged(left, budget_kg, spent_kwh, state):
    found = verdict(9, 10, 11, left=left, budget_kg=budget_kg, spent_kwh=spent_kwh)
    assert found.state == state


def test_verdict_says_what_is_spent_and_what_is_expected():
    found = verdict(9, 10, 11, left=4, budget_kg=60, spent_kwh=30)
    assert found.sentence == (
        "30 kg CO2e of a budget of 60 kg are spent; 70 kg expected in all, at most 83.1 kg."
    )


def test_one_slow_window_stops_no_run_that_has_room_for_another():
    # an interval from 10 and 1 would reach beyond 100
    assert verdict(10, 1, left=2, budget_kg=30, spent_kwh=11).state != STOP_NOW


def test_stopping_when_told_keeps_the_budget():
    spent_kwh, windows = 0.0, []
    for energy_kwh in (9.0, 11.0, 10.0, 10.5, 9.5, 10.0, 11.0, 9.0, 10.0, 10.0):
        windows.append(Stretch(energy_kwh, 1.0))
        spent_kwh += energy_kwh
        found = judge_budget(
            unit_statistics(windows),
            10 - len(windows),
            num_units_next=1,
            budget_kg=0.055,
            spent_kwh=spent_kwh,
            pue=1.0,
            intensity_g_per_kwh=1.0,
        )
        if found.state == STOP_NOW:
            break
    # the dearest window costs 11: after four 40.5 + 11 < 55, after five 50 + 11 > 55
    assert (len(windows), spent_kwh) == (5, 50.0)
