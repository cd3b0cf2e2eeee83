"""The intensities that all runs are priced with, where a reader names regions or a figure."""

from collections.abc import Sequence

import pandas as pd

from mlflow_carbon.grid.intensity import (
    DEFAULT_SET,
    GIVEN,
    CarbonIntensity,
    given_intensity,
    lookup_intensity,
    stage_notice,
)


def recorded_set(runs: pd.DataFrame) -> str:
    """Returns the set that the runs were priced from, so that new prices stay comparable."""
    recorded = runs["intensity_set"].dropna().unique()
    return str(recorded[0]) if len(recorded) == 1 else DEFAULT_SET


def region_prices(
    regions: Sequence[str],
    *,
    month: str | None = None,
    intensity_set: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    preferred_set: str = DEFAULT_SET,
) -> tuple[list[CarbonIntensity], list[str]]:
    """Returns the intensities, and where one does not compare with those of the preferred set.

    Args:
        regions: to price in; none keeps the recorded prices.
        month: ``2022-02``, or a year.
        intensity_set: the only set to look in.
        carbon_intensity_g_per_kwh: the reader's own figure; the region then is only its name.
        preferred_set: where to look first.

    Raises:
        NoIntensityError: none is known for a region and period.
        InvalidInputError: a setting is out of range.
    """
    if carbon_intensity_g_per_kwh is not None:
        name = regions[0] if regions else GIVEN
        return [given_intensity(carbon_intensity_g_per_kwh, region=name)], []
    found = (
        lookup_intensity(
            region, month=month, intensity_set=intensity_set, preferred_set=preferred_set
        )
        for region in regions
    )
    chosen = list(dict.fromkeys(found))  # EU27 and European Union are one
    if intensity_set is not None:
        return chosen, []
    notices = (stage_notice(intensity, expected_set=preferred_set) for intensity in chosen)
    return chosen, [notice for notice in notices if notice is not None]
