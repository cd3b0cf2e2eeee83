"""What would have made a run emit less, each change with the share that it saves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.grid.intensity import CarbonIntensity, lookup_intensity, price_label, yearly_sets
from mlflow_carbon.grid.regions import region_name

# Three large clouds have data centres there (AWS eu-north-1, Azure swedencentral, Google
# europe-north2), so a run can be moved; few grids are cleaner.
CLEAN_REGION = "SE"
# A good sampler needs no more: UniPC at 20 steps equals DDPM at 1000 (docs/usage.md).
FEW_STEPS = 20
STEPS_PARAMETERS = (
    "steps",
    "num_inference_steps",
    "denoising_steps",
    "sampling_steps",
    "num_sampling_steps",
    "inference_steps",
)
MIN_SAVING_FRACTION = 0.05  # less is not worth a word


@dataclass(frozen=True)
class Change:
    """A change of a run, and the share of its emissions that it would save.

    Attributes:
        text: ``20 steps``, ``in Sweden 35.82 g/kWh (2024, ember)``.
        saving_fraction: of the run's CO2e, from 0 to 1.
        is_at_most: whether the share is an upper bound, as for work with a fixed part.
    """

    text: str
    saving_fraction: float
    is_at_most: bool = False


def cheapest(changes: Iterable[Change | None], *, most: int = 2) -> tuple[Change, ...]:
    """Returns the changes that save most, the best first, without those that save next to nothing.

    Args:
        changes: those known of the run; ``None`` stands for none.
        most: how many to return.
    """
    worth = [it for it in changes if it is not None and it.saving_fraction >= MIN_SAVING_FRACTION]
    return tuple(sorted(worth, key=lambda it: -it.saving_fraction)[:most])


def cleaner_region(intensity: CarbonIntensity) -> Change | None:
    """Returns the saving of the same energy in a region where the grid is clean.

    Args:
        intensity: that of the run; another region's figure compares in the same yearly set only.

    Returns:
        ``None`` where the run's region is as clean, or its figure does not compare.
    """
    if intensity.intensity_set not in yearly_sets() or intensity.g_per_kwh <= 0:
        return None
    try:
        there = lookup_intensity(CLEAN_REGION, intensity_set=intensity.intensity_set)
    except MlflowCarbonError:
        return None
    place = price_label(
        region_name(CLEAN_REGION),
        there.g_per_kwh,
        period=there.period,
        intensity_set=there.intensity_set,
    )
    return Change(f"in {place}", 1 - there.g_per_kwh / intensity.g_per_kwh)


def steps_parameter(names: Iterable[str]) -> str | None:
    """Returns which of a run's parameters is its number of denoising steps; ``None`` for none."""
    known = set(names)
    return next((name for name in STEPS_PARAMETERS if name in known), None)


def fewer_steps(parameters: Mapping[str, str]) -> Change | None:
    """Returns the most that fewer denoising steps would save, from a run's parameters.

    A sample also has a fixed part, such as its decoding, so the share of the steps is an upper
    bound of that of the energy.

    Returns:
        ``None`` where no parameter holds a number of steps, or they are few already.
    """
    steps = num_steps(parameters)
    if steps is None or steps <= FEW_STEPS:
        return None
    return Change(f"{FEW_STEPS} steps", 1 - FEW_STEPS / steps, is_at_most=True)


def num_steps(parameters: Mapping[str, str]) -> int | None:
    """Returns the number of denoising steps in a run's parameters; ``None`` for none."""
    for name in STEPS_PARAMETERS:
        text = parameters.get(name, "").strip("'\"")
        if text.isascii() and text.isdecimal():
            return int(text)
    return None


def half_the_units(unit: str, *, windows_kwh: float, energy_kwh: float) -> Change | None:
    """Returns the saving of half the iterations or epochs: half of the energy in windows.

    Args:
        unit: what the windows count.
        windows_kwh: the energy inside the windows.
        energy_kwh: of the whole run, what comes before and after the windows included.
    """
    names = {"iteration": "half the iterations", "epoch": "half the epochs"}
    if unit not in names or energy_kwh <= 0:
        return None
    return Change(names[unit], min(windows_kwh / energy_kwh, 1.0) / 2)
