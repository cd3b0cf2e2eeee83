"""Amounts as short texts for people, in the unit that suits their size: ``58 mg``, ``4.5 Wh``."""

_MASSES = ((1e-6, "µg"), (1e-3, "mg"), (1.0, "g"), (1e3, "kg"), (1e6, "t"))  # in g
_ENERGIES = ((1e-9, "µWh"), (1e-6, "mWh"), (1e-3, "Wh"), (1.0, "kWh"), (1e3, "MWh"))  # in kWh
_NUM_DIGITS = 3


def mass_text(mass_g: float) -> str:
    """Returns a mass, given in g, with three digits."""
    return _text(mass_g, _MASSES)


def energy_text(energy_kwh: float) -> str:
    """Returns an energy, given in kWh, with three digits."""
    return _text(energy_kwh, _ENERGIES)


def _text(amount: float, scales: tuple[tuple[float, str], ...]) -> str:
    rounded = float(f"{amount:.{_NUM_DIGITS}g}")  # 999.9 mg is 1 g
    size, symbol = next((one for one in reversed(scales) if rounded >= one[0]), scales[0])
    figure = rounded / size
    return f"{figure:.{_NUM_DIGITS}g} {symbol}" if figure < 1000 else f"{figure:.0f} {symbol}"
