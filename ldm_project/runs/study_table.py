"""The table of a study while it runs: its cells, what each has taken, and what is left."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ldm_project.study.cells import Cell
from ldm_project.study.outlook import Outlook, total
from mlflow_carbon.accounting.amounts import energy_text, mass_text
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import study_tags
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.inert import shown
from mlflow_carbon.reporting.tables import ENERGY_SCALES, choose_scale
from mlflow_carbon.units import SECONDS_PER_MINUTE

WAITING = "waiting"
ABSENT = "-"
MINUTES_PER_HOUR = 60
HEADS = ("cell", "state", "time", "energy", "CO2e", "per unit", "")
NUM_TEXTS = 2  # columns to the left


@dataclass
class Line:
    """One cell's line: its state, what it has taken or will take, and a word beside.

    ``duration_s`` and ``energy_kwh`` are of the whole cell, forecast until it is done;
    ``energy_kwh_per_unit`` is measured.
    """

    cell: Cell
    outlook: Outlook
    state: str = WAITING
    num_windows_done: int = 0
    energy_kwh_per_unit: float | None = None
    note: str = ""


class Board:
    """The lines of all cells, drawn on a terminal as they change, else told cell by cell."""

    def __init__(self, lines: Iterable[Line], assumptions: Assumptions, console: Console) -> None:
        self.lines = list(lines)
        self._assumptions = assumptions
        self._console = console
        self._live: Live | None = None

    @property
    def waiting(self) -> list[Line]:
        """The lines of cells that are still to be run."""
        return [line for line in self.lines if line.state == WAITING]

    def shown(self) -> AbstractContextManager[object]:
        """Returns the context in which the table is kept up to date."""
        if not self._console.is_terminal:
            return nullcontext()
        self._live = Live(self.table(), console=self._console, refresh_per_second=2)
        return self._live

    def update(self, line: Line, *, is_over: bool = False) -> None:
        """Draws a line anew; without a terminal prints it, once it is over."""
        if self._live is not None:
            self._live.update(self.table())
        elif is_over:
            told = f"{self._told(line)}  {self.rest()}"
            self._console.print(shown(told), highlight=False, markup=False, soft_wrap=True)

    def table(self) -> Group:
        """Returns the table of all cells, and what is left of the study."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for position, head in enumerate(HEADS):
            table.add_column(head, justify="left" if position < NUM_TEXTS or not head else "right")
        for line in self.lines:
            table.add_row(*map(Text, self._row(line)))
        return Group(table, Text(self.rest()))

    def told(self) -> list[str]:
        """Returns the lines of all cells, and what is left, as plain text."""
        rows = [HEADS, *map(self._row, self.lines)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                text.ljust(width) if position < NUM_TEXTS else text.rjust(width)
                for position, (text, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return [*lines, self.rest()]

    def rest(self) -> str:
        """Returns a sentence on the rest of the study."""
        left = [line for line in self.lines if line.state in (WAITING, study_tags.RUNNING)]
        if not left:
            return "Nothing is left."
        duration, energy, mass = self._figures(total([line.outlook for line in left]))
        cells = "1 cell" if len(left) == 1 else f"{len(left)} cells"
        return f"Left: {cells}, about {duration}, {energy}, {mass}."

    def _row(self, line: Line) -> tuple[str, ...]:
        is_forecast = line.state in (WAITING, study_tags.RUNNING)
        figures: tuple[str, ...] = self._figures(line.outlook)
        if line.state in (study_tags.SKIPPED, study_tags.FAILED):
            figures = (ABSENT,) * 3
        elif is_forecast:
            figures = tuple(text if text == ABSENT else f"~{text}" for text in figures)
        state = line.state
        if state == study_tags.RUNNING:
            state = f"{line.num_windows_done} of {line.cell.num_windows}"
        per_unit = ABSENT
        if line.energy_kwh_per_unit is not None:
            scale = choose_scale([line.energy_kwh_per_unit], ENERGY_SCALES)
            amount = scale.text(line.energy_kwh_per_unit, 3)
            per_unit = f"{amount} {scale.symbol}/{line.cell.unit}"
        return (line.cell.name, state, *figures, per_unit, line.note)

    def _figures(self, outlook: Outlook) -> tuple[str, str, str]:
        duration = duration_text(outlook.duration_s)
        if outlook.energy_kwh is None:
            return duration, ABSENT, ABSENT
        mass_g = co2e_g(
            outlook.energy_kwh,
            pue=self._assumptions.pue,
            intensity_g_per_kwh=self._assumptions.intensity.g_per_kwh,
        )
        return duration, energy_text(outlook.energy_kwh), mass_text(mass_g)

    def _told(self, line: Line) -> str:
        name, state, *rest = self._row(line)
        figures = "  ".join(text for text in rest if text and text != ABSENT)
        return f"{name}: {state}  {figures}".rstrip()


def duration_text(duration_s: float | None) -> str:
    """Returns a duration for people: ``12 s``, ``3 min``, ``2.5 h``; ``-`` for an unknown one."""
    if duration_s is None:
        return ABSENT
    minutes = duration_s / SECONDS_PER_MINUTE
    if minutes < 2:
        return f"{duration_s:.0f} s"
    if minutes < 2 * MINUTES_PER_HOUR:
        return f"{minutes:.0f} min"
    return f"{minutes / MINUTES_PER_HOUR:.1f} h"
