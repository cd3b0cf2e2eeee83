"""``mlflow-carbon report``: one HTML file of what runs cost, how sure that is, and how to save."""

import time
from pathlib import Path

import click

from mlflow_carbon.commands.options import (
    example,
    experiment_option,
    given_text,
    tracking_uri_option,
)
from mlflow_carbon.commands.output import print_line
from mlflow_carbon.commands.pricing import (
    Pricing,
    intensity_basis_option,
    intensity_file_option,
)
from mlflow_carbon.commands.progress import ReadingProgress

ARTIFACT_FOLDER = "carbon"


@click.command(epilog=example("mlflow-carbon report --experiment Default --out report.html"))
@experiment_option
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default="report.html",
    show_default=True,
    help="File to write.",
)
@click.option(
    "--quality",
    metavar="METRIC",
    callback=given_text,
    help="Metric that says how good a run's result is: savings are then at equal quality.",
)
@click.option("--higher-is-better", is_flag=True, help="High figures of --quality are good.")
@intensity_file_option
@intensity_basis_option
@click.option(
    "--log", is_flag=True, help="Logs the file as an artifact of the newest of these runs, too."
)
@tracking_uri_option
def report(
    experiment: tuple[str, ...],
    out: Path,
    quality: str | None,
    higher_is_better: bool,
    intensity_file: str | None,
    intensity_basis: str,
    log: bool,
    tracking_uri: str | None,
) -> None:
    """Writes a report of the metered runs of an experiment as one HTML file.

    The file needs no network: what was emitted and how sure that is, what would have cost less
    (settings, region, month; with an hourly file, the hour), figures, tables, and what was not
    measured.
    """
    from mlflow_carbon.errors import InvalidInputError
    from mlflow_carbon.pictures.extra import REPORT_PACKAGES, require

    require(REPORT_PACKAGES)
    if not out.absolute().parent.is_dir():
        raise InvalidInputError(
            f"out is {str(out)!r}, in a folder that does not exist; make it first.",
            arguments=["out"],
        )
    from mlflow_carbon.pictures.html_report import html_report
    from mlflow_carbon.pictures.report_facts import REPORT_TAGS
    from mlflow_carbon.pictures.report_page import build_page
    from mlflow_carbon.reporting.comparing import default_experiments
    from mlflow_carbon.store.access import open_client, store_errors
    from mlflow_carbon.store.run_metrics import read_metric
    from mlflow_carbon.store.run_windows import LATEST, find_run
    from mlflow_carbon.store.runs import read_runs

    pricing = Pricing(intensity_file=intensity_file, intensity_basis=intensity_basis)
    pricing.check()
    names = experiment or default_experiments()
    client = open_client(tracking_uri, is_for_writing=log)
    runs = read_runs(
        client,
        experiment_names=names,
        include=("partial",),
        group_by=REPORT_TAGS,
        on_progress=ReadingProgress(),
    )
    values = None
    if quality is not None:
        values = read_metric(client, experiment_names=names, metric=quality)
    page = build_page(
        client,
        runs,
        experiment_names=names,
        metric=quality,
        quality=values,
        is_lower_better=not higher_is_better,
        series=pricing.series,
        now_s=time.time(),
    )
    out.write_text(html_report(page), encoding="utf-8")
    print_line(page.answer)
    print_line(f"Wrote {out}.")
    if log:
        newest = find_run(client, LATEST, experiment_names=names)
        with store_errors(client):
            client.log_artifact(newest.info.run_id, str(out), ARTIFACT_FOLDER)
        print_line(f"Logged {ARTIFACT_FOLDER}/{out.name} to run {newest.info.run_id}.")
