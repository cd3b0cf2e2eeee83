"""``mlflow-carbon advise``: where and when a run's energy would have emitted least."""

import time

import click

from mlflow_carbon.commands.options import (
    equivalents_option,
    example,
    given_text,
    given_time,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.output import Writer, output_options, print_notices
from mlflow_carbon.commands.pricing import (
    Pricing,
    intensity_basis_option,
    intensity_file_option,
    pue_option,
)


@click.command(epilog=example("mlflow-carbon advise latest --region EU27,Sweden,Poland,Germany"))
@click.argument("run", metavar="RUN")
@click.option(
    "--region",
    multiple=True,
    callback=split_items,
    help="Ranks these regions, and their months where known. Default: all regions, "
    "and the months of the run's own.",
)
@pue_option
@click.option(
    "--intensity-set",
    callback=given_text,
    help="Ranks by this set. Default: the recorded one where it is yearly, else ember.",
)
@intensity_file_option
@intensity_basis_option
@click.option(
    "--deadline",
    metavar="TIME",
    callback=given_time,
    help="With --intensity-file, when the run must have ended. Default: the end of the file.",
)
@click.option(
    "--earliest-start",
    metavar="TIME",
    callback=given_time,
    help="With --intensity-file, the start to compare with. Default: now.",
)
@click.option("--experiment", multiple=True, help="Where to look for names. Default: everywhere.")
@equivalents_option
@output_options
@tracking_uri_option
def advise(
    run: str,
    region: tuple[str, ...],
    pue: float | None,
    intensity_set: str | None,
    intensity_file: str | None,
    intensity_basis: str,
    deadline: float | None,
    earliest_start: float | None,
    experiment: tuple[str, ...],
    equivalents: bool,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Ranks regions and months by what the energy of RUN would have emitted there and then.

    RUN is a run's id, its name where only one run has it, or latest. With an hourly file, finds
    the best start for a run of this length too, and what it saves against starting now.
    """
    from mlflow_carbon.errors import NoIntensityError
    from mlflow_carbon.grid.intensity import MONTHLY_SETS, check_lookup
    from mlflow_carbon.reporting.advice_report import (
        advice_report,
        basis_notices,
        rank_places,
        rank_starts,
    )
    from mlflow_carbon.reporting.tables import records_frame
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.run_windows import find_run, pue_of, read_metered_run

    if intensity_file is None and (deadline is not None or earliest_start is not None):
        raise click.UsageError("--deadline and --earliest-start need --intensity-file.")
    pricing = Pricing(pue=pue, intensity_file=intensity_file, intensity_basis=intensity_basis)
    pricing.check()
    check_lookup(region, intensity_set=None if intensity_set in MONTHLY_SETS else intensity_set)
    client = open_client(tracking_uri)
    measured = read_metered_run(client, find_run(client, run, experiment_names=experiment))
    used_pue = pue_of(measured, pue)
    rankings, notices = rank_places(measured, region, intensity_set=intensity_set, pue=used_pue)
    if pricing.series is not None:
        now_s = time.time() if earliest_start is None else earliest_start
        try:
            starts = rank_starts(
                measured, pricing.series, now_s=now_s, deadline_s=deadline, pue=used_pue
            )
        except NoIntensityError as error:
            raise NoIntensityError(error.message, instead="earliest_start") from error
        rankings.append(starts)
    print_notices([*notices, *basis_notices(rankings)])
    rows = [row for ranking in rankings for row in ranking.rows]
    report = advice_report(measured, rankings, with_equivalents=equivalents)
    write(records_frame(rows), report)
