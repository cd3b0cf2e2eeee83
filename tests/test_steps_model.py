"""The line of energy over steps: against hand computations, scipy, and the paper's proportion."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.interval_coverage import steps_coverage_fractions
from mlflow_carbon.accounting.steps_model import StepsPoint, fit_steps, proportional_saving_fraction


def points_of(*pairs):
    return [StepsPoint(num_steps, energy_kwh) for num_steps, energy_kwh in pairs]


def test_two_runs_give_the_line_through_them_without_an_interval():
    # 30 at 100 steps, 120 at 1000: 0.1 a step, 20 fixed; 200 steps: 40, a saving of 2/3
    model = fit_steps(points_of((100, 30), (1000, 120)))
    assert model.step_kwh.value == pytest.approx(0.1)
    assert model.fixed_kwh.value == pytest.approx(20)
    assert model.energy_kwh(200) == pytest.approx(40)
    saving = model.saving_fraction(1000, 200)
    assert saving.value == pytest.approx(2 / 3)
    assert (saving.low, saving.high, model.fixed_kwh.low, model.step_kwh.high) == (None,) * 4


def test_fit_and_its_intervals_agree_with_scipy():
    pairs = [(20, 3.1), (50, 4.0), (50, 3.7), (200, 11.2), (1000, 50.9), (1000, 51.6)]
    model = fit_steps(points_of(*pairs))
    reference = stats.linregress(*zip(*pairs, strict=True))
    quantile = stats.t.ppf(0.975, len(pairs) - 2)
    for estimate, value, error in (
        (model.step_kwh, reference.slope, reference.stderr),
        (model.fixed_kwh, reference.intercept, reference.intercept_stderr),
    ):
        assert estimate.value == pytest.approx(value)
        assert estimate.low == pytest.approx(value - quantile * error)
        assert estimate.high == pytest.approx(value + quantile * error)


def test_interval_of_the_saving_agrees_with_a_bootstrap_of_the_line():
    generator = np.random.default_rng(5)
    steps = np.repeat([20, 50, 200, 1000], 8)
    energies = 50 + steps + 5 * generator.standard_normal(len(steps))
    model = fit_steps(points_of(*zip(steps.tolist(), energies.tolist(), strict=True)))
    savings = []
    for _ in range(2000):
        noisy = 50 + steps + 5 * generator.standard_normal(len(steps))
        slope, intercept = np.polyfit(steps, noisy, 1)
        savings.append(1 - (intercept + 200 * slope) / (intercept + 1000 * slope))
    found = model.saving_fraction(1000, 200)
    # t(30) is 2.04, and the 5 of the noise is itself estimated from 32 runs (13 %)
    assert (found.high - found.low) / 2 == pytest.approx(2.04 * np.std(savings), rel=0.3)


@pytest.mark.parametrize("num_runs", [1, 3])
def test_intervals_hold_95_of_100_truths_when_all_runs_are_equally_exact(num_runs):
    held = steps_coverage_fractions(num_runs, is_proportional=False, num_repetitions=1500, seed=11)
    assert all(0.93 <= fraction <= 0.97 for fraction in held)


def test_without_fixed_cost_the_saving_is_the_papers():
    model = fit_steps(points_of((10, 10), (1000, 1000)))
    assert model.saving_fraction(1000, 200).value == pytest.approx(0.8)
    assert proportional_saving_fraction(1000, 200) == pytest.approx(0.8)


def test_a_fixed_cost_makes_the_saving_less_than_proportional():
    model = fit_steps(points_of((10, 60), (1000, 1050)))  # 50 + steps
    assert model.saving_fraction(1000, 200).value == pytest.approx(1 - 250 / 1050)


@given(
    st.floats(min_value=0, max_value=100),
    st.floats(min_value=0.001, max_value=10),
    st.lists(st.integers(min_value=1, max_value=1000), min_size=2, max_size=10, unique=True),
)
def test_an_exact_line_is_found_again(fixed_kwh, step_kwh, counts):
    model = fit_steps(points_of(*((steps, fixed_kwh + steps * step_kwh) for steps in counts)))
    assert model.fixed_kwh.value == pytest.approx(fixed_kwh, abs=1e-6)
    assert model.step_kwh.value == pytest.approx(step_kwh)
    assert model.step_counts == tuple(sorted(counts))


@pytest.mark.parametrize(
    "pairs",
    [
        [(50, 2.0), (50, 2.0), (200, 8.0)],  # two equal runs and one other
        [(10, 0.1), (20, 0.2), (30, 0.1 + 0.2)],  # on a line up to rounding
    ],
)
def test_runs_that_all_lie_on_the_line_give_no_interval(pairs):
    model = fit_steps(points_of(*pairs))
    assert model.is_exact
    assert (model.residual_std_kwh, model.covariance_kwh2) == (0.0, None)
    assert (model.step_kwh.low, model.fixed_kwh.high) == (None, None)
    assert model.saving_fraction(200, 50).low is None


def test_two_runs_are_not_told_to_lie_exactly_on_their_line():
    assert not fit_steps(points_of((100, 30), (1000, 120))).is_exact
