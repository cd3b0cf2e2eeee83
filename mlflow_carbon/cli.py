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

_SORT_COLUMN = {"name": "name", "co2e": "co2e_kg", "energy": "energy_kwh"}


class _Group(click.Group):
    """Turns our errors into a message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MlflowCarbonError as error:
            raise click.ClickException(str(error)) from error


def _given(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Returns an option's text; ``auto`` is none, because MLproject passes every parameter."""
    return None if text == AUTO else text


def _given_number(
    context: click.Context, option: click.Parameter, text: str | None
) -> float | None:
    """Returns an option's number; ``auto`` is none."""
    return None if text in (None, AUTO) else float(click.FLOAT(text, option, context))


def _split(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Returns the items of a repeatable, comma-separated option."""
    items = (item.strip() for value in values for item in value.split(","))
    return tuple(dict.fromkeys(item for item in items if item and item not in (AUTO, NONE)))


def _example(command: str) -> str:
    """Returns the end of a help text: a command to copy, on a line of its own."""
    return f"\b\nExample:\n  {command}"


tracking_uri_option = click.option(
    "--tracking-uri", help="Tracking store. Default: MLflow's own, see MLFLOW_TRACKING_URI."
)
month_option = click.option(
    "--month", callback=_given, help="Month of the intensity: 2022-02. Default: the year's mean."
)
pue_option = click.option(
    "--pue",
    metavar="FLOAT",
    callback=_given_number,
    help="Power usage effectiveness. Default: as recorded.",
)
intensity_set_option = click.option(
    "--intensity-set",
    callback=_given,
    help="Only this set of intensities. Default: the recorded one first.",
)
carbon_intensity_option = click.option(
    "--carbon-intensity-g-per-kwh",
    metavar="FLOAT",
    callback=_given_number,
    help="Prices with this figure instead of a known one; --region then only names it.",
)
format_option = click.option(
    "--format",
    type=click.Choice(("table", "csv", "json")),
    default="table",
    show_default=True,
    help="csv and json hold kWh and g in full precision.",
)


@click.group(cls=_Group, epilog=_example("mlflow-carbon compare --help"))
@click.version_option(package_name="mlflow-carbon")
def cli() -> None:
    """Energy and CO2e of MLflow runs and registered models."""


@cli.command(
    epilog=_example(
        "mlflow-carbon compare --experiment Default --group-by steps --region EU27,Sweden"
    )
)
@click.option(
    "--experiment",
    multiple=True,
    help="Experiment to read; repeatable. Default: MLFLOW_EXPERIMENT_NAME, else Default.",
)
@click.option(
    "--group-by",
    multiple=True,
    callback=_split,
    help="Parameters, tags or experiment that make a group, comma-separated. Default: none.",
)
@click.option(
    "--region",
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
    experiment: tuple[str, ...],
    group_by: tuple[str, ...],
    region: tuple[str, ...],
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    format: str,
    tracking_uri: str | None,
) -> None:
    """Compares finished runs by group and region.

    Prints the number of runs and windows, and the mean, the std between runs and the std within
    runs, of energy and CO2e per unit of work (sample, iteration, ...) and of the whole run.
    """
    from mlflow_carbon import tables
    from mlflow_carbon.compare import compare_runs
    from mlflow_carbon.store import open_client, read_runs

    names = experiment or (os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT),)
    runs = read_runs(open_client(tracking_uri), experiment_names=names)
    comparison = compare_runs(
        runs,
        group_by=group_by,
        intensities=_intensities(
            region,
            month=month,
            intensity_set=intensity_set,
            carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
            preferred_set=_recorded_set(runs),
        ),
        pue=pue,
    )
    _note(comparison.notices)
    _print(comparison.table, tables.comparison_text(comparison), format)


@cli.command(epilog=_example("mlflow-carbon models --max-co2e-kg 0.5 --region Sweden --sort co2e"))
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
    format: str,
    tracking_uri: str | None,
) -> None:
    """Lists model versions with the CO2e of their own training."""
    from mlflow_carbon import tables
    from mlflow_carbon.intensity import DEFAULT_SET
    from mlflow_carbon.registry import list_models
    from mlflow_carbon.store import open_client

    prices = _intensities(
        () if region is None else (region,),
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        preferred_set=DEFAULT_SET,
    )
    _note(
        f"CO2e by {price.g_per_kwh:g} g/kWh ({price.region} {price.period}, {price.intensity_set})."
        for price in prices
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
        versions = "version" if num_unmeasured == 1 else "versions"
        _note([f"Left out {num_unmeasured} {versions} without emissions."])
    if measured.empty:
        _note(["No model version to list."])
    _print(measured, tables.models_text(measured), format)


@cli.command(epilog=_example("mlflow-carbon recover"))
@tracking_uri_option
def recover(tracking_uri: str | None) -> None:
    """Sends to the store what killed processes left in their journals.

    Journals lie where MLFLOW_CARBON_JOURNAL_DIR says. Sending one twice changes nothing.
    """
    from mlflow_carbon.journal import journal_dir
    from mlflow_carbon.recovery import recover as recover_all
    from mlflow_carbon.store import open_client

    folder = journal_dir()
    recoveries = list(recover_all(open_client(tracking_uri), folder))
    for recovery in recoveries:
        became = "sent" if recovery.reason is None else f"left in {folder}: {recovery.reason}"
        click.echo(f"run {recovery.run_id}: {recovery.num_batches} sets of figures {became}.")
    if not recoveries:
        click.echo(f"Nothing to recover in {folder}.")


def _intensities(
    regions: Sequence[str],
    *,
    month: str | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    preferred_set: str,
) -> list["CarbonIntensity"]:
    """Returns the intensities to price with; none when the recorded ones are to be kept."""
    from mlflow_carbon.intensity import lookup_intensity

    if carbon_intensity_g_per_kwh is not None:
        if len(regions) > 1 or month or intensity_set:
            raise click.UsageError(
                "--carbon-intensity-g-per-kwh is one figure: it goes with one --region at most, "
                "and with neither --month nor --intensity-set."
            )
        return [_given_intensity(carbon_intensity_g_per_kwh, *regions)]
    if not regions and (month or intensity_set):
        raise click.UsageError("--month and --intensity-set need --region.")
    found = (
        lookup_intensity(
            region, month=month, intensity_set=intensity_set, preferred_set=preferred_set
        )
        for region in regions
    )
    return list(dict.fromkeys(found))  # EU27 and European Union are one


def _given_intensity(g_per_kwh: float, region: str = "given") -> "CarbonIntensity":
    """Returns the user's own figure, for a region that need not be a known one."""
    from mlflow_carbon.intensity import CarbonIntensity

    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        region=region,
        period="given",
        intensity_set="given",
        basis="given",
        source="--carbon-intensity-g-per-kwh",
        source_url="",
        licence="",
    )


def _recorded_set(runs: "pd.DataFrame") -> str:
    """Returns the set that the runs were priced from, so that new prices stay comparable."""
    from mlflow_carbon.intensity import DEFAULT_SET

    recorded = runs["intensity_set"].dropna().unique()
    return str(recorded[0]) if len(recorded) == 1 else DEFAULT_SET


def _note(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(sentence, err=True)


def _print(frame: "pd.DataFrame", table_text: str, format: str) -> None:
    from mlflow_carbon import tables

    texts = {"table": table_text, "csv": tables.to_csv(frame), "json": tables.to_json(frame)}
    click.echo(texts[format], nl=False)
