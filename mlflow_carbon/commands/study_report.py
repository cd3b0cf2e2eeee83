"""``mlflow-carbon study-report``: the paper's figures beside those of a study of one's own."""

import click

from mlflow_carbon.commands.options import example, tracking_uri_option
from mlflow_carbon.commands.output import Writer

FORMATS = ("table", "csv", "json", "markdown", "html")


@click.command("study-report", epilog=example("mlflow-carbon study-report --format markdown"))
@click.argument("study", required=False, metavar="[STUDY]")
@click.option("--experiment", multiple=True, help="Where to look for it. Default: everywhere.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    default="table",
    show_default=True,
    help="csv and json name every run; markdown and html are documents.",
)
@tracking_uri_option
def study_report(
    study: str | None, experiment: tuple[str, ...], output_format: str, tracking_uri: str | None
) -> None:
    """Prints what a study found beside what the paper says, most trusted figures first.

    STUDY is the id or the name of the study's run; the newest one if it is left out. Verdicts:
    agrees, differs, too small to tell, not measured, not in the paper, another machine.
    """
    from mlflow_carbon.reporting import study_report as report
    from mlflow_carbon.reporting.study_cells import find_study, read_study
    from mlflow_carbon.reporting.study_findings import findings_of
    from mlflow_carbon.store.access import open_client

    client = open_client(tracking_uri)
    found = read_study(client, find_study(client, study, experiment))
    findings = findings_of(found)
    if output_format == "markdown":
        click.echo(report.study_markdown(found, findings), nl=False)
    elif output_format == "html":
        click.echo(report.study_html(found, findings), nl=False)
    else:
        frame = report.findings_frame(findings)
        Writer(output_format)(frame, report.study_report(found, findings))
