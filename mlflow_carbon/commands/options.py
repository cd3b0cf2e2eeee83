"""What the commands share: options, how their values are read, and how results are printed."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from mlflow_carbon.units import unix_s_from_iso8601

# Imported when a command runs, so that --help does not wait for pandas and MLflow.
if TYPE_CHECKING:
    import pandas as pd

AUTO = "auto"
NONE = "none"


def given_text(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Returns an option's text; ``auto`` is none, because MLproject passes every parameter."""
    return None if text == AUTO else text


def given_number(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Returns an option's number; ``auto`` is none."""
    return None if text in (None, AUTO) else float(click.FLOAT(text, option, context))


def given_time(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Returns an option's time in s since 1970; UTC where it names no offset."""
    if text is None:
        return None
    try:
        return unix_s_from_iso8601(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no time; give it as 2022-02-01T13:00.") from error


def split_items(_: click.Context, __: click.Parameter, values: Sequence[str]) -> tuple[str, ...]:
    """Returns the items of a repeatable, comma-separated option."""
    items = (item.strip() for value in values for item in value.split(","))
    return tuple(dict.fromkeys(item for item in items if item and item not in (AUTO, NONE)))


def example(command: str) -> str:
    """Returns the end of a help text: a command to copy, on a line of its own."""
    return f"\b\nExample:\n  {command}"


tracking_uri_option = click.option(
    "--tracking-uri", help="Tracking store. Default: MLflow's own, see MLFLOW_TRACKING_URI."
)
month_option = click.option(
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
intensity_set_option = click.option(
    "--intensity-set",
    callback=given_text,
    help="Only this set of intensities. Default: the recorded one first.",
)
carbon_intensity_option = click.option(
    "--carbon-intensity-g-per-kwh",
    metavar="FLOAT",
    callback=given_number,
    help="Prices with this figure instead of a known one; --region then only names it.",
)
lineage_option = click.option(
    "--lineage", is_flag=True, help="Counts what the model was built from, too."
)
format_option = click.option(
    "--format",
    type=click.Choice(("table", "csv", "json")),
    default="table",
    show_default=True,
    help="csv and json hold kWh and g in full precision.",
)


def recorded_set(runs: "pd.DataFrame") -> str:
    """Returns the set that the runs were priced from, so that new prices stay comparable."""
    from mlflow_carbon.grid.intensity import DEFAULT_SET

    recorded = runs["intensity_set"].dropna().unique()
    return str(recorded[0]) if len(recorded) == 1 else DEFAULT_SET


def print_notices(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        click.echo(sentence, err=True)


def print_frame(frame: "pd.DataFrame", table_text: str, format: str) -> None:
    from mlflow_carbon.reporting import tables

    texts = {"table": table_text, "csv": tables.to_csv(frame), "json": tables.to_json(frame)}
    click.echo(texts[format], nl=False)
