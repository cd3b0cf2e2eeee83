"""The report as one HTML file that needs no other, and in which no text of a store can act."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from mlflow_carbon.inert import MAX_LINE_CHARS, shown
from mlflow_carbon.pictures import interactive
from mlflow_carbon.pictures.report_figures import ReportFigure
from mlflow_carbon.reporting.tables import ABSENT

MAX_BYTES = 3_000_000
MOST_IDS = 200  # run ids that a figure lists
_TEMPLATE, _SCRIPT = "report.html.j2", "report.js"
# Nothing is fetched, and only the scripts of this page run: those with these hashes.
_POLICY = (
    "default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and what it sorts by; an empty value sorts last."""

    text: str
    value: str


@dataclass(frozen=True)
class Head:
    """The head of a column; an id is shown small, and broken to fit."""

    text: str
    is_number: bool = False
    is_id: bool = False


@dataclass(frozen=True)
class HtmlTable:
    """A table of the report."""

    heads: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def without_empty(self) -> "HtmlTable":
        """Returns the table without the columns in which no cell says anything."""
        columns = list(zip(*self.rows, strict=True))
        kept = [
            position
            for position, cells in enumerate(columns)
            if any(cell.text not in ("", ABSENT) for cell in cells)
        ]
        return HtmlTable(
            tuple(self.heads[position] for position in kept),
            tuple(tuple(row[position] for position in kept) for row in self.rows),
        )


@dataclass(frozen=True)
class Page:
    """All that the report says; every text may come from a store."""

    name: str
    answer: str
    made: str
    changes: HtmlTable | None
    unknown: Sequence[str]
    figures: Sequence[ReportFigure]
    not_drawn: Sequence[str]
    groups: HtmlTable | None
    notices: Sequence[str]
    runs: HtmlTable
    num_runs_left_out: int
    methods: HtmlTable
    certainty: Sequence[str]
    unmeasured: Sequence[str]
    prices: str
    place: str
    experiments: str
    versions: str


def text_cell(text: str) -> Cell:
    """Returns a cell of text."""
    return Cell(text, text)


def number_cell(text: str, value: float | None) -> Cell:
    """Returns a cell of a number, which sorts by its full precision."""
    return Cell(text, "" if value is None or value != value else repr(float(value)))


def html_report(page: Page) -> str:
    """Returns the page; each text is escaped, and control characters are shown, not sent."""
    script = _resource(_SCRIPT)
    items = {
        str(number): figure.items
        for number, figure in enumerate(page.figures, start=1)
        if figure.items
    }
    library = interactive.library().replace("</script", "<\\/script") if items else ""
    scripts = [text for text in (library, script) if text]
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string(_resource(_TEMPLATE))
    return template.render(
        vars(page)
        | {
            "figures": [
                {
                    "number": number,
                    "title": figure.title,
                    "svg": Markup(figure.svg),  # matplotlib has escaped its texts
                    "panels": figure.items,
                    "run_ids": figure.run_ids,
                }
                for number, figure in enumerate(page.figures, start=1)
            ],
            "items": Markup(_json_in_html(items)),
            "library": Markup(library),
            "script": Markup(script),
            "most_ids": MOST_IDS,
            "absent": ABSENT,
            "policy": _POLICY.format(hashes=" ".join(map(_hash, scripts))),
        }
    )


def _inert(value: object) -> object:
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return shown(value, max_chars=MAX_LINE_CHARS)


def _json_in_html(value: Any) -> str:
    """Returns JSON that cannot end the script element that holds it: the same values."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _resource(name: str) -> str:
    return (files("mlflow_carbon") / "pictures" / name).read_text(encoding="utf-8")
