"""Runs priced by an hourly file, each by its own time stamps."""

from mlflow_carbon.accounting.hourly import IntensitySeries, intensity_of_spans
from mlflow_carbon.accounting.intensity import GIVEN, CarbonIntensity
from mlflow_carbon.errors import NoIntensityError
from mlflow_carbon.reporting.run_windows import MeteredRun


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
        return intensity_of_spans(series, run.spans, region=region or GIVEN)
    except NoIntensityError as error:
        raise NoIntensityError(f"{run.title}: {error}") from error
