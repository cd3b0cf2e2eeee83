"""How the commands print: results on stdout or to a file, the rest on stderr, and nothing bites."""

import functools
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Union

import click

from mlflow_carbon.inert import shown

# Imported when a command runs, so that --help does not wait for pandas.
if TYPE_CHECKING:
    import pandas as pd

    from mlflow_carbon.reporting.report import Report

FORMATS = ("table", "csv", "json", "markdown", "latex")


@dataclass(frozen=True)
class Writer:
    """Prints a result as tables for people, or as csv or json for programs.

    Attributes:
        format: one of ``FORMATS``.
        path: of the file to write; ``None`` prints on stdout.
    """

    format: str
    path: Path | None = None

    def __call__(self, frame: "pd.DataFrame", report: Union["Report", str]) -> None:
        """Prints one of the two.

        Args:
            frame: for programs.
            report: for people; fitted to the width of a terminal, where stdout is one.
        """
        from mlflow_carbon.reporting.report import Report, print_report

        if self.path is None and self.format == "table" and sys.stdout.isatty():
            from rich.console import Console

            print_report(Report.of(report), Console(markup=False, highlight=False, emoji=False))
            return
        text = self._text(frame, Report.of(report))
        if self.path is None:
            click.echo(text, nl=False)
            return
        try:
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{self.path} cannot be written: {error}.") from error

    def _text(self, frame: "pd.DataFrame", report: "Report") -> str:
        from mlflow_carbon.reporting import markup, tables

        if self.format == "csv":
            return tables.to_csv(frame)
        if self.format == "json":
            return tables.to_json(frame)
        if self.format == "markdown":
            return markup.to_markdown(report)
        return markup.to_latex(report) if self.format == "latex" else str(report)


def _writable(_: click.Context, __: click.Parameter, path: Path | None) -> Path | None:
    """Returns the path of a file whose folder exists."""
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(path.parent)!r}.")
    return path


def output_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command ``--format`` and ``--out``, and the writer that they choose as ``write``."""

    @functools.wraps(command)
    def with_writer(*args: Any, format: str, out: Path | None, **values: Any) -> None:
        command(*args, write=Writer(format, out), **values)

    to_file = click.option(
        "--out",
        type=click.Path(dir_okay=False, writable=True, path_type=Path),
        callback=_writable,
        help="File to write the result to. Default: stdout.",
    )(with_writer)
    return click.option(
        "--format",
        type=click.Choice(FORMATS),
        default="table",
        show_default=True,
        help="csv and json hold kWh and g in full precision.",
    )(to_file)


def print_line(sentence: str) -> None:
    """Prints one line of a result."""
    click.echo(_fitted(shown(sentence), sys.stdout))


class Refusal(click.ClickException):
    """An error of ours; a terminal shows it broken between words, a pipe gets it on one line."""

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the error on stderr, or to a file."""
        stream = file or sys.stderr
        click.echo(_fitted(f"Error: {self.format_message()}", stream), file=stream)


def print_notices(sentences: Iterable[str]) -> None:
    """Prints what a reader of the result must know, a line each, on stderr.

    An argument's name in backticks becomes the option of the command that runs.
    """
    context = click.get_current_context(silent=True)
    options = {} if context is None else {it.name: it.opts[0] for it in context.command.params}
    for sentence in sentences:
        told = re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[1]), sentence)
        click.echo(_fitted(shown(told), sys.stderr), err=True)


def _fitted(line: str, stream: IO[Any] | None) -> str:
    """Returns a line broken between words where a terminal shows it; in a pipe it stays one."""
    if stream is None or not stream.isatty():  # none: it was closed
        return line
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(line, columns, break_long_words=False, break_on_hyphens=False)
