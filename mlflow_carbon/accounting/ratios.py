"""The ratio of two means with its interval, and whether they differ: from n, mean and std alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

from mlflow_carbon.accounting.emissions import MeanStd
from mlflow_carbon.accounting.uncertainty import DEFAULT_CONFIDENCE_FRACTION

_NO_SPREAD = 1e-18  # a squared error of rounding


@dataclass(frozen=True)
class Ratio:
    """One mean over another; no bounds where the values do not tell them."""

    value: float
    low: float | None = None
    high: float | None = None


def ratio_of_means(
    numerator: MeanStd,
    denominator: MeanStd,
    *,
    confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION,
) -> Ratio | None:
    """Returns the ratio of two independent means above 0, with Fieller's interval.

    The interval holds every r for which Welch's t-test would not tell the numerator's mean from r
    times the denominator's, with the degrees of freedom at the ratio itself (Welch-Satterthwaite).

    Args:
        numerator: above the fraction.
        denominator: below it.
        confidence_fraction: of the interval.

    Returns:
        ``None`` where the denominator is 0. Without bounds where one side has one value, where
        neither has any spread, or where the denominator may be 0 by its own spread.

    Source: Fieller, J. R. Stat. Soc. B 16 (1954), 175; Satterthwaite, Biometrics 2 (1946), 110.
    """
    if denominator.mean <= 0:
        return None
    ratio = numerator.mean / denominator.mean
    above, below = _squared_error(numerator), _squared_error(denominator)
    if above is None or below is None or above + below == 0:
        return Ratio(ratio)
    quantile = _quantile(
        (above, numerator.n), (ratio**2 * below, denominator.n), confidence_fraction
    )
    # (below the fraction)² r² - 2 above x below r + above², each less its own t² x squared error
    quadratic = denominator.mean**2 - quantile**2 * below
    if quadratic <= 0:
        return Ratio(ratio)
    linear = numerator.mean * denominator.mean
    constant = numerator.mean**2 - quantile**2 * above
    root = math.sqrt(max(linear**2 - quadratic * constant, 0.0))
    return Ratio(ratio, max((linear - root) / quadratic, 0.0), (linear + root) / quadratic)


def difference_of_means(
    one: MeanStd,
    other: MeanStd,
    *,
    confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION,
) -> tuple[float, float] | None:
    """Returns low and high of one mean less another, by Welch's t.

    Returns:
        ``None`` where one side has one value, or neither has any spread.
    """
    errors = _squared_error(one), _squared_error(other)
    if errors[0] is None or errors[1] is None or errors[0] + errors[1] <= _NO_SPREAD:
        return None
    quantile = _quantile((errors[0], one.n), (errors[1], other.n), confidence_fraction)
    difference, margin = one.mean - other.mean, quantile * math.sqrt(errors[0] + errors[1])
    return difference - margin, difference + margin


def welch_p_value(one: MeanStd, other: MeanStd) -> float | None:
    """Returns the two-sided p-value of Welch's t-test that two means are equal.

    Returns:
        ``None`` where one side has one value, or neither has any spread.
    """
    from scipy.stats import ttest_ind_from_stats  # a second of imports

    if one.std is None or other.std is None or one.std + other.std == 0:
        return None
    tested = ttest_ind_from_stats(
        one.mean, one.std, one.n, other.mean, other.std, other.n, equal_var=False
    )
    return float(tested.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Returns p-values corrected for their number; ``None`` is not counted and stays.

    Source: Holm, Scand. J. Stat. 6 (1979), 65.
    """
    known = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, position) in enumerate(known):
        largest = max(largest, min((len(known) - rank) * p, 1.0))
        corrected[position] = largest
    return corrected


def hedges_g(one: MeanStd, other: MeanStd) -> float | None:
    """Returns the difference of two means in units of their std, corrected for few values.

    The std is the root of the mean of both variances, which need not be equal.

    Returns:
        ``None`` where one side has one value, or neither has any spread.

    Source: Hedges, J. Educ. Stat. 6 (1981), 107.
    """
    if one.std is None or other.std is None or one.std + other.std == 0:
        return None
    std = math.sqrt((one.std**2 + other.std**2) / 2)
    return (one.mean - other.mean) / std * (1 - 3 / (4 * (one.n + other.n) - 9))


def _squared_error(mean: MeanStd) -> float | None:
    return None if mean.std is None else mean.std**2 / mean.n


def _quantile(above: tuple[float, int], below: tuple[float, int], fraction: float) -> float:
    """Returns the quantile of t for two squared errors and the numbers of values behind them."""
    degrees = sum(error for error, _ in (above, below)) ** 2 / math.fsum(
        error**2 / (n - 1) for error, n in (above, below)
    )
    return float(stdtrit(degrees, 0.5 + fraction / 2))
