"""Energy per sample as a fixed part plus a part per denoising step, fitted to measured runs."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mlflow_carbon.accounting.uncertainty import DEFAULT_CONFIDENCE_FRACTION
from mlflow_carbon.errors import InvalidInputError

_ROUNDING_FRACTION = 1e-9  # of the energy: a smaller distance from the line is rounding


@dataclass(frozen=True)
class StepsPoint:
    """The energy per unit of one run, and the number of denoising steps it sampled with."""

    num_steps: int
    energy_kwh_per_unit: float
    unit: str = "sample"


@dataclass(frozen=True)
class Estimate:
    """A fitted figure with its interval; without bounds where the runs do not tell the error."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class StepsModel:
    """E = E_fixed + steps · E_step in kWh per unit, by least squares.

    Attributes:
        fixed_kwh: what a unit costs before its first step (decoding, set-up).
        step_kwh: what each denoising step adds.
        residual_std_kwh: std of the runs about the line; 0 where all lie on it; ``None`` for two
            runs.
        num_runs: number of runs fitted.
        step_counts: the step counts of the runs.
        unit: the unit that the energy is counted per.
        confidence_fraction: of every interval.
        covariance_kwh2: of the fixed and the step energy, row by row; ``None`` for two runs, and
            for runs that all lie on the line, which do not tell the error.
    """

    fixed_kwh: Estimate
    step_kwh: Estimate
    residual_std_kwh: float | None
    num_runs: int
    step_counts: tuple[int, ...]
    unit: str
    confidence_fraction: float
    covariance_kwh2: tuple[tuple[float, float], tuple[float, float]] | None

    @property
    def is_exact(self) -> bool:
        """Whether three runs or more all lie on the line, as copies of two runs do."""
        return self.residual_std_kwh == 0

    def energy_kwh(self, num_steps: int) -> float:
        """Returns the fitted energy in kWh of one unit with ``num_steps`` denoising steps."""
        return self.fixed_kwh.value + num_steps * self.step_kwh.value

    def saving_fraction(self, from_steps: int, to_steps: int) -> Estimate:
        """Returns the share of energy saved by going from one step count to another.

        The interval is that of the fitted line (delta method), not of a single run.

        Raises:
            InvalidInputError: a step count is below 1, or the line is not above 0 there.
        """
        for num_steps in (from_steps, to_steps):
            _check_steps(num_steps)
            if self.energy_kwh(num_steps) <= 0:
                raise InvalidInputError(
                    f"The fitted energy at {num_steps} steps is not above 0, so no saving can be "
                    "given; fit runs whose step counts lie closer to it."
                )
        before_kwh, after_kwh = self.energy_kwh(from_steps), self.energy_kwh(to_steps)
        ratio = after_kwh / before_kwh
        gradient = np.array([1.0 - ratio, to_steps - ratio * from_steps]) / before_kwh
        margin = self._margin(gradient)
        return _estimate(1 - ratio, margin)

    def _margin(self, gradient: np.ndarray) -> float | None:
        if self.covariance_kwh2 is None:
            return None
        variance = float(gradient @ np.array(self.covariance_kwh2) @ gradient)
        return _quantile(self.num_runs, self.confidence_fraction) * math.sqrt(max(variance, 0.0))


def fit_steps(
    points: Iterable[StepsPoint], *, confidence_fraction: float = DEFAULT_CONFIDENCE_FRACTION
) -> StepsModel:
    """Returns the least-squares line through the energy per unit of runs, with t intervals.

    Args:
        points: one for each run, with two different step counts or more; all per the same unit.
        confidence_fraction: of the intervals, with runs - 2 degrees of freedom. Two runs, and
            runs that all lie on the line, get no interval.

    Raises:
        InvalidInputError: there are fewer than two step counts, the units differ, or a figure
            is out of range.
    """
    runs = list(points)
    _check(runs)
    steps = np.array([float(run.num_steps) for run in runs])
    energies_kwh = np.array([run.energy_kwh_per_unit for run in runs])
    centred = steps - steps.mean()
    sum_squares = float(centred @ centred)
    step_kwh = float(centred @ energies_kwh) / sum_squares
    fixed_kwh = float(energies_kwh.mean() - step_kwh * steps.mean())
    fixed_margin = step_margin = std_kwh = covariance = None
    if len(runs) > 2:
        residuals = energies_kwh - fixed_kwh - step_kwh * steps
        variance = float(residuals @ residuals) / (len(runs) - 2)
        std_kwh = math.sqrt(variance)
        if std_kwh <= _ROUNDING_FRACTION * float(energies_kwh.max()):
            std_kwh = 0.0
    if std_kwh:
        of_step = variance / sum_squares
        of_both = -float(steps.mean()) * of_step
        of_fixed = variance / len(runs) + float(steps.mean()) ** 2 * of_step
        covariance = ((of_fixed, of_both), (of_both, of_step))
        quantile = _quantile(len(runs), confidence_fraction)
        fixed_margin, step_margin = quantile * math.sqrt(of_fixed), quantile * math.sqrt(of_step)
    return StepsModel(
        fixed_kwh=_estimate(fixed_kwh, fixed_margin),
        step_kwh=_estimate(step_kwh, step_margin),
        residual_std_kwh=std_kwh,
        num_runs=len(runs),
        step_counts=tuple(sorted({run.num_steps for run in runs})),
        unit=runs[0].unit,
        confidence_fraction=confidence_fraction,
        covariance_kwh2=covariance,
    )


def proportional_saving_fraction(from_steps: int, to_steps: int) -> float:
    """Returns the saving if energy were proportional to the steps, as the paper assumes.

    Raises:
        InvalidInputError: a step count is below 1.

    Source: Seyfarth et al. 2024, arXiv:2407.14892, section 3.4 (1000 to 200 steps: 80 %).
    """
    _check_steps(from_steps)
    _check_steps(to_steps)
    return 1 - to_steps / from_steps


def _estimate(value: float, margin: float | None) -> Estimate:
    if margin is None:
        return Estimate(value, None, None)
    return Estimate(value, value - margin, value + margin)


def _quantile(num_runs: int, confidence_fraction: float) -> float:
    return float(stdtrit(num_runs - 2, 0.5 + confidence_fraction / 2))


def _check(runs: list[StepsPoint]) -> None:
    units = sorted({run.unit for run in runs})
    if len(units) > 1:
        raise InvalidInputError(
            f"Runs count different units ({', '.join(units)}); fit runs of one unit only."
        )
    for run in runs:
        _check_steps(run.num_steps)
        if not (math.isfinite(run.energy_kwh_per_unit) and run.energy_kwh_per_unit >= 0):
            raise InvalidInputError(
                f"A run at {run.num_steps} steps has energy_kwh_per_unit "
                f"{run.energy_kwh_per_unit}; give a finite number, 0 or more."
            )
    counts = sorted({run.num_steps for run in runs})
    if len(counts) < 2:
        seen = f"only {counts[0]}" if counts else "no run"
        raise InvalidInputError(
            f"A fit of energy over steps needs runs at two step counts or more; found {seen}."
        )


def _check_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise InvalidInputError(f"steps is {num_steps}; give 1 or more.")
