"""``mlflow-carbon plot``: a figure of measured runs, one column of a paper wide."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_carbon.commands.options import (
    example,
    experiment_option,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.output import print_line
from mlflow_carbon.commands.pricing import (
    Pricing,
    chosen_intensities,
    price_options,
)
from mlflow_carbon.commands.progress import ReadingProgress

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

    from mlflow_carbon.pictures.drawing import Request

KINDS = ("image-size", "model-size", "region", "steps", "energy", "quality", "runs")


@click.command(epilog=example("mlflow-carbon plot steps --experiment Default --out steps.pdf"))
@click.argument("kind", type=click.Choice(KINDS), metavar="KIND")
@click.option("--out", required=True, type=Path, help="File to write: .png, .svg or .pdf.")
@experiment_option
@click.option(
    "--x",
    metavar="PARAMETER",
    help="Parameter or tag to draw over. Default: the first known of its kind, as size or steps.",
)
@click.option(
    "--series",
    multiple=True,
    callback=split_items,
    help="Parameters or tags that make a series, comma-separated. Default: dims, if several.",
)
@click.option(
    "--per",
    type=click.Choice(("unit", "run")),
    default="unit",
    show_default=True,
    help="What the CO2e is of: a unit of work (sample, iteration, ...) or a whole run.",
)
@click.option(
    "--scale-to", type=float, default=1.0, help="Draws the CO2e of so many units, as 10000."
)
@click.option("--run", default="latest", show_default=True, help="With energy: id or name.")
@click.option("--quality", metavar="METRIC", help="With quality: the metric of the runs.")
@click.option("--higher-is-better", is_flag=True, help="With quality: high figures are good.")
@price_options(has_many_regions=True)
@tracking_uri_option
def plot(
    kind: str,
    out: Path,
    experiment: tuple[str, ...],
    x: str | None,
    series: tuple[str, ...],
    per: str,
    scale_to: float,
    run: str,
    quality: str | None,
    higher_is_better: bool,
    pricing: Pricing,
    tracking_uri: str | None,
) -> None:
    """Draws finished runs as one figure, 3.3 inches wide.

    image-size, model-size, region (and month) and steps (and GPUs) are the figures of the paper;
    energy is one run over time, quality shows what quality costs, and runs is one bar a run.
    """
    from mlflow_carbon.pictures.extra import PLOT_PACKAGES, require

    require(PLOT_PACKAGES)
    if (kind == "quality") != (quality is not None):
        raise click.UsageError("quality needs --quality METRIC, and no other kind takes it.")
    from mlflow_carbon.pictures.drawing import Request
    from mlflow_carbon.pictures.frames import Amount
    from mlflow_carbon.pictures.style import check_path, save
    from mlflow_carbon.reporting.comparing import default_experiments
    from mlflow_carbon.store.access import open_client

    check_path(out)
    request = Request(
        x=x,
        series=series,
        amount=Amount(per, scale_to),
        pue=pricing.pue,
        is_lower_better=not higher_is_better,
    )
    names = experiment or default_experiments()
    client = open_client(tracking_uri)
    if kind == "energy":
        figure = _energy(client, run, experiment)
    else:
        figure = _comparison(client, kind, names, request, pricing, quality)
    save(figure, out)
    print_line(f"Wrote {out}.")


def _energy(client: "MlflowClient", run: str, experiment_names: tuple[str, ...]) -> "Figure":
    from mlflow_carbon.pictures.drawing import draw_energy
    from mlflow_carbon.store.access import store_errors
    from mlflow_carbon.store.run_records import read_record
    from mlflow_carbon.store.run_windows import find_run
    from mlflow_carbon.store.runs import methods

    found = find_run(client, run, experiment_names=experiment_names)
    with store_errors(client):
        record = read_record(client, found).or_lower_bound()
    how = [item.partition("=")[2] for item in methods(found.data.tags).split(",")]
    return draw_energy(record, name=found.info.run_name or found.info.run_id, methods=how)


def _comparison(
    client: "MlflowClient",
    kind: str,
    names: tuple[str, ...],
    request: "Request",
    pricing: Pricing,
    quality: str | None,
) -> "Figure":
    from dataclasses import replace

    from mlflow_carbon.contract import keys
    from mlflow_carbon.pictures import drawing
    from mlflow_carbon.reporting.hourly_prices import priced_by_file
    from mlflow_carbon.reporting.region_prices import recorded_set
    from mlflow_carbon.store.run_metrics import read_metric
    from mlflow_carbon.store.runs import read_runs

    named = [name for name in (request.x, *request.series) if name is not None]
    runs = read_runs(
        client,
        experiment_names=names,
        include=("partial",) if kind == drawing.RUNS else (),
        group_by=[keys.TAG_PARTIAL, *named],
        on_progress=ReadingProgress(),
    )
    if pricing.series is not None:
        runs = priced_by_file(client, runs, pricing.series, region=pricing.region)
    else:
        chosen = chosen_intensities(pricing, preferred_set=recorded_set(runs))
        request = replace(request, intensities=tuple(chosen))
    if kind == drawing.REGION:
        return drawing.draw_regions(runs, request)
    if kind == drawing.STEPS:
        return drawing.draw_steps(runs, request)
    if kind == drawing.RUNS:
        return drawing.draw_runs(runs)
    if quality is not None:
        values = read_metric(client, experiment_names=names, metric=quality)
        frame = drawing.quality_points(runs, values, request)
        return drawing.draw_quality(frame, request, metric=quality)
    return drawing.draw_sizes(runs, request, kind=kind)
