"""The command line: each command parses, calls and prints."""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mlflow_carbon.errors import MlflowCarbonError

# Commands import what they need when they run, so that --help does not wait for pandas and MLflow.
if TYPE_CHECKING:
    import pandas as pd

    from mlflow_carbon.intensity import CarbonIntensity

AUTO = "auto"
NONE = "none"
DEFAULT_EXPERIMENT = "Default"  # MLflow's own
DEFAULT_INTENSITY_SET = "ember"

_SORT_COLUMN = {"name": "name", "co2e": "co2e_kg", "energy": "energy_kwh"}


class _Group(click.Group):
    """Turns our errors into a message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MlflowCarbonError as error:
            raise click.ClickException(str(error)) from error


class _NumberOrAuto(click.ParamType):
    """A number; ``auto`` is the same as not given: MLproject passes every parameter."""

    name = "float"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        return None if value == AUTO else click.FLOAT.convert(value, param, ctx)


def _given(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Returns an option's text; ``auto`` is the same as not given."""
    return None if text == AUTO else text


def _split(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Returns the items of a repeatable, comma-separated option."""
    items = (item.strip() for value in values for item in value.split(","))
    return tuple(dict.fromkeys(item for item in items if item and item not in (AUTO, NONE)))


tracking_uri_option = click.option(
    "--tracking-uri", help="Tracking store. Default: MLflow's own, see MLFLOW_TRACKING_URI."
)
month_option = click.option(
    "--month", callback=_given, help="Month of the intensity: 2022-02. Default: the year's mean."
)
pue_option = click.option(
    "--pue", type=_NumberOrAuto(), help="Power usage effectiveness. Default: as recorded."
)
intensity_set_option = click.option(
    "--intensity-set",
    callback=_given,
    help="Only this set of intensities. Default: the recorded one first.",
)
carbon_intensity_option = click.option(
    "--carbon-intensity-g-per-kwh",
    type=_NumberOrAuto(),
    help="Prices with this figure instead of a known one; --region then only names it.",
)
format_option = click.option(
    "--format",
    "output_format",
    type=click.Choice(("table", "csv", "json")),
    default="table",
    show_default=True,
    help="csv and json hold kWh and g in full precision.",
)


@click.group(cls=_Group, epilog="Example:  mlflow-carbon compare --help")
@click.version_option(package_name="mlflow-carbon")
def cli() -> None:
    """Energy and CO2e of MLflow runs and registered models."""


@cli.command(
    epilog="Example:  mlflow-carbon compare --experiment Default --group-by steps "
    "--region EU27 --region Sweden"
)
@click.option(
    "--experiment",
    "experiments",
    multiple=True,
    help="Experiment to read; repeatable. Default: MLFLOW_EXPERIMENT_NAME, else Default.",
)
@click.option(
    "--group-by",
    multiple=True,
    callback=_split,
    help="Parameters or tags that make a group, comma-separated or repeated. Default: none.",
)
@click.option(
    "--region",
    "regions",
    multiple=True,
    callback=_split,
    help="Prices all runs in these regions, comma-separated or repeated. Default: as recorded.",
)
@month_option
@pue_option
@intensity_set_option
@carbon_intensity_option
@format_option
@tracking_uri_option
def compare(
    experiments: tuple[str, ...],
    group_by: tuple[str, ...],
    regions: tuple[str, ...],
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    output_format: str,
    tracking_uri: str | None,
) -> None:
    """Compares the energy and CO2e of finished runs, by group and region.

    Prints how many runs and windows, the mean, the std between runs and the std within runs,
    per unit of work (sample, iteration, ...) and for the whole run.
    """
    from mlflow_carbon import tables
    from mlflow_carbon.compare import compare_runs
    from mlflow_carbon.store import open_client, read_runs

    names = experiments or (os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT),)
    runs = read_runs(open_client(tracking_uri), experiment_names=names)
    comparison = compare_runs(
        runs,
        group_by=group_by,
        intensities=_intensities(
            regions,
            month=month,
            intensity_set=intensity_set,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            preferred_set=_recorded_set(runs),
        ),
        pue=pue,
    )
    _note(comparison.notices)
    _print(comparison.table, tables.comparison_text(comparison), output_format)


@cli.command(epilog="Example:  mlflow-carbon models --max-co2e-kg 0.5 --region Sweden --sort co2e")
@click.option("--max-co2e-kg", type=float, help="Only versions at or under this limit.")
@click.option("--region", callback=_given, help="Prices in this region. Default: as recorded.")
@month_option
@pue_option
@intensity_set_option
@carbon_intensity_option
@click.option(
    "--sort",
    type=click.Choice(list(_SORT_COLUMN)),
    default="name",
    show_default=True,
    help="Order of the versions.",
)
@format_option
@tracking_uri_option
def models(
    max_co2e_kg: float | None,
    region: str | None,
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    sort: str,
    output_format: str,
    tracking_uri: str | None,
) -> None:
    """Lists the registered model versions by the CO2e of their own training."""
    from mlflow_carbon import tables
    from mlflow_carbon.registry import list_models
    from mlflow_carbon.store import open_client

    prices = _intensities(
        () if region is None else (region,),
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        preferred_set=DEFAULT_INTENSITY_SET,
    )
    listed = list_models(
        open_client(tracking_uri),
        max_co2e_kg=max_co2e_kg,
        intensity=prices[0] if prices else None,
        pue=pue,
    )
    measured = listed.dropna(subset="co2e_kg").sort_values(_SORT_COLUMN[sort], kind="stable")
    num_unmeasured = len(listed) - len(measured)
    if num_unmeasured:
        _note([f"Left out {num_unmeasured} versions that carry no emissions."])
    _print(measured, tables.models_text(measured), output_format)


def _intensities(
    regions: Sequence[str],
    *,
    month: str | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    preferred_set: str,
) -> list["CarbonIntensity"]:
    """Returns the intensities to price with; none when the recorded ones are to be kept."""
    from mlflow_carbon.intensity import CarbonIntensity, lookup_intensity

    if carbon_intensity_g_per_kwh is not None:
        if len(regions) > 1 or month or intensity_set:
            raise click.UsageError(
                "--carbon-intensity-g-per-kwh is one figure: it goes with one --region at most, "
                "and with neither --month nor --intensity-set."
            )
        return [
            given_intensity(carbon_intensity_g_per_kwh, region=regions[0] if regions else "given")
        ]
    if not regions and (month or intensity_set):
        raise click.UsageError("--month and --intensity-set need --region.")
    found = (
        lookup_intensity(
            region, month=month, intensity_set=intensity_set, preferred_set=preferred_set
        )
        for region in regions
    )
    return list(dict.fromkeys(found))  # EU27 and European Union are one


def _recorded_set(runs: "pd.DataFrame") -> str:
    """Returns the set that the runs were priced from, so that new prices stay comparable."""
    recorded = runs["intensity_set"].dropna().unique()
    return str(recorded[0]) if len(recorded) == 1 else DEFAULT_INTENSITY_SET


def _note(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(sentence, err=True)


def _print(frame: "pd.DataFrame", table_text: str, output_format: str) -> None:
    from mlflow_carbon import tables

    texts = {"table": table_text, "csv": tables.to_csv(frame), "json": tables.to_json(frame)}
    click.echo(texts[output_format], nl=False)
