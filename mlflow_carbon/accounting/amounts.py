"""Energies, masses and shares as text for people: three digits, in the unit that fits."""

from collections.abc import Sequence

_NUM_DIGITS = 3
_PRINTS_AS_ONE = 1 - 0.5 * 10**-_NUM_DIGITS  # 0.9999 Wh is 1 Wh and not 1000 mWh
# From small to large: how many of the unit are in 1 kWh, or in 1 g.
ENERGY_UNITS = (("µWh", 1e9), ("mWh", 1e6), ("Wh", 1e3), ("kWh", 1.0), ("MWh", 1e-3))
MASS_UNITS = (("µg", 1e6), ("mg", 1e3), ("g", 1.0), ("kg", 1e-3), ("t", 1e-6))


def energy_text(energy_kwh: float) -> str:
    """Returns an energy given in kWh as ``45 mWh``."""
    return _text(energy_kwh, ENERGY_UNITS)


def mass_text(mass_g: float) -> str:
    """Returns a mass given in g as ``17.6 mg``."""
    return _text(mass_g, MASS_UNITS)


def change_text(saving_fraction: float) -> str:
    """Returns a saving as the change that it is, ``−92 %``; below a tenth of a percent as such."""
    percent = 100 * saving_fraction
    return f"−{percent:.0f} %" if percent >= 1 else f"−{percent:.1f} %"


def duration_text(duration_s: float) -> str:
    """Returns a duration as ``19.2 s``, ``12 min`` or ``3.4 h``."""
    if duration_s < 120:
        return f"{duration_s:.3g} s"
    return f"{duration_s / 60:.0f} min" if duration_s < 7200 else f"{duration_s / 3600:.3g} h"


def _text(amount: float, units: Sequence[tuple[str, float]]) -> str:
    if amount == 0:
        return f"0 {units[2][0]}"
    fitting = [unit for unit in units if amount * unit[1] >= _PRINTS_AS_ONE]
    symbol, factor = fitting[-1] if fitting else units[0]
    number = float(f"{amount * factor:.{_NUM_DIGITS}g}")
    return f"{number:,.0f} {symbol}" if number >= 100 else f"{number:g} {symbol}"
