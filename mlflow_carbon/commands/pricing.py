"""How energy is to be priced: the options that say so, and the intensities they choose."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from mlflow_carbon.commands.options import given_text, print_notices

# Imported when a command runs, so that --help does not wait for pandas and MLflow.
if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_carbon.grid.hourly import IntensitySeries
    from mlflow_carbon.grid.intensity import CarbonIntensity
    from mlflow_carbon.reporting.gate import IntensityOf
    from mlflow_carbon.reporting.model_footprint import ModelFootprint
    from mlflow_carbon.store.run_windows import MeteredRun

intensity_file_option = click.option(
    "--intensity-file",
    callback=given_text,
    help="CSV of timestamp,g_per_kwh, or an export of Electricity Maps or WattTime: "
    "each training or run is priced by its own times. --region then only names it.",
)
intensity_basis_option = click.option(
    "--intensity-basis",
    type=click.Choice(("direct", "lifecycle")),
    default="direct",
    show_default=True,
    help="Column of an Electricity Maps export to take.",
)
provider_option = click.option(
    "--provider",
    callback=given_text,
    help="Asks for the intensity now: electricity-maps, uk-carbon-intensity or "
    "energi-data-service. Keys come from the environment.",
)


@dataclass(frozen=True)
class Pricing:
    """How the user wants energy priced; where nothing is given, as recorded."""

    regions: tuple[str, ...] = ()
    month: str | None = None
    intensity_set: str | None = None
    carbon_intensity_g_per_kwh: float | None = None
    intensity_file: str | None = None
    intensity_basis: str = "direct"
    provider: str | None = None

    def __post_init__(self) -> None:
        figures = {
            "--carbon-intensity-g-per-kwh": self.carbon_intensity_g_per_kwh,
            "--intensity-file": self.intensity_file,
            "--provider": self.provider,
        }
        given = [option for option, value in figures.items() if value is not None]
        if len(given) > 1:
            raise click.UsageError(f"Give one of {' and '.join(given)}.")
        if given and (len(self.regions) > 1 or self.month or self.intensity_set):
            raise click.UsageError(
                f"{given[0]} is one intensity: it goes with one --region at most, "
                "and with neither --month nor --intensity-set."
            )
        if self.provider is not None and not self.regions:
            raise click.UsageError("--provider needs --region.")
        if not self.regions and (self.month or self.intensity_set):
            raise click.UsageError("--month and --intensity-set need --region.")


def chosen_intensities(pricing: Pricing, *, preferred_set: str) -> list["CarbonIntensity"]:
    """Returns the intensities to price all with; none when the recorded ones are to be kept.

    An intensity file gives each run its own: see ``file_intensity``.
    """
    from mlflow_carbon.grid.intensity import GIVEN, given_intensity, lookup_intensity

    if pricing.carbon_intensity_g_per_kwh is not None:
        region = pricing.regions[0] if pricing.regions else GIVEN
        return [given_intensity(pricing.carbon_intensity_g_per_kwh, region=region)]
    if pricing.provider is not None:
        return [_live_intensity(pricing.provider, pricing.regions[0], preferred_set)]
    found = (
        lookup_intensity(
            region,
            month=pricing.month,
            intensity_set=pricing.intensity_set,
            preferred_set=preferred_set,
        )
        for region in pricing.regions
    )
    return list(dict.fromkeys(found))  # EU27 and European Union are one


def file_series(pricing: Pricing) -> "IntensitySeries | None":
    """Returns what the intensity file holds; ``None`` where none is given."""
    from mlflow_carbon.grid.hourly import read_intensity_file

    if pricing.intensity_file is None:
        return None
    return read_intensity_file(pricing.intensity_file, basis=pricing.intensity_basis)


def run_intensities(pricing: Pricing, run: "MeteredRun") -> list["CarbonIntensity"]:
    """Returns the intensities to price one run with; where none is given, the recorded one.

    Raises:
        InvalidInputError: the run recorded none, and none is given.
    """
    from mlflow_carbon.errors import InvalidInputError
    from mlflow_carbon.grid.intensity import DEFAULT_SET
    from mlflow_carbon.reporting.hourly_prices import file_intensity

    series = file_series(pricing)
    if series is not None:
        return [file_intensity(series, run, region=pricing.regions[0] if pricing.regions else None)]
    recorded = run.intensity
    preferred_set = DEFAULT_SET if recorded is None else recorded.intensity_set
    chosen = chosen_intensities(pricing, preferred_set=preferred_set)
    if chosen:
        return chosen
    if recorded is None:
        raise InvalidInputError(f"No carbon intensity is recorded in {run.title}; pass --region.")
    return [recorded]


def model_intensities(
    pricing: Pricing, client: "MlflowClient", model: "ModelFootprint"
) -> "IntensityOf":
    """Returns what to price each of a model's trainings with, of the model's own set first."""
    from mlflow_carbon.contract import keys
    from mlflow_carbon.grid.intensity import DEFAULT_SET
    from mlflow_carbon.reporting.hourly_prices import file_intensity
    from mlflow_carbon.store.run_windows import read_metered_run

    region = pricing.regions[0] if pricing.regions else None
    series = file_series(pricing)
    if series is not None:
        return lambda training: file_intensity(
            series, read_metered_run(client, training.run), region=region
        )
    recorded = {} if model.own is None else model.own.run.data.tags
    preferred_set = recorded.get(keys.TAG_INTENSITY_SET, DEFAULT_SET)
    chosen = next(iter(chosen_intensities(pricing, preferred_set=preferred_set)), None)
    return lambda _: chosen


def _live_intensity(provider: str, zone: str, preferred_set: str) -> "CarbonIntensity":
    """Returns what a provider answers now, or a known figure and a notice that says why."""
    from mlflow_carbon.grid.providers import ask_provider

    live = ask_provider(provider, zone, environment=os.environ, preferred_set=preferred_set)
    if live.fallback_reason is not None:
        used = live.intensity
        print_notices(
            [
                f"{live.fallback_reason} Used instead: {used.g_per_kwh:g} g/kWh "
                f"({used.region} {used.period}, {used.intensity_set})."
            ]
        )
    return live.intensity
