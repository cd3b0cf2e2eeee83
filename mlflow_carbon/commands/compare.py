"""``mlflow-carbon compare``: mean ± std of energy and CO2e across groups and regions."""

import os

import click

from mlflow_carbon.commands.options import (
    example,
    given_text,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.output import Writer, output_options, print_notices
from mlflow_carbon.commands.pricing import (
    Pricing,
    chosen_intensities,
    price_options,
    recorded_set,
)
from mlflow_carbon.commands.progress import ReadingProgress

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
    help="Parameters, tags or experiment that make a group, comma-separated; params.NAME and "
    "tags.NAME tell these apart. Default: none.",
)
@price_options(has_many_regions=True)
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
@click.option(
    "--include",
    type=click.Choice(["partial"]),
    help="partial: runs that were killed, too, by the sum of their windows, a lower bound.",
)
@output_options
@tracking_uri_option
def compare(
    experiment: tuple[str, ...],
    group_by: tuple[str, ...],
    pricing: Pricing,
    fit: str | None,
    saving: tuple[tuple[int, int], ...],
    include: str | None,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Compares finished runs by group and region.

    Prints the number of runs and windows, and the mean, the std between runs and the std within
    runs, of energy and CO2e per unit of work (sample, iteration, ...) and of the whole run.
    """
    from mlflow_carbon.reporting.compare import compare_runs
    from mlflow_carbon.reporting.everyday import comparison_footer
    from mlflow_carbon.reporting.hourly_prices import priced_by_file
    from mlflow_carbon.reporting.report import Report
    from mlflow_carbon.reporting.steps_fit import fit_groups, fits_frame, fits_report
    from mlflow_carbon.reporting.tables import comparison_report
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.runs import read_runs, visibility_notice

    if saving and fit is None:
        raise click.UsageError("--saving needs --fit.")
    names = experiment or (os.environ.get("MLFLOW_EXPERIMENT_NAME", DEFAULT_EXPERIMENT),)
    client = open_client(tracking_uri)
    runs = read_runs(
        client,
        experiment_names=names,
        includes_partial=include is not None,
        names=_without_prefixes([*group_by, *([] if fit is None else [fit])]),
        on_progress=ReadingProgress(),
    )
    intensities = []
    if pricing.series is None:
        intensities = chosen_intensities(pricing, preferred_set=recorded_set(runs))
    else:
        runs = priced_by_file(client, runs, pricing.series, region=pricing.region)
    if fit is not None:
        group_by = (*(name for name in group_by if name != fit), fit)
    comparison = compare_runs(runs, group_by=group_by, intensities=intensities, pue=pricing.pue)
    report = Report.of(comparison_report(comparison), "\n", comparison_footer(comparison))
    visibility = visibility_notice(client, len(runs))
    print_notices([*([] if visibility is None else [visibility]), *comparison.notices])
    if fit is None:
        write(comparison.table, report)
    else:
        fits, notices = fit_groups(runs, steps_name=fit, group_by=group_by, pairs=saving)
        print_notices(notice for notice in notices if notice not in comparison.notices)
        write(fits_frame(fits), Report.of(report, "\n", fits_report(fits)))


def _without_prefixes(names: list[str]) -> list[str]:
    """Returns the parameters and tags that names stand for: ``params.steps`` is ``steps``."""
    return [name.removeprefix("params.").removeprefix("tags.") for name in names]
