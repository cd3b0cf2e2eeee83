"""From energy to CO2e (Eq. 1 of the paper), and means with their spread."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mlflow_carbon.errors import InvalidInputError

MIN_PUE, MAX_PUE = 1.0, 3.0  # no facility uses less than its IT; above 3, a figure is a mistake


@dataclass(frozen=True)
class MeanStd:
    """Mean and sample standard deviation of ``n`` values; one value has no deviation."""

    mean: float
    std: float | None
    n: int


def validate_pue(pue: float) -> float:
    """Returns the power usage effectiveness as it is.

    Raises:
        InvalidInputError: the PUE is outside 1 to 3.
    """
    if not MIN_PUE <= pue <= MAX_PUE:
        raise InvalidInputError(
            f"PUE is {pue:g}; it is facility energy over IT energy, "
            f"so give {MIN_PUE:g} to {MAX_PUE:g}.",
            arguments=["pue"],
        )
    return pue


def facility_energy_kwh(energy_kwh: float, pue: float) -> float:
    """Returns the facility's energy for some IT energy, in kWh.

    Raises:
        InvalidInputError: the energy is negative or not finite, or the PUE is outside 1 to 3.
    """
    return checked("energy_kwh", energy_kwh) * validate_pue(pue)


def co2e_g(energy_kwh: float, *, pue: float, intensity_g_per_kwh: float) -> float:
    """Returns the emissions of IT energy in kWh, in g CO2e.

    Source: Seyfarth et al. 2024, arXiv:2407.14892, Eq. 1.

    Raises:
        InvalidInputError: a factor is negative or not finite, or the PUE is outside 1 to 3.
    """
    intensity = checked("intensity_g_per_kwh", intensity_g_per_kwh)
    return facility_energy_kwh(energy_kwh, pue) * intensity


def mean_std(values: Iterable[float]) -> MeanStd:
    """Returns the mean and sample standard deviation (n - 1) of one value or more.

    Raises:
        InvalidInputError: there is no value.
    """
    collected = [float(value) for value in values]
    if not collected:
        raise InvalidInputError("There is no value to take a mean of; give one or more.")
    n = len(collected)
    mean = math.fsum(collected) / n
    if n == 1:
        return MeanStd(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in collected) / (n - 1)
    return MeanStd(mean, math.sqrt(variance), n)


def pooled_std(stds: Sequence[float], nums: Sequence[float]) -> float | None:
    """Returns the standard deviation inside groups, pooled by their degrees of freedom.

    Args:
        stds: sample standard deviation of each group.
        nums: number of values in each group; groups of one say nothing about spread.

    Returns:
        ``None`` where every group has one value.
    """
    degrees = [num - 1 for num in nums]
    if sum(degrees) <= 0:
        return None
    squares = math.fsum(
        degree * std**2 for degree, std in zip(degrees, stds, strict=True) if degree > 0
    )
    return math.sqrt(squares / sum(degrees))


def checked(name: str, value: float) -> float:
    """Returns the value as it is.

    Raises:
        InvalidInputError: the value is negative or not finite.
    """
    if not (math.isfinite(value) and value >= 0):
        raise InvalidInputError(
            f"{name} is {value}; give a finite number, 0 or more.", arguments=[name]
        )
    return value
