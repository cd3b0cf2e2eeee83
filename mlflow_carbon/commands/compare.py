"""``mlflow-carbon compare``: mean ± std of energy and CO2e across groups and regions."""

import os

import click

from mlflow_carbon.commands.options import (
    carbon_intensity_option,
    example,
    format_option,
    given_text,
    intensity_set_option,
    month_option,
    print_frame,
    print_notices,
    pue_option,
    recorded_set,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.pricing import (
    Pricing,
    chosen_intensities,
    file_series,
    intensity_basis_option,
    intensity_file_option,
    provider_option,
)

DEFAULT_EXPERIMENT = "Default"  # MLflow's own


def step_pairs(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Returns the step counts of ``1000:200``."""
    pairs = []
    for text in texts:
        before, _colon, after = text.partition(":")
        if not (before.isdecimal() and after.isdecimal()):
            raise click.BadParameter(f"{text!r} is not FROM:TO; give two step counts as 1000:200.")
        pairs.append((int(before), int(after)))
    return tuple(pairs)


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
@intensity_file_option
@intensity_basis_option
@provider_option
@click.option(
    "--fit",
    metavar="PARAMETER",
    callback=given_text,
    help="Fits energy = fixed + steps x step over the parameter that holds the steps; "
    "csv and json then hold the fit.",
)
@click.option(
    "--saving",
    metavar="FROM:TO",
    multiple=True,
    callback=step_pairs,
    help="With --fit, the saving of these step counts too; repeatable.",
)
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
    intensity_file: str | None,
    intensity_basis: str,
    provider: str | None,
    fit: str | None,
    saving: tuple[tuple[int, int], ...],
    format: str,
    tracking_uri: str | None,
) -> None:
    """Compares finished runs by group and region.

    Prints the number of runs and windows, and the mean, the std between runs and the std within
    runs, of energy and CO2e per unit of work (sample, iteration, ...) and of the whole run.
    """
    from mlflow_carbon.reporting import tables
    from mlflow_carbon.reporting.compare import compare_runs
    from mlflow_carbon.reporting.everyday import comparison_footer
    from mlflow_carbon.reporting.hourly_prices import priced_by_file
    from mlflow_carbon.reporting.steps_fit import fit_groups, fits_frame, fits_text
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.runs import read_runs, visibility_notice

    pricing = Pricing(
        regions=region,
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        intensity_file=intensity_file,
        intensity_basis=intensity_basis,
        provider=provider,
    )
    if saving and fit is None:
        raise click.UsageError("--saving needs --fit.")
    names = experiment or (os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT),)
    client = open_client(tracking_uri)
    runs = read_runs(client, experiment_names=names)
    series = file_series(pricing)
    if series is None:
        intensities = chosen_intensities(pricing, preferred_set=recorded_set(runs))
    else:
        intensities = []
        runs = priced_by_file(client, runs, series, region=region[0] if region else None)
    if fit is not None:
        group_by = (*(name for name in group_by if name != fit), fit)
    comparison = compare_runs(runs, group_by=group_by, intensities=intensities, pue=pue)
    text = f"{tables.comparison_text(comparison)}\n{comparison_footer(comparison)}"
    visibility = visibility_notice(client, len(runs))
    print_notices([*([] if visibility is None else [visibility]), *comparison.notices])
    if fit is None:
        print_frame(comparison.table, text, format)
    else:
        fits, notices = fit_groups(runs, steps_name=fit, group_by=group_by, pairs=saving)
        print_notices(notice for notice in notices if notice not in comparison.notices)
        print_frame(fits_frame(fits), f"{text}\n{fits_text(fits)}", format)
