"""Where and when a run's energy would emit least: regions and months ranked, the best start."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, mean_g_per_kwh
from mlflow_carbon.grid.intensity import CarbonIntensity


@dataclass(frozen=True)
class Option:
    """One place or month to run in.

    Attributes:
        intensity: carbon intensity of that place and time, with its source.
        co2e_g: emissions of the energy asked about.
        ratio_to_best: ``co2e_g`` over the best option's; ``None`` where the best emits nothing.
    """

    intensity: CarbonIntensity
    co2e_g: float
    ratio_to_best: float | None


@dataclass(frozen=True)
class Start:
    """When to start a run of a given length, in s since 1970, and what that saves.

    Attributes:
        start_s: the best start.
        g_per_kwh: mean intensity of a run from then.
        g_per_kwh_now: mean intensity of a run that starts at once.
        saving_fraction: of the emissions, against starting at once.
    """

    start_s: float
    g_per_kwh: float
    g_per_kwh_now: float
    saving_fraction: float


def rank(
    energy_kwh: float, intensities: Iterable[CarbonIntensity], *, pue: float
) -> tuple[Option, ...]:
    """Returns the options from best to worst for a run's energy in kWh.

    Options compare only within one basis: see ``intensity.basis_notice``.

    Args:
        energy_kwh: IT energy of the run.
        intensities: regions of one set, or months of one region.
        pue: facility energy over IT energy, the same everywhere.

    Raises:
        InvalidInputError: there is no option, or a figure is out of range.
    """
    priced = [
        (co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=intensity.g_per_kwh), intensity)
        for intensity in intensities
    ]
    if not priced:
        raise InvalidInputError("There is no region or month to rank; name one or more.")
    best_g = min(mass_g for mass_g, _ in priced)
    priced.sort(key=lambda pair: (pair[0], pair[1].region, pair[1].period))
    return tuple(
        Option(intensity, mass_g, mass_g / best_g if best_g > 0 else None)
        for mass_g, intensity in priced
    )


def best_start(
    series: IntensitySeries, *, now_s: float, duration_s: float, deadline_s: float
) -> Start:
    """Finds the start at which a run at constant power emits least and meets the deadline.

    The mean intensity over the run is linear in its start except where the start or the end
    crosses into another slot, so the candidates are now, the last possible start and those
    crossings. Of equally good starts the earliest is taken.

    Args:
        series: hourly intensities: a forecast, or another year's.
        now_s: the earliest start, in s since 1970.
        duration_s: length of the run, in s.
        deadline_s: when the run must have ended, in s since 1970.

    Raises:
        InvalidInputError: the duration is not above zero, or the run cannot end in time.
        NoIntensityError: the series does not cover a run that starts now, or any other start.
    """
    if not (math.isfinite(duration_s) and duration_s > 0):
        raise InvalidInputError(f"duration_s is {duration_s}; give a finite number above 0.")
    last_s = deadline_s - duration_s
    if not last_s >= now_s:
        raise InvalidInputError(
            f"A run of {duration_s:g} s that starts now ends {now_s - last_s:g} s after the "
            "deadline; give a later one."
        )
    now_g_per_kwh = mean_g_per_kwh(series, now_s, now_s + duration_s)
    edges_s = {slot.start_s for slot in series.slots} | {slot.end_s for slot in series.slots}
    candidates_s = edges_s | {edge_s - duration_s for edge_s in edges_s} | {last_s}
    best_s, best_g_per_kwh = now_s, now_g_per_kwh
    for start_s in sorted(start_s for start_s in candidates_s if now_s < start_s <= last_s):
        try:
            g_per_kwh = mean_g_per_kwh(series, start_s, start_s + duration_s)
        except NoIntensityError:
            continue  # a hole in the file: nothing is known of this start
        if g_per_kwh < best_g_per_kwh and not math.isclose(g_per_kwh, best_g_per_kwh):
            best_s, best_g_per_kwh = start_s, g_per_kwh
    saving = 1 - best_g_per_kwh / now_g_per_kwh if now_g_per_kwh > 0 else 0.0
    return Start(best_s, best_g_per_kwh, now_g_per_kwh, saving)
