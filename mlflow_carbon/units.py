"""Conversions at the border; inside the package everything is kWh, W, s and g."""

import re
from datetime import datetime, timezone

JOULES_PER_KWH = 3.6e6
MILLISECONDS_PER_SECOND = 1000.0
SECONDS_PER_HOUR = 3600.0
SECONDS_PER_MINUTE = 60.0
WATTS_PER_KILOWATT = 1000.0
GRAMS_PER_KILOGRAM = 1000.0
KILOGRAMS_PER_TONNE = 1000.0
GRAMS_PER_POUND = 453.59237
KWH_PER_MWH = 1000.0
_SECONDS_BY_UNIT = {"s": 1.0, "min": SECONDS_PER_MINUTE, "h": SECONDS_PER_HOUR, "d": 86_400.0}


def kwh_from_joules(energy_joules: float) -> float:
    """Returns energy in kWh."""
    return energy_joules / JOULES_PER_KWH


def joules_from_kwh(energy_kwh: float) -> float:
    """Returns energy in J."""
    return energy_kwh * JOULES_PER_KWH


def kwh_from_watts(power_w: float, duration_s: float) -> float:
    """Returns the energy in kWh of a constant power over a duration."""
    return power_w / WATTS_PER_KILOWATT * duration_s / SECONDS_PER_HOUR


def watts_from_kwh(energy_kwh: float, duration_s: float) -> float:
    """Returns the mean power in W of an energy spent over a duration above zero."""
    return energy_kwh * WATTS_PER_KILOWATT * SECONDS_PER_HOUR / duration_s


def unix_s_from_iso8601(text: str) -> float:
    """Returns a moment in s since 1970; UTC where the text names no offset.

    Raises:
        ValueError: the text is no moment in ISO 8601.
    """
    if text.endswith(("Z", "z")):  # Python 3.10 does not read it
        text = f"{text[:-1]}+00:00"
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def seconds_from_text(text: str) -> float:
    """Returns a length of time such as ``12h``, ``90 min`` or ``1.5d`` in s.

    Raises:
        ValueError: the text is no number above 0 with one of the units s, min, h and d.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|min|h|d)", text.strip())
    if found is None or float(found[1]) == 0:
        raise ValueError(f"{text!r} is no length of time")
    return float(found[1]) * _SECONDS_BY_UNIT[found[2]]


def kg_from_grams(mass_g: float) -> float:
    """Returns mass in kg."""
    return mass_g / GRAMS_PER_KILOGRAM


def tonnes_from_kg(mass_kg: float) -> float:
    """Returns mass in t."""
    return mass_kg / KILOGRAMS_PER_TONNE


def grams_from_kg(mass_kg: float) -> float:
    """Returns mass in g."""
    return mass_kg * GRAMS_PER_KILOGRAM


def g_per_kwh_from_pounds_per_mwh(intensity_pounds_per_mwh: float) -> float:
    """Returns a carbon intensity in g/kWh."""
    return intensity_pounds_per_mwh * GRAMS_PER_POUND / KWH_PER_MWH


def duration_s_from_kwh(energy_kwh: float, power_w: float) -> float:
    """Converts energy at a mean power to the s that it took."""
    return joules_from_kwh(energy_kwh) / power_w
