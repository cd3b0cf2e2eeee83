"""The exponent of energy over size: against hand computations and scipy."""

import numpy as np
import pytest
from scipy import stats

from mlflow_carbon.accounting.power_law import fit_power_law
from mlflow_carbon.errors import InvalidInputError


def test_two_points_give_the_exponent_between_them_without_an_interval():
    # 4 times the voxels, 2 times the energy: half a power
    law = fit_power_law([(100, 3.0), (400, 6.0)])
    assert law.exponent.value == pytest.approx(0.5)
    assert (law.exponent.low, law.exponent.high, law.num_points) == (None, None, 2)


def test_fit_and_its_interval_agree_with_scipy():
    points = [(64, 1.0), (128, 1.9), (256, 2.7), (512, 6.1)]
    law = fit_power_law(points)
    line = stats.linregress(*np.log(np.array(points)).T)
    margin = stats.t.ppf(0.975, 2) * line.stderr
    assert law.exponent.value == pytest.approx(line.slope)
    assert law.exponent.low == pytest.approx(line.slope - margin)
    assert law.exponent.high == pytest.approx(line.slope + margin)


def test_points_on_the_line_have_no_interval():
    law = fit_power_law([(x, 7 * x**1.06) for x in (10, 100, 1000)])
    assert law.exponent.value == pytest.approx(1.06)
    assert law.exponent.low is None


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([(64, 1.0), (64, 2.0)], "needs two sizes or more"),
        ([(64, 1.0)], "needs two sizes or more"),
        ([(64, 1.0), (128, 0.0)], "needs sizes and energies above 0"),
    ],
)
def test_figures_without_an_exponent_are_refused(points, message):
    with pytest.raises(InvalidInputError, match=message):
        fit_power_law(points)
