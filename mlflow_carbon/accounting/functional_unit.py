"""Software Carbon Intensity: operational plus embodied emissions per functional unit."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.units import SECONDS_PER_HOUR, grams_from_kg

HOURS_PER_YEAR = 8760.0


@dataclass(frozen=True)
class Device:
    """A device whose making is shared out over its life.

    Attributes:
        embodied_kg: CO2e of making and disposing of it.
        lifetime_years: how long it is expected to serve.
        share_fraction: the part of it that is reserved for this work (one of 8 GPUs: 0.125).
    """

    embodied_kg: float
    lifetime_years: float
    share_fraction: float = 1.0

    def __post_init__(self) -> None:
        """Checks the figures.

        Raises:
            InvalidInputError: a figure is out of range.
        """
        _check("embodied_kg", self.embodied_kg, minimum=0.0)
        if not (math.isfinite(self.lifetime_years) and self.lifetime_years > 0):
            raise InvalidInputError(
                f"lifetime_years is {self.lifetime_years}; give a finite number above 0.",
                arguments=["device_lifetime_years"],
            )
        if not 0 < self.share_fraction <= 1:
            raise InvalidInputError(
                f"share_fraction is {self.share_fraction}; give more than 0, at most 1.",
                arguments=["device_share_fraction"],
            )


@dataclass(frozen=True)
class SoftwareCarbonIntensity:
    """g CO2e per functional unit, and its two parts for the whole work in g."""

    g_per_unit: float
    operational_g: float
    embodied_g: float
    num_units: float
    unit: str


def embodied_g(device: Device, duration_s: float) -> float:
    """Returns the share of a device's embodied emissions for ``duration_s`` of use, in g CO2e.

    Source: ISO/IEC 21031:2024, M = TE × TS × RS.

    Raises:
        InvalidInputError: the duration is negative or not finite.
    """
    lifetime_s = device.lifetime_years * HOURS_PER_YEAR * SECONDS_PER_HOUR
    _check("duration_s", duration_s, minimum=0.0)
    return grams_from_kg(device.embodied_kg) * duration_s / lifetime_s * device.share_fraction


def software_carbon_intensity(
    operational_g: float,
    num_units: float,
    *,
    unit: str,
    duration_s: float,
    devices: Iterable[Device],
) -> SoftwareCarbonIntensity:
    """Returns operational plus embodied g CO2e per functional unit.

    Args:
        operational_g: emissions of the whole work by Eq. 1.
        num_units: functional units that were done.
        unit: name of the functional unit, such as ``sample`` or ``iteration``.
        duration_s: how long the devices were reserved.
        devices: the reserved devices, with the user's own figures: the package assumes none.

    Source: ISO/IEC 21031:2024, SCI = (O + M) per R. Offsets do not lower it.

    Raises:
        InvalidInputError: a figure is out of range.
    """
    _check("operational_g", operational_g, minimum=0.0)
    if not (math.isfinite(num_units) and num_units > 0):
        raise InvalidInputError(f"num_units is {num_units}; give a finite number above 0.")
    of_devices_g = math.fsum(embodied_g(device, duration_s) for device in devices)
    return SoftwareCarbonIntensity(
        g_per_unit=(operational_g + of_devices_g) / num_units,
        operational_g=operational_g,
        embodied_g=of_devices_g,
        num_units=num_units,
        unit=unit,
    )


def _check(name: str, value: float, *, minimum: float) -> None:
    if not (math.isfinite(value) and value >= minimum):
        raise InvalidInputError(
            f"{name} is {value}; give a finite number, {minimum:g} or more.", arguments=[name]
        )
