"""How energy is to be priced: the options that say so, and the intensities they choose."""

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

from mlflow_carbon.commands.options import given_number, given_text, split_items
from mlflow_carbon.commands.output import print_notices

# Imported when a command runs, so that --help does not wait for pandas and MLflow.
if TYPE_CHECKING:
    from mlflow import MlflowClient

    from mlflow_carbon.grid.hourly import IntensitySeries
    from mlflow_carbon.grid.intensity import CarbonIntensity
    from mlflow_carbon.grid.price_settings import PriceSettings
    from mlflow_carbon.reporting.gate import IntensityOf
    from mlflow_carbon.reporting.model_footprint import ModelFootprint
    from mlflow_carbon.store.run_windows import MeteredRun

Command = Callable[..., None]

_MONTH = click.option(
    "--month",
    callback=given_text,
    help="Month of the intensity: 2022-02, or a year: 2022. Default: the latest year's mean.",
)
pue_option = click.option(
    "--pue",
    metavar="FLOAT",
    callback=given_number,
    help="Power usage effectiveness. Default: as recorded.",
)
_INTENSITY_SET = click.option(
    "--intensity-set",
    callback=given_text,
    help="Only this set of intensities. Default: the recorded one first.",
)
_OWN_FIGURE = click.option(
    "--carbon-intensity-g-per-kwh",
    metavar="FLOAT",
    callback=given_number,
    help="Prices with this figure instead of a known one; --region then only names it.",
)
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
_PROVIDER = click.option(
    "--provider",
    callback=given_text,
    help="Asks for the intensity now: electricity-maps, uk-carbon-intensity or "
    "energi-data-service. Keys come from the environment.",
)
_REGION = click.option(
    "--region", callback=given_text, help="Prices in this region. Default: as recorded."
)
_REGIONS = click.option(
    "--region",
    multiple=True,
    callback=split_items,
    help="Prices in these regions, comma-separated or repeated. Default: as recorded.",
)
_RECORDED_REGION = click.option(
    "--region",
    callback=given_text,
    help="Where the electricity comes from. Default: MLFLOW_CARBON_REGION, else WORLD.",
)
_RECORDED_PUE = click.option(
    "--pue",
    metavar="FLOAT",
    callback=given_number,
    help="Power usage effectiveness. Default: MLFLOW_CARBON_PUE, else 1.",
)
_PRICE_OPTIONS = (
    _MONTH,
    pue_option,
    _INTENSITY_SET,
    _OWN_FIGURE,
    intensity_file_option,
    intensity_basis_option,
    _PROVIDER,
)


@dataclass(frozen=True)
class Pricing:
    """How the user wants energy priced; where nothing is given, as recorded.

    Attributes:
        regions: to price in.
        month: ``2022-02``, or a year.
        pue: facility energy over IT energy.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: the user's own figure.
        intensity_file: the user's own hourly figures.
        intensity_basis: column of that file, ``direct`` or ``lifecycle``.
        provider: who is asked for the intensity now.
    """

    regions: tuple[str, ...] = ()
    month: str | None = None
    pue: float | None = None
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

    @property
    def region(self) -> str | None:
        """The first region; ``None`` where none is given."""
        return self.regions[0] if self.regions else None

    @cached_property
    def series(self) -> "IntensitySeries | None":
        """What the intensity file holds; ``None`` where none is given.

        Raises:
            InvalidInputError: the file cannot be read.
        """
        from mlflow_carbon.grid.hourly import read_intensity_file

        if self.intensity_file is None:
            return None
        return read_intensity_file(self.intensity_file, basis=self.intensity_basis)

    def check(self) -> None:
        """Checks every value that can be checked without a store.

        Raises:
            MlflowCarbonError: a value is out of range, or nothing is known for it.
        """
        from mlflow_carbon.accounting.emissions import validate_pue
        from mlflow_carbon.grid.intensity import check_lookup, given_intensity
        from mlflow_carbon.grid.providers import check_provider

        if self.pue is not None:
            validate_pue(self.pue)
        if self.carbon_intensity_g_per_kwh is not None:
            given_intensity(self.carbon_intensity_g_per_kwh)
        elif self.provider is not None:
            check_provider(self.provider, self.regions[0], environment=os.environ)
        elif self.series is None:
            check_lookup(self.regions, month=self.month, intensity_set=self.intensity_set)


_PRICE_NAMES = tuple(field.name for field in fields(Pricing) if field.name != "regions")


def price_options(*, has_many_regions: bool = False) -> Callable[[Command], Command]:
    """Returns a decorator that gives a command all that prices energy, as one ``pricing``.

    What contradicts itself or is not known is refused before the command starts.

    Args:
        has_many_regions: whether ``--region`` may be repeated.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_pricing(*args: Any, **values: Any) -> None:
            price = {name: values.pop(name) for name in _PRICE_NAMES}
            region = values.pop("region")
            regions = region if has_many_regions else () if region is None else (region,)
            pricing = Pricing(regions=regions, **price)
            pricing.check()
            command(*args, pricing=pricing, **values)

        decorated: Command = with_pricing
        for option in reversed((_REGIONS if has_many_regions else _REGION, *_PRICE_OPTIONS)):
            decorated = option(decorated)
        return decorated

    return decorate


def price_settings_options(command: Command) -> Command:
    """Gives a command what prices energy for a store, as ``price``; what is not given is open."""

    @functools.wraps(command)
    def with_price(*args: Any, **values: Any) -> None:
        from mlflow_carbon.grid.price_settings import PriceSettings

        names = ("region", "month", "pue", "intensity_set", "carbon_intensity_g_per_kwh")
        price = PriceSettings(**{name: values.pop(name) for name in names})
        is_own = price.carbon_intensity_g_per_kwh is not None
        if is_own and (price.month or price.intensity_set):
            raise click.UsageError(
                "--carbon-intensity-g-per-kwh is one intensity: it goes with neither --month nor "
                "--intensity-set."
            )
        command(*args, price=price, **values)

    decorated: Command = with_price
    for option in reversed((_RECORDED_REGION, _MONTH, _RECORDED_PUE, _INTENSITY_SET, _OWN_FIGURE)):
        decorated = option(decorated)
    return decorated


def assumption_options(command: Command) -> Command:
    """Gives a command what prices energy for a store, as ``assumptions``, defaults included."""

    @functools.wraps(command)
    def with_assumptions(*args: Any, price: "PriceSettings", **values: Any) -> None:
        from mlflow_carbon.contract.price_order import assumptions_in_order

        command(*args, assumptions=assumptions_in_order(price), **values)

    return price_settings_options(with_assumptions)


def chosen_intensities(pricing: Pricing, *, preferred_set: str) -> list["CarbonIntensity"]:
    """Returns the intensities to price all with; none when the recorded ones are to be kept.

    An intensity file gives each run its own: see ``file_intensity``. Says where a figure does not
    compare with those of the preferred set.
    """
    from mlflow_carbon.reporting.region_prices import region_prices

    if pricing.provider is not None:
        return [_live_intensity(pricing.provider, pricing.regions[0], preferred_set)]
    chosen, notices = region_prices(
        pricing.regions,
        month=pricing.month,
        intensity_set=pricing.intensity_set,
        carbon_intensity_g_per_kwh=pricing.carbon_intensity_g_per_kwh,
        preferred_set=preferred_set,
    )
    print_notices(notices)
    return chosen


def run_intensities(pricing: Pricing, run: "MeteredRun") -> list["CarbonIntensity"]:
    """Returns the intensities to price one run with; where none is given, the recorded one.

    Raises:
        InvalidInputError: the run recorded none, and none is given.
    """
    from mlflow_carbon.errors import InvalidInputError
    from mlflow_carbon.grid.intensity import DEFAULT_SET
    from mlflow_carbon.reporting.hourly_prices import file_intensity

    if pricing.series is not None:
        return [file_intensity(pricing.series, run, region=pricing.region)]
    recorded = run.intensity
    preferred_set = DEFAULT_SET if recorded is None else recorded.intensity_set
    chosen = chosen_intensities(pricing, preferred_set=preferred_set)
    if chosen:
        return chosen
    if recorded is None:
        raise InvalidInputError(
            f"No carbon intensity is recorded in {run.title}.", instead="region"
        )
    return [recorded]


def model_intensities(
    pricing: Pricing, client: "MlflowClient", model: "ModelFootprint"
) -> "IntensityOf":
    """Returns a function that gives the intensity of a training.

    Where the user names no set, that which the model recorded is preferred.
    """
    from mlflow_carbon.contract import keys
    from mlflow_carbon.grid.intensity import DEFAULT_SET
    from mlflow_carbon.reporting.hourly_prices import file_intensity
    from mlflow_carbon.store.run_windows import read_metered_run

    series = pricing.series
    if series is not None:
        return lambda training: file_intensity(
            series, read_metered_run(client, training.run), region=pricing.region
        )
    recorded = {} if model.own is None else model.own.run.data.tags
    preferred_set = recorded.get(keys.TAG_INTENSITY_SET, DEFAULT_SET)
    chosen = next(iter(chosen_intensities(pricing, preferred_set=preferred_set)), None)
    return lambda _: chosen


def _live_intensity(provider: str, zone: str, preferred_set: str) -> "CarbonIntensity":
    """Returns the provider's live figure; else a known one, and prints why."""
    from mlflow_carbon.grid.providers import ask_provider

    live = ask_provider(provider, zone, environment=os.environ, preferred_set=preferred_set)
    if live.fallback_reason is not None:
        used = live.intensity
        print_notices([f"{live.fallback_reason} Used instead: {used.label}."])
    return live.intensity
