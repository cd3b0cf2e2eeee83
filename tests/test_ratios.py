"""Ratios of two means: their interval, Welch's test, Holm's correction, effect sizes."""

import math

import numpy as np
import pytest
from scipy import stats

from mlflow_carbon.accounting.emissions import MeanStd, mean_std
from mlflow_carbon.accounting.ratios import hedges_g, holm, ratio_of_means, welch_p_value

ONE = mean_std([4.0, 5.0, 6.0, 5.5])
OTHER = mean_std([9.0, 11.0, 10.0])


def test_interval_ends_where_welchs_test_cannot_tell_the_means_apart():
    ratio = ratio_of_means(ONE, OTHER)
    assert ratio.value == pytest.approx(5.125 / 10.0)
    error, other_error = ONE.std**2 / ONE.n, OTHER.std**2 / OTHER.n
    squared = (error, ratio.value**2 * other_error)
    degrees = sum(squared) ** 2 / (squared[0] ** 2 / 3 + squared[1] ** 2 / 2)
    for bound in (ratio.low, ratio.high):
        t = abs(ONE.mean - bound * OTHER.mean) / math.sqrt(error + bound**2 * other_error)
        assert t == pytest.approx(stats.t.ppf(0.975, degrees))
    assert ratio.low < ratio.value < ratio.high


def test_interval_covers_the_true_ratio_as_often_as_it_says():
    rng = np.random.default_rng(7)
    num_covered = 0
    for _ in range(2000):
        above = mean_std(rng.normal(2.0, 0.2, 4))
        below = mean_std(rng.normal(10.0, 1.5, 6))
        ratio = ratio_of_means(above, below)
        num_covered += ratio.low <= 0.2 <= ratio.high
    # 95 %; the std of the share over 2000 is 0.5 %
    assert 0.93 <= num_covered / 2000 <= 0.97


@pytest.mark.parametrize(
    ("above", "below"),
    [
        (MeanStd(5.0, None, 1), OTHER),
        (ONE, MeanStd(10.0, None, 1)),
        (MeanStd(5.0, 0.0, 3), MeanStd(10.0, 0.0, 3)),
        (MeanStd(5.0, 1.0, 3), MeanStd(10.0, 90.0, 3)),  # the denominator may be 0
    ],
)
def test_ratio_has_no_interval_where_the_values_do_not_tell_it(above, below):
    ratio = ratio_of_means(above, below)
    assert ratio.value == pytest.approx(above.mean / below.mean)
    assert (ratio.low, ratio.high) == (None, None)


def test_nothing_is_no_denominator():
    assert ratio_of_means(ONE, MeanStd(0.0, 0.0, 3)) is None


def test_p_value_is_scipys_of_the_values_themselves():
    values, others = [4.0, 5.0, 6.0, 5.5], [9.0, 11.0, 10.0]
    expected = stats.ttest_ind(values, others, equal_var=False).pvalue
    assert welch_p_value(ONE, OTHER) == pytest.approx(expected)
    assert welch_p_value(ONE, MeanStd(9.0, None, 1)) is None


def test_holm_multiplies_the_least_by_all_and_never_falls():
    # 3 x 0.01 = 0.03; 2 x 0.02 = 0.04; 1 x 0.03 = 0.03, but not below the one before
    assert holm([0.03, 0.01, None, 0.02]) == [
        pytest.approx(0.04),
        pytest.approx(0.03),
        None,
        pytest.approx(0.04),
    ]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_effect_size_is_in_units_of_the_std():
    # (2 - 1) / sqrt((0.5² + 0.5²) / 2) = 2; x (1 - 3 / (4 x 10 - 9)) = 28/31
    g = hedges_g(MeanStd(2.0, 0.5, 5), MeanStd(1.0, 0.5, 5))
    assert g == pytest.approx(2 * 28 / 31)
    assert hedges_g(MeanStd(2.0, None, 1), ONE) is None
