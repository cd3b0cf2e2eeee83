"""Reports: plain text into a pipe; on a terminal no line wider than it, and no figure lost."""

import io
import os
import subprocess
import sys

import pytest
from rich.console import Console

from mlflow_carbon.reporting.report import Column, Report, Table, print_report

WIDE = Table(
    (
        Column("steps", ["50", "200"]),
        Column("region", ["EU27", "SE"], is_text=True),
        *(Column(f"figure {number}", [f"{number}.25 ± 0.5", f"{number}"]) for number in range(9)),
    ),
    num_keys=2,
)


def on_terminal(report, width):
    stream = io.StringIO()
    print_report(Report.of(report), Console(file=stream, width=width))
    return stream.getvalue()


def test_report_is_plain_text():
    table = Table((Column("a", ["1"]), Column("b", ["x"], is_text=True)))
    assert str(Report.of("Title\n", table, Report.of("\nEnd\n"))) == "Title\na  b\n1  x\n\nEnd\n"


def test_narrow_table_is_the_same_on_a_terminal_as_in_a_pipe():
    table = Table((Column("model", ["a", "longer"], is_text=True), Column("g", ["1", "22"])))
    printed = [line.rstrip() for line in on_terminal(table, 80).splitlines()]
    assert printed == str(table).splitlines()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_wide_table_fits_the_terminal_in_blocks_that_repeat_the_keys(width):
    lines = on_terminal(WIDE, width).splitlines()
    assert max(map(len, lines)) <= width
    heads = [line for line in lines if "steps" in line]
    assert len(heads) > 1
    assert all("region" in head for head in heads)
    printed = " ".join(lines)
    assert all(text in printed for column in WIDE.columns for text in column.texts)


def test_long_sentence_is_wrapped_on_a_terminal():
    lines = on_terminal("word " * 40 + "\n", 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("word") for line in lines) == 40


def test_what_looks_like_markup_is_text():
    table = Table((Column("[bold]", ["[red]x[/red]"], is_text=True),))
    assert on_terminal(table, 80).splitlines()[1].rstrip() == "[red]x[/red]"


def test_keys_wider_than_the_terminal_are_folded():
    table = Table((Column("note", ["x" * 59], is_text=True), Column("g", ["12.5"])), num_keys=1)
    lines = on_terminal(table, 40).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(lines).count("x") == 59


def test_long_cells_are_cut_in_both():
    table = Table((Column("note", ["x" * 500], is_text=True),))
    assert str(table).splitlines()[1] == "x" * 59 + "…"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_command_fits_a_terminal_of_80_columns():
    master, slave = os.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb"}
    command = [sys.executable, "-m", "mlflow_carbon", "equivalents", "1234.5"]
    subprocess.run(command, check=True, stdout=slave, env=environment)
    os.close(slave)
    printed = os.read(master, 100_000).decode().splitlines()
    os.close(master)
    assert max(map(len, printed)) <= 80
    assert sum(line.startswith("as much as") for line in printed) >= 1


def test_sentence_is_broken_between_words_on_a_terminal_and_stays_a_line_in_a_pipe():
    script = "from mlflow_carbon.commands.output import print_line; print_line('eleven char ' * 20)"
    command = [sys.executable, "-c", script]
    in_pipe = subprocess.run(command, capture_output=True, text=True, check=True)
    assert in_pipe.stdout == "eleven char " * 20 + "\n"
    leader, follower = pytest.importorskip("pty").openpty()
    environment = os.environ | {"COLUMNS": "40"}
    subprocess.run(command, stdout=follower, env=environment, check=True)
    os.close(follower)
    lines = os.read(leader, 10_000).decode().split("\r\n")
    os.close(leader)
    assert lines[0] == "eleven char eleven char eleven char"  # of 40 columns
    assert max(map(len, lines)) <= 40
