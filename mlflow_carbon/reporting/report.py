"""A report of sentences and tables: plain text into a pipe, fitted to its width on a terminal."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from mlflow_carbon.inert import MAX_CELL_CHARS, shown, shown_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

TEXT_WIDTH = 79  # of a plain terminal
_GAP = "  "


@dataclass(frozen=True)
class Column:
    """One column of a text table."""

    head: str
    texts: list[str]
    is_text: bool = False


@dataclass(frozen=True)
class Table:
    """Columns under their heads; the first ``num_keys`` name the rows."""

    columns: tuple[Column, ...]
    num_keys: int = 0

    def __str__(self) -> str:
        """Returns the table as plain text."""
        return text_table(self.columns)


@dataclass(frozen=True)
class Report:
    """Sentences, which end in a line break, and tables, in order."""

    parts: tuple[str | Table, ...]

    @classmethod
    def of(cls, *parts: Union[str, Table, "Report"]) -> "Report":
        """Returns a report of the parts, and of the parts of reports among them."""
        flat: list[str | Table] = []
        for part in parts:
            flat += part.parts if isinstance(part, Report) else [part]
        return cls(tuple(flat))

    def __str__(self) -> str:
        """Returns the report as plain text."""
        return "".join(
            str(part) if isinstance(part, Table) else shown_lines(part) for part in self.parts
        )


def text_table(columns: Sequence[Column]) -> str:
    """Returns the columns under their heads: text to the left, numbers to the right."""
    padded = []
    for column in columns:
        lines = _lines(column)
        width = max(map(len, lines))
        padded.append(
            [line.ljust(width) if column.is_text else line.rjust(width) for line in lines]
        )
    return "".join(f"{_GAP.join(line).rstrip()}\n" for line in zip(*padded, strict=True))


def beside(label: str, *texts: str, label_width: int) -> list[str]:
    """Returns the lines of texts to the right of a label, each text from a line of its own."""
    indent = " " * (label_width + len(_GAP))
    lines: list[str] = []
    for text in texts:
        lines += textwrap.wrap(
            text,
            TEXT_WIDTH,
            initial_indent=indent if lines else label.ljust(len(indent)),
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return lines


def print_report(report: Report, console: "Console") -> None:
    """Prints a report on a terminal, no line wider than it.

    A table that is too wide comes in blocks one below the other, each with the columns that
    name its rows.
    """
    from rich.text import Text

    for part in report.parts:
        if isinstance(part, str):
            console.print(Text(shown_lines(part), end=""), end="")
            continue
        for position, block in enumerate(_blocks(part, console.width)):
            if position:
                console.print()
            console.print(_rich_table(block))


def _lines(column: Column) -> list[str]:
    return [shown(text, max_chars=MAX_CELL_CHARS) for text in (column.head, *column.texts)]


def _blocks(table: Table, width: int) -> Iterator[list[Column]]:
    """Yields as many columns as fit a width, the keys before each block."""
    from rich.cells import cell_len

    def width_of(columns: Sequence[Column]) -> int:
        widths = [max(map(cell_len, _lines(column))) for column in columns]
        return sum(widths) + len(_GAP) * len(widths)

    keys = list(table.columns[: table.num_keys])
    block: list[Column] = []
    for column in table.columns[table.num_keys :]:
        if block and width_of([*keys, *block, column]) > width:
            yield keys + block
            block = []
        block.append(column)
    if block or keys:
        yield keys + block


def _rich_table(columns: Sequence[Column]) -> "RichTable":
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(box=None, padding=(0, len(_GAP), 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        head, *_ = _lines(column)
        table.add_column(Text(head), justify="left" if column.is_text else "right", overflow="fold")
    for row in zip(*(_lines(column)[1:] for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table
