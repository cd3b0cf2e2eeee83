"""Runs priced by an hourly file, each by its own time stamps."""

import logging

import pandas as pd
from mlflow import MlflowClient

from mlflow_carbon.errors import BadRecordError, NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, intensity_of_spans
from mlflow_carbon.grid.intensity import GIVEN, CarbonIntensity
from mlflow_carbon.grid.regions import region_label
from mlflow_carbon.store.run_windows import MeteredRun, read_metered_run

_logger = logging.getLogger("mlflow.carbon")


def file_intensity(
    series: IntensitySeries, run: MeteredRun, *, region: str | None = None
) -> CarbonIntensity:
    """Returns the intensity of a run, each stretch of it weighted by its energy.

    Args:
        series: what the file holds.
        run: with its own time stamps.
        region: names the result; the file says nothing of where it is for.

    Raises:
        NoIntensityError: the file does not cover the run.
    """
    try:
        return intensity_of_spans(series, run.spans, region=region_label(region or GIVEN))
    except NoIntensityError as error:
        raise NoIntensityError(f"No intensity for {run.title}: {error}") from error


def priced_by_file(
    client: MlflowClient, runs: pd.DataFrame, series: IntensitySeries, *, region: str | None = None
) -> pd.DataFrame:
    """Returns the runs as if each had recorded what the file says of its own times.

    Args:
        client: of the store that holds the runs' windows.
        runs: as ``store.read_runs`` returns them; those without energy stay as they are, and those
            with a window that cannot be are left out.
        series: what the file holds.
        region: names the prices.

    Raises:
        NoIntensityError: the file does not cover a run.
        TrackingStoreError: the store cannot be read.
    """
    priced = runs.copy()
    is_measured = runs[["energy_kwh", "unit", "duration_s"]].notna().all(axis=1)
    for index, run_id in runs.loc[is_measured, "run_id"].items():
        try:
            run = read_metered_run(client, client.get_run(run_id))
        except BadRecordError as error:  # a window's, which the runs' totals do not tell
            _logger.warning("Left out %s.", error.reason)
            priced = priced.drop(index)
            continue
        intensity = file_intensity(series, run, region=region)
        priced.loc[index, "intensity_g_per_kwh"] = intensity.g_per_kwh
        priced.loc[index, "region"] = intensity.region
        priced.loc[index, "period"] = intensity.period
        priced.loc[index, "intensity_set"] = intensity.intensity_set
        priced.loc[index, "intensity_basis"] = intensity.basis
    return priced
