"""Reports as Markdown and as LaTeX (booktabs), to be pasted into a page or a paper."""

from collections.abc import Callable, Sequence

from mlflow_carbon.inert import MAX_CELL_CHARS, bibtex, markdown, shown
from mlflow_carbon.reporting.report import Column, Report, Table

_LATEX_BY_CHAR = {
    "±": r"$\pm$",
    "×": r"$\times$",
    "µ": r"\textmu{}",
    "°": r"\textdegree{}",
    "−": r"$-$",
    "…": r"\dots{}",
    "<": r"$<$",
    ">": r"$>$",
}


def to_markdown(report: Report) -> str:
    """Returns a report as Markdown: tables with pipes, sentences as paragraphs."""
    return _joined(report, _markdown_table, markdown)


def to_latex(report: Report) -> str:
    r"""Returns a report as LaTeX for a document that uses ``booktabs`` and ``textcomp``."""
    return _joined(report, _latex_table, latex)


def latex(text: str) -> str:
    """Returns text that LaTeX prints as it is, on one line."""
    return "".join(_LATEX_BY_CHAR.get(char, char) for char in bibtex(text))


def _joined(report: Report, table: Callable[[Table], str], inert: Callable[[str], str]) -> str:
    """Returns the parts of a report, an empty line between any two."""
    parts: list[str] = []
    for part in report.parts:
        if isinstance(part, Table):
            parts.append(table(part))
            continue
        paragraphs = [text.strip() for text in part.split("\n\n")]
        parts += ["\n".join(map(inert, text.split("\n"))) for text in paragraphs if text]
    return "\n\n".join(parts) + "\n" if parts else ""


def _markdown_table(table: Table) -> str:
    marks = ["---" if column.is_text else "---:" for column in table.columns]
    rows = _rows(table.columns, markdown)
    lines = [rows[0], marks, *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _latex_table(table: Table) -> str:
    places = "".join("l" if column.is_text else "r" for column in table.columns)
    head, *rows = (f"{' & '.join(line)} \\\\" for line in _rows(table.columns, latex))
    lines = [f"\\begin{{tabular}}{{{places}}}", r"\toprule", head, r"\midrule", *rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _rows(columns: Sequence[Column], inert: Callable[[str], str]) -> list[list[str]]:
    """Returns the head and the rows of a table, every cell inert."""
    cells = (
        [inert(shown(text, max_chars=MAX_CELL_CHARS)) for text in (column.head, *column.texts)]
        for column in columns
    )
    return [list(row) for row in zip(*cells, strict=True)]
