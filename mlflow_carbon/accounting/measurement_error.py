"""How far a measured energy may be from the truth, by the method that measured it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow_carbon.errors import InvalidInputError

COUNTED_ERROR_FRACTION = 0.05  # of NVIDIA's sensors; Yang et al. 2023, arXiv:2312.02741
SAMPLED_ERROR_FRACTION = 0.10  # ours: the sensor's, and as much for what lies between two samples
# Ours, not measured: the TDP is a design figure, and one load curve stands for every server. On two
# machines of equal TDP the same work can differ by as much.
ESTIMATED_FACTOR = 2.0

_FACTORS = {
    "counter": (1 - COUNTED_ERROR_FRACTION, 1 + COUNTED_ERROR_FRACTION),
    "sampled": (1 - SAMPLED_ERROR_FRACTION, 1 + SAMPLED_ERROR_FRACTION),
    "backfilled": (1 - SAMPLED_ERROR_FRACTION, 1 + SAMPLED_ERROR_FRACTION),
    "tdp": (1 / ESTIMATED_FACTOR, ESTIMATED_FACTOR),
    "simulated": (1.0, 1.0),  # exactly what was asked for
}


@dataclass(frozen=True)
class Bounds:
    """Within which an energy in kWh lies, as far as its sensors or its estimate go."""

    low_kwh: float
    high_kwh: float


def bounds_of(
    energy_kwh_by_component: Mapping[str, float], method_by_component: Mapping[str, str]
) -> Bounds | None:
    """Returns the bounds of the sum of some components' energy.

    The errors of the components are taken to be all high or all low at once. What no device
    measured (disks, network, fans), and the error of the carbon intensity, are not in it.

    Args:
        energy_kwh_by_component: what was measured.
        method_by_component: ``counter``, ``sampled``, ``tdp``, ``simulated`` or ``backfilled``.

    Returns:
        ``None`` where a component's method is not known, or nothing was measured.

    Raises:
        InvalidInputError: an energy is negative.
    """
    low_kwh = high_kwh = 0.0
    for component, energy_kwh in energy_kwh_by_component.items():
        if energy_kwh < 0:
            raise InvalidInputError(f"energy_kwh of {component} is {energy_kwh}; give 0 or more.")
        factors = _FACTORS.get(method_by_component.get(component, ""))
        if component == "dram" and factors is None:  # the counter of its package
            factors = _FACTORS.get(method_by_component.get("cpu", ""))
        if factors is None:
            return None
        low_kwh += factors[0] * energy_kwh
        high_kwh += factors[1] * energy_kwh
    return Bounds(low_kwh, high_kwh) if energy_kwh_by_component else None


def worst_error_fractions(methods: Iterable[str]) -> tuple[float, float] | None:
    """Returns how far below and above, at most, an energy lies that these methods make up.

    For a sum whose parts are not told apart: it is the error of the worst of them.

    Args:
        methods: as in ``bounds_of``; ``unavailable`` adds no energy.

    Returns:
        ``None`` where a method is not known, or none measures.
    """
    known = [_FACTORS.get(method) for method in methods if method != "unavailable"]
    factors = [pair for pair in known if pair is not None]
    if not factors or len(factors) < len(known):
        return None
    return 1 - min(low for low, _ in factors), max(high for _, high in factors) - 1
