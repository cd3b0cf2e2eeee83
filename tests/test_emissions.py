"""Eq. 1 and the spread of values, against hand computations and an independent implementation."""

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_carbon.accounting.emissions import (
    co2e_g,
    facility_energy_kwh,
    mean_std,
    pooled_std,
    validate_pue,
)
from mlflow_carbon.errors import InvalidInputError

energies = st.floats(min_value=0, max_value=1e6)
intensities = st.floats(min_value=0, max_value=1500)
pues = st.floats(min_value=1, max_value=3)


def test_paper_volume_costs_what_the_paper_says():
    # 931.2 kWh of IT energy for 10,000 volumes, PUE 1.55, 251 g/kWh: 362.3 kg (paper, 3.1)
    assert co2e_g(931.24, pue=1.55, intensity_g_per_kwh=251) / 1000 == pytest.approx(
        362.3, abs=0.05
    )


@given(energies, pues, intensities)
def test_double_intensity_is_double_co2e(energy_kwh, pue, g_per_kwh):
    once = co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh)
    assert co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=2 * g_per_kwh) == pytest.approx(2 * once)


@given(energies, energies, pues, intensities)
def test_co2e_of_two_parts_is_that_of_the_whole(first_kwh, second_kwh, pue, g_per_kwh):
    parts = [co2e_g(kwh, pue=pue, intensity_g_per_kwh=g_per_kwh) for kwh in (first_kwh, second_kwh)]
    whole = co2e_g(first_kwh + second_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh)
    assert whole == pytest.approx(sum(parts))


def test_facility_energy_is_never_less_than_it_energy():
    assert facility_energy_kwh(2.0, 1.0) == 2.0
    assert facility_energy_kwh(2.0, 1.5) == 3.0


@given(st.lists(st.floats(min_value=-1e6, max_value=1e6), min_size=2, max_size=50))
def test_mean_and_std_agree_with_the_standard_library(values):
    found = mean_std(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert found.std == pytest.approx(statistics.stdev(values), abs=1e-6)


def test_one_value_has_no_spread():
    assert mean_std([3.0]).std is None


def test_pooled_std_weighs_by_degrees_of_freedom():
    # variances 4 (df 2) and 1 (df 1): (2*4 + 1*1) / 3 = 3
    assert pooled_std([2.0, 1.0], [3, 2]) == pytest.approx(math.sqrt(3))
    assert pooled_std([0.0], [1]) is None


@pytest.mark.parametrize(
    ("energy_kwh", "pue", "g_per_kwh", "message"),
    [
        (-1, 1.5, 100, "energy_kwh is -1"),
        (math.nan, 1.5, 100, "energy_kwh is nan"),
        (math.inf, 1.5, 100, "energy_kwh is inf"),
        (1, 0.9, 100, "PUE is 0.9"),
        (1, 3.1, 100, "PUE is 3.1"),
        (1, math.nan, 100, "PUE is nan"),
        (1, 1.5, -1, "intensity_g_per_kwh is -1"),
        (1, 1.5, math.nan, "intensity_g_per_kwh is nan"),
    ],
)
def test_bad_factor_is_refused_by_name(energy_kwh, pue, g_per_kwh, message):
    with pytest.raises(InvalidInputError, match=message):
        co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh)


def test_no_value_has_no_mean():
    with pytest.raises(InvalidInputError, match="no value"):
        mean_std([])


@pytest.mark.parametrize("pue", [1.0, 1.55, 3.0])
def test_pue_between_one_and_three_is_taken(pue):
    assert validate_pue(pue) == pue
