"""``mlflow-carbon compare``: mean ± std of energy and CO2e across groups and regions."""

import os

import click

from mlflow_carbon.commands.options import (
    carbon_intensity_option,
    example,
    format_option,
    intensity_set_option,
    month_option,
    print_frame,
    print_notices,
    pue_option,
    recorded_set,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.pricing import Pricing, chosen_intensities

DEFAULT_EXPERIMENT = "Default"  # MLflow's own


@click.command(
    epilog=example(
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
    callback=split_items,
    help="Parameters, tags or experiment that make a group, comma-separated. Default: none.",
)
@click.option(
    "--region",
    multiple=True,
    callback=split_items,
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
    from mlflow_carbon.reporting import tables
    from mlflow_carbon.reporting.compare import compare_runs
    from mlflow_carbon.reporting.store import open_client, read_runs

    names = experiment or (os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT),)
    runs = read_runs(open_client(tracking_uri), experiment_names=names)
    pricing = Pricing(
        regions=region,
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
    )
    intensities = chosen_intensities(pricing, preferred_set=recorded_set(runs))
    comparison = compare_runs(runs, group_by=group_by, intensities=intensities, pue=pue)
    print_notices(comparison.notices)
    print_frame(comparison.table, tables.comparison_text(comparison), format)
