"""``mlflow-carbon study-report``: the paper's figures beside those of a study of one's own."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlflow_carbon.commands.options import example, tracking_uri_option
from mlflow_carbon.commands.output import Writer

if TYPE_CHECKING:
    from mlflow_carbon.reporting.study_report import Illustration

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
    help="csv and json name every run and what a figure rests on; markdown and html are documents "
    "with both.",
)
@click.option(
    "--figures",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the paper's four figures to, as SVG; html has them in it.",
)
@tracking_uri_option
def study_report(
    study: str | None,
    experiment: tuple[str, ...],
    output_format: str,
    figures: Path | None,
    tracking_uri: str | None,
) -> None:
    """Prints what a study found beside what the paper says, most trusted figures first.

    STUDY is the id or the name of the study's run; the newest one if it is left out. Verdicts:
    agrees, differs, too small to tell, not measured, not in the paper, another machine.
    """
    from mlflow_carbon.pictures.extra import PLOT_PACKAGES, require
    from mlflow_carbon.pictures.study_pictures import study_illustrations
    from mlflow_carbon.reporting import study_report as report
    from mlflow_carbon.reporting.study_cells import find_study, read_study
    from mlflow_carbon.reporting.study_findings import findings_of
    from mlflow_carbon.store.access import open_client

    client = open_client(tracking_uri)
    found = read_study(client, find_study(client, study, experiment))
    findings = findings_of(found)
    drawn = []
    if figures is not None or output_format == "html":
        drawn = study_illustrations(found)
    if figures is not None:
        require(PLOT_PACKAGES)
        _write(drawn, figures)
    if output_format == "markdown":
        click.echo(report.study_markdown(found, findings, drawn), nl=False)
    elif output_format == "html":
        click.echo(report.study_html(found, findings, drawn), nl=False)
    else:
        frame = report.findings_frame(findings)
        Writer(output_format)(frame, report.study_report(found, findings))


def _write(drawn: "list[Illustration]", folder: Path) -> None:
    """Writes the figures that could be drawn to a folder; says so on stderr.

    Raises:
        InvalidInputError: the folder cannot be written to.
    """
    from mlflow_carbon.errors import InvalidInputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for each in drawn:
            if each.svg:
                (folder / f"{each.name}.svg").write_text(each.svg, encoding="utf-8")
                click.echo(f"Wrote {folder / each.name}.svg.", err=True)
    except OSError as error:
        raise InvalidInputError(
            f"figures is {str(folder)!r}, which cannot be written: {error.strerror or error}.",
            arguments=["figures"],
        ) from error
