"""How the commands print: results on stdout, the rest on stderr, and nothing that can bite."""

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Union

import click

from mlflow_carbon.inert import shown

# Imported when a command runs, so that --help does not wait for pandas.
if TYPE_CHECKING:
    import pandas as pd

    from mlflow_carbon.reporting.report import Report


@dataclass(frozen=True)
class Writer:
    """Prints a result as a table for people, or as csv or json for programs."""

    format: str

    def __call__(self, frame: "pd.DataFrame", report: Union["Report", str]) -> None:
        """Prints one of the two.

        Args:
            frame: for programs.
            report: for people; fitted to the width of a terminal, where stdout is one.
        """
        from mlflow_carbon.reporting import tables
        from mlflow_carbon.reporting.report import Report, print_report

        if self.format == "csv":
            click.echo(tables.to_csv(frame), nl=False)
        elif self.format == "json":
            click.echo(tables.to_json(frame), nl=False)
        elif sys.stdout.isatty():
            from rich.console import Console

            print_report(Report.of(report), Console(markup=False, highlight=False, emoji=False))
        else:
            click.echo(str(Report.of(report)), nl=False)


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command ``--format``, and the writer that it chooses as ``write``."""

    @functools.wraps(command)
    def with_writer(*args: Any, format: str, **values: Any) -> None:
        command(*args, write=Writer(format), **values)

    return click.option(
        "--format",
        type=click.Choice(("table", "csv", "json")),
        default="table",
        show_default=True,
        help="csv and json hold kWh and g in full precision.",
    )(with_writer)


def print_line(sentence: str) -> None:
    """Prints one line of a result."""
    click.echo(shown(sentence))


def print_notices(sentences: Iterable[str]) -> None:
    """Prints what a reader of the result must know, a line each, on stderr."""
    for sentence in sentences:
        click.echo(shown(sentence), err=True)
