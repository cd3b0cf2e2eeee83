"""``mlflow-carbon compare``: mean ± std of energy and CO2e across groups and regions."""

from pathlib import Path

import click

from mlflow_carbon.commands.options import (
    all_experiments_option,
    equivalents_option,
    example,
    experiment_option,
    filter_option,
    given_text,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.output import Writer, output_options, print_notices
from mlflow_carbon.commands.pricing import Pricing, chosen_intensities, price_options
from mlflow_carbon.commands.progress import ReadingProgress
from mlflow_carbon.contract import keys

_INCLUDED = ("failed", "running", "partial")


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


def key_values(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """Returns the keys and values of ``steps=1000,sampler=ddpm``."""
    pairs = {}
    for text in split_items(context, option, texts):
        key, equals, value = (part.strip() for part in text.partition("="))
        if not (key and equals and value):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE; give it as steps=1000.")
        pairs[key] = value
    return pairs


def included(
    context: click.Context, option: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    """Returns which runs to include besides the finished ones."""
    names = split_items(context, option, texts)
    for name in names:
        if name not in _INCLUDED:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(_INCLUDED)}.")
    return names


@click.command(
    epilog=example(
        "mlflow-carbon compare --experiment Default --group-by steps --region EU27,Sweden"
    )
)
@experiment_option
@all_experiments_option
@click.option(
    "--from-parquet",
    multiple=True,
    type=click.Path(path_type=Path),
    help="File that `export` wrote, in place of a store; repeatable. Reads all its experiments.",
)
@filter_option
@click.option(
    "--include",
    multiple=True,
    callback=included,
    metavar="failed,running,partial",
    help="Unfinished runs, too: those that failed, that go on, or both; without a total by the sum "
    "of their windows, a lower bound.",
)
@click.option(
    "--group-by",
    multiple=True,
    callback=split_items,
    help="Parameters, tags or experiment that make a group, comma-separated; params.NAME and "
    "tags.NAME tell these apart. Default: none.",
)
@click.option(
    "--pool",
    is_flag=True,
    help="Lets unlike runs into one group. Default: groups that would mix dims, model size, "
    "sampler, entry point, hardware, method or attribution are split.",
)
@click.option(
    "--per",
    metavar="run|UNIT",
    type=click.Choice(["run", *keys.UNITS]),
    help="Only whole runs, or only what counts this unit. Default: each unit, and whole runs.",
)
@click.option(
    "--scale-to",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="Adds energy and CO2e of N units.",
)
@click.option(
    "--baseline",
    metavar="KEY=VALUE",
    multiple=True,
    callback=key_values,
    help="Adds every group's ratio to the group of this value, with its interval, Welch's test "
    "and effect size: steps=1000; comma-separated.",
)
@click.option(
    "--sort",
    metavar="[-]COLUMN",
    help="energy, co2e, a key or a column of --format csv; - before it: the highest first.",
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
@equivalents_option
@output_options
@tracking_uri_option
def compare(
    experiment: tuple[str, ...],
    all_experiments: bool,
    from_parquet: tuple[Path, ...],
    filter_string: str,
    include: tuple[str, ...],
    group_by: tuple[str, ...],
    pool: bool,
    per: str | None,
    scale_to: float | None,
    baseline: dict[str, str],
    sort: str | None,
    pricing: Pricing,
    fit: str | None,
    saving: tuple[tuple[int, int], ...],
    equivalents: bool,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Compares the energy and CO2e of runs by group and region.

    Prints how many times one group costs another, then the number of runs and windows, and mean
    and std of energy and CO2e per unit of work (sample, iteration, ...) and of the whole run.
    """
    if saving and fit is None:
        raise click.UsageError("--saving needs --fit.")
    if experiment and all_experiments:
        raise click.UsageError("Give --experiment or --all-experiments.")
    if from_parquet and (filter_string or include or pricing.series is not None or tracking_uri):
        raise click.UsageError(
            "--from-parquet reads whole files of finished runs: leave out --filter, --include, "
            "--intensity-file and --tracking-uri; `export --filter` chooses runs."
        )
    from mlflow_carbon.reporting.compare import check_sort, compare_runs
    from mlflow_carbon.reporting.comparing import default_experiments
    from mlflow_carbon.reporting.comparison_tables import comparison_report
    from mlflow_carbon.reporting.everyday import comparison_footer
    from mlflow_carbon.reporting.hourly_prices import priced_by_file
    from mlflow_carbon.reporting.region_prices import recorded_set
    from mlflow_carbon.reporting.report import Report
    from mlflow_carbon.reporting.run_groups import tag_names
    from mlflow_carbon.reporting.steps_fit import fit_groups, fits_frame, fits_report
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.runs import read_exported_runs, read_runs, visibility_notice

    check_sort(sort, (*group_by, *baseline, *([] if fit is None else [fit])))
    if fit is not None:
        group_by = (*(name for name in group_by if name != fit), fit)
    names = tag_names([*group_by, *baseline])
    if from_parquet:
        runs = read_exported_runs(
            from_parquet,
            experiment_names=experiment,
            group_by=names,
            on_progress=ReadingProgress(),
        )
        visibility = None
    else:
        client = open_client(tracking_uri)
        runs = read_runs(
            client,
            experiment_names=() if all_experiments else experiment or default_experiments(),
            include=include,
            filter_string=filter_string,
            group_by=names,
            on_progress=ReadingProgress(),
        )
        visibility = visibility_notice(client, len(runs))
    intensities = []
    if pricing.series is None:
        intensities = chosen_intensities(pricing, preferred_set=recorded_set(runs))
    else:
        runs = priced_by_file(client, runs, pricing.series, region=pricing.region)
    comparison = compare_runs(
        runs,
        group_by=group_by,
        intensities=intensities,
        pue=pricing.pue,
        per=per,
        pool=pool,
        scale_to=scale_to,
        baseline=baseline,
        sort=sort,
    )
    notices = [*([] if visibility is None else [visibility]), *comparison.notices]
    footer = comparison_footer(comparison, is_asked=equivalents)
    report = Report.of(comparison_report(comparison), footer)
    try:
        if fit is None:
            write(comparison.table, report)
        else:
            fits, of_fits = fit_groups(
                runs, steps_name=fit, group_by=group_by, pairs=saving, pool=pool
            )
            notices += [notice for notice in of_fits if notice not in comparison.notices]
            write(fits_frame(fits), Report.of(report, "\n", fits_report(fits)))
    finally:
        print_notices(notices)  # below the answer, where a terminal shows both
