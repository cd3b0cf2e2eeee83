"""What ± can mean for a total of many units: the paper's spread, and a prediction interval."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, stdtrit

from mlflow_carbon.accounting.emissions import mean_std
from mlflow_carbon.errors import InvalidInputError

# docs/statistics.md: from 20 windows on, the corrected interval covers what it promises.
MAX_EXTRAPOLATION = 1e30  # times the units measured; squares of it stay finite
MIN_WINDOWS_FOR_CORRELATION = 20
# Below that number the correlation is uncertain, so only a share of its correction is applied:
# none at 3 windows, all from 10 on. Chosen by simulation: the coverage rises without a step.
_NUM_WINDOWS_UNHEEDED, _NUM_WINDOWS_HEEDED = 3, 10
MIN_DISTINCT_READINGS = 5
DEFAULT_CONFIDENCE_FRACTION = 0.95

INDEPENDENT = "prediction interval, windows taken as independent"
WIDENED = "prediction interval, widened for the autocorrelation of few windows"
CORRECTED = "prediction interval, corrected for autocorrelation"

_POWER_DIGITS = 6  # sensors tell mW; digits beyond these differ by rounding only
_MAX_AUTOCORRELATION = 0.95
_WANDERING_SIGNIFICANCE = 0.05  # of the test whether correlation outlasts the correction
_DIFFERENCE = 1e-4  # of the autocorrelation, for a numerical derivative


@dataclass(frozen=True)
class Stretch:
    """One measured stretch of work; ``power_w`` is its mean power, where known."""

    energy_kwh: float
    num_units: float
    power_w: float | None = None


@dataclass(frozen=True)
class UnitStatistics:
    """The energy of one unit of work, estimated from the windows of one run.

    Attributes:
        mean_kwh: energy of all windows over units of all windows (the run value).
        max_kwh: largest per-unit window value.
        std_kwh: sample std of the per-unit window values (``std_within``); ``None`` for one window.
        unit_variance_kwh2: variance of one unit, if windows are sums of independent units.
        num_windows: number of windows.
        num_units: units of all windows together.
        num_distinct_readings: different powers among the windows; ``None`` where no power is known.
        autocorrelation: of each window with the next, corrected for its bias; uncertain below
            ``MIN_WINDOWS_FOR_CORRELATION`` windows; ``None`` for three or fewer.
        effective_num_windows: number of independent windows that would determine the mean as
            well as these windows do.
        is_wandering: whether means of neighbouring windows differ more than ``autocorrelation``
            explains, so that power drifts and the interval is too narrow.
    """

    mean_kwh: float
    max_kwh: float
    std_kwh: float | None
    unit_variance_kwh2: float | None
    num_windows: int
    num_units: float
    num_distinct_readings: int | None
    autocorrelation: float | None
    effective_num_windows: float
    is_wandering: bool


@dataclass(frozen=True)
class Interval:
    """An interval in kWh that holds the truth with a stated probability; never below 0."""

    low_kwh: float
    high_kwh: float
    confidence_fraction: float
    method: str


def num_distinct_readings(powers_w: Iterable[float | None]) -> int | None:
    """Returns the number of different powers; ``None`` where no power is known."""
    distinct = {
        float(f"{power_w:.{_POWER_DIGITS}g}") for power_w in powers_w if power_w is not None
    }
    return len(distinct) or None


def unit_statistics(windows: Sequence[Stretch]) -> UnitStatistics:
    """Returns mean, spread and correlation of the energy per unit.

    Args:
        windows: in the order in which they were measured.

    Raises:
        InvalidInputError: there is no window, an energy is negative or not finite, or a window
            has no units.
    """
    _check(windows)
    energies_kwh = np.array([window.energy_kwh for window in windows])
    nums_units = np.array([window.num_units for window in windows])
    num_windows, num_units = len(windows), float(nums_units.sum())
    mean_kwh = float(energies_kwh.sum()) / num_units
    # A window of m units varies about m times as much as one unit: weighted least squares.
    residuals = (energies_kwh - mean_kwh * nums_units) / np.sqrt(nums_units)
    has_spread = num_windows > 1
    autocorrelation = None
    if num_windows > _NUM_WINDOWS_UNHEEDED:
        autocorrelation = _autocorrelation(residuals)
    return UnitStatistics(
        mean_kwh=mean_kwh,
        max_kwh=float((energies_kwh / nums_units).max()),
        std_kwh=mean_std(energies_kwh / nums_units).std,
        unit_variance_kwh2=float(residuals @ residuals) / (num_windows - 1) if has_spread else None,
        num_windows=num_windows,
        num_units=num_units,
        num_distinct_readings=num_distinct_readings(window.power_w for window in windows),
        autocorrelation=autocorrelation,
        effective_num_windows=_effective_num_windows(autocorrelation, num_windows),
        is_wandering=autocorrelation is not None
        and num_windows >= MIN_WINDOWS_FOR_CORRELATION
        and _is_wandering(residuals, autocorrelation),
    )


def spread_kwh(statistics: UnitStatistics, num_units: float) -> float | None:
    """Returns std × N, the standard deviation of N equal copies of one unit, in kWh.

    The paper prints this figure behind ±. The figure does not say how well the total is known:
    it would be the standard error only if all N units erred together.

    Returns:
        ``None`` for one window, which has no spread.

    Source: Seyfarth et al. 2024, arXiv:2407.14892, section 2.4; the printed figures show that
        the spread is linear in N, see docs/statistics.md.
    """
    _check_num_units(num_units)
    return None if statistics.std_kwh is None else statistics.std_kwh * num_units


def prediction_interval(
    statistics: UnitStatistics,
    num_units: float,
    *,
    confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION,
) -> Interval | None:
    """Returns the interval in which the energy of ``num_units`` future units will lie, in kWh.

    For independent windows the variance of the prediction error is s²(N²/M + N) with M measured
    units, and its ratio to the estimate follows t with n - 1 degrees of freedom. From
    ``MIN_WINDOWS_FOR_CORRELATION`` windows on, both terms are scaled as in a first-order
    autoregression of the windows, and the degrees of freedom allow for its having been estimated.
    With fewer windows the interval for independent windows is widened towards the scaled
    interval, never narrowed, by a share that grows from 0 at three windows to 1 at ten.

    Returns:
        ``None`` for one window, which says nothing about the next.

    Raises:
        InvalidInputError: ``num_units`` is not above zero and finite, or beyond what the windows
            can foretell, or the confidence is not between 0 and 1.

    Source: Hahn and Meeker 1991, Statistical Intervals, chapter 4 (independent windows);
        Kendall 1954, Biometrika 41:403 (bias of the autocorrelation). Coverage: docs/statistics.md.
    """
    _check_num_units(num_units)
    if not 0 < confidence_fraction < 1:
        raise InvalidInputError(
            f"confidence_fraction is {confidence_fraction}; give a number between 0 and 1."
        )
    if statistics.unit_variance_kwh2 is None:
        return None
    if num_units > MAX_EXTRAPOLATION * statistics.num_units:
        raise InvalidInputError(
            f"num_units is {num_units:g}, but the windows measured {statistics.num_units:g} in "
            f"all; they foretell no more than {MAX_EXTRAPOLATION:g} times that."
        )
    n, phi = statistics.num_windows, statistics.autocorrelation
    method = INDEPENDENT
    margin_kwh = _margin_kwh(statistics, num_units, confidence_fraction, phi=None)
    if phi is not None:
        corrected_kwh = _margin_kwh(statistics, num_units, confidence_fraction, phi=phi)
        if n >= MIN_WINDOWS_FOR_CORRELATION:
            margin_kwh, method = corrected_kwh, CORRECTED
        elif corrected_kwh > margin_kwh:
            margin_kwh += _heeded_fraction(n) * (corrected_kwh - margin_kwh)
            method = WIDENED
    total_kwh = statistics.mean_kwh * num_units
    return Interval(
        low_kwh=max(total_kwh - margin_kwh, 0.0),
        high_kwh=total_kwh + margin_kwh,
        confidence_fraction=confidence_fraction,
        method=method,
    )


def cautions(statistics: UnitStatistics, coverage_fraction: float | None = None) -> tuple[str, ...]:
    """Returns one sentence for each reason to distrust the figures; empty without any.

    Args:
        statistics: of the windows.
        coverage_fraction: share of the time observed by counters or samples, where known.
    """
    sentences = []
    n, num_distinct = statistics.num_windows, statistics.num_distinct_readings
    if n == 1:
        sentences.append("One window has no spread: measure at least two.")
    elif n < MIN_WINDOWS_FOR_CORRELATION:
        sentences.append(
            f"{_treatment(n)}: {n} are too few to tell ({MIN_WINDOWS_FOR_CORRELATION} are needed); "
            "if they are more alike, the interval is too narrow."
        )
    if statistics.is_wandering:
        sentences.append(
            "The energy of the windows drifts, by more than the interval accounts for: "
            "leave out the warm-up, or measure longer."
        )
    if num_distinct is not None and num_distinct < MIN_DISTINCT_READINGS:
        sentences.append(
            f"Only {num_distinct} distinct power reading{'s' if num_distinct > 1 else ''} "
            f"in {n} windows: "
            "the spread may be that of the sampling, not of the work; use longer windows."
        )
    if coverage_fraction is not None and coverage_fraction < 0.5:
        sentences.append(
            f"Counters or samples observed {coverage_fraction:.0%} of the time; "
            "the rest is estimated or unknown, and no interval covers an error in that."
        )
    return tuple(sentences)


def _margin_kwh(
    statistics: UnitStatistics, num_units: float, confidence_fraction: float, *, phi: float | None
) -> float:
    """Returns half the width of the interval in kWh; without ``phi``, windows are independent."""
    assert statistics.unit_variance_kwh2 is not None
    n = statistics.num_windows
    num_future_windows = num_units * n / statistics.num_units
    variance_kwh2 = statistics.unit_variance_kwh2 * statistics.num_units / n
    degrees = float(n - 1)
    if phi is not None:
        # the mean is fitted to the correlated windows, which thus vary too little about it
        variance_kwh2 *= (n - 1) / (n - _variance_factor(phi, n))
        degrees = _degrees_of_freedom(phi, n, num_future_windows)
    error_kwh = math.sqrt(variance_kwh2 * _error_factor(phi or 0.0, n, num_future_windows))
    return float(stdtrit(degrees, 0.5 + confidence_fraction / 2)) * error_kwh


def _treatment(num_windows: int) -> str:
    if num_windows <= _NUM_WINDOWS_UNHEEDED:
        return "Windows are taken as independent"
    return "How alike neighbouring windows are is a guess"


def _heeded_fraction(num_windows: int) -> float:
    """Returns the share of the correction for correlation to apply for few windows, 0 to 1."""
    share = (num_windows - _NUM_WINDOWS_UNHEEDED) / (_NUM_WINDOWS_HEEDED - _NUM_WINDOWS_UNHEEDED)
    return min(max(share, 0.0), 1.0)


def _effective_num_windows(phi: float | None, num_windows: int) -> float:
    """Returns the number of independent windows that would determine the mean as well."""
    factor = 1.0 if phi is None else _variance_factor(phi, num_windows)
    if num_windows < MIN_WINDOWS_FOR_CORRELATION:
        factor = 1 + _heeded_fraction(num_windows) * max(factor - 1, 0.0)
    return num_windows / factor


def _autocorrelation(residuals: np.ndarray) -> float:
    """Returns the lag-1 autocorrelation, its bias of -(1 + 3 phi)/n taken out."""
    squares = float(residuals @ residuals)
    if squares == 0:
        return 0.0
    n = len(residuals)
    biased = float(residuals[1:] @ residuals[:-1]) / squares
    unbiased = (n * biased + 1) / (n - 3)
    return min(max(unbiased, -_MAX_AUTOCORRELATION), _MAX_AUTOCORRELATION)


def _is_wandering(residuals: np.ndarray, phi: float) -> bool:
    """Tests whether block means vary more than a first-order autoregression explains.

    A block has as many windows as there are blocks; the ratio of variances follows chi² over its
    degrees of freedom.
    """
    n = len(residuals)
    length = math.isqrt(n)
    means = residuals[: n // length * length].reshape(-1, length).mean(axis=1)
    variance = float(residuals @ residuals) / (n - _variance_factor(phi, n))
    expected = variance / length * _variance_factor(phi, length)
    if expected == 0:
        return False
    degrees = len(means) - 1
    chi_squared = degrees * float(means.var(ddof=1)) / expected
    return float(chdtrc(degrees, chi_squared)) < _WANDERING_SIGNIFICANCE


def _variance_factor(phi: float, num_windows: float) -> float:
    """Returns the variance of a sum of ``num_windows`` windows over that of independent ones."""
    k = max(1, round(num_windows))
    return (1 + phi) / (1 - phi) - 2 * phi * (1 - phi**k) / (k * (1 - phi) ** 2)


def _error_factor(phi: float, n: int, num_future: float) -> float:
    """Returns the variance of the prediction error over that of one window."""
    of_mean = num_future**2 / n * _variance_factor(phi, n)
    return of_mean + num_future * _variance_factor(phi, num_future)


def _degrees_of_freedom(phi: float, n: int, num_future: float) -> float:
    """Returns 2 over the variance of the log of the estimated error variance (delta method).

    The variance of the innovations and the autocorrelation are estimated independently, with
    variances 2/n (of its log) and (1 - phi²)/n.
    """

    def log_variance(at: float) -> float:
        return math.log(_error_factor(at, n, num_future)) - math.log1p(-(at**2))

    slope = (log_variance(phi + _DIFFERENCE) - log_variance(phi - _DIFFERENCE)) / (2 * _DIFFERENCE)
    return min(max(2 / (2 / n + slope**2 * (1 - phi**2) / n), 1.0), n - 1.0)


def _check(windows: Sequence[Stretch]) -> None:
    if not windows:
        raise InvalidInputError("There is no measured window; meter a run with at least one.")
    for number, window in enumerate(windows, start=1):
        if not (math.isfinite(window.energy_kwh) and window.energy_kwh >= 0):
            raise InvalidInputError(
                f"Window {number} has energy_kwh {window.energy_kwh}; "
                "give a finite number, 0 or more."
            )
        if not (math.isfinite(window.num_units) and window.num_units > 0):
            raise InvalidInputError(
                f"Window {number} has num_units {window.num_units}; "
                "leave out windows that did no unit of work."
            )


def _check_num_units(num_units: float) -> None:
    if not (math.isfinite(num_units) and num_units > 0):
        raise InvalidInputError(f"num_units is {num_units}; give a finite number above 0.")
