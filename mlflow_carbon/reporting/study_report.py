"""The report of a study: its findings as a table, as Markdown and as a page of HTML."""

import base64
import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from mlflow_carbon.accounting.amounts import energy_text, mass_text
from mlflow_carbon.inert import markdown, shown
from mlflow_carbon.reporting.finding import ABSENT as ABSENT_CELL
from mlflow_carbon.reporting.finding import ENERGY, MASS, RATIO, Finding
from mlflow_carbon.reporting.paper_claims import check_claims
from mlflow_carbon.reporting.report import Column, Report, Table, beside
from mlflow_carbon.reporting.study_cells import Study
from mlflow_carbon.reporting.tables import ABSENT
from mlflow_carbon.units import SECONDS_PER_MINUTE

ID_DIGITS = 8  # of a run's id in a table for people
WHY, ARITHMETIC = "rests on", "arithmetic"
HEADS = ("quantity", "paper", "ours", "ratio", "verdict", WHY, "runs")
CLAIM_HEADS = ("verdict", "claim of the paper", "place", ARITHMETIC)
CLAIMS_TITLE = "The paper's claims against its own figures"
FIGURES_TITLE = "The paper's four figures"
TITLE_BY_KIND = {
    RATIO: "What needs no knowledge of the machine",
    ENERGY: "Energy of an iteration and of a sample",
    MASS: "CO2e of the paper's amounts",
    ABSENT_CELL: "Cells without figures",
}
NOTE_BY_KIND = {
    RATIO: "Brackets: 95 % interval. Where machine or grid is too small to tell, it says so.",
    ENERGY: "Mean ± std of a window, of each cell on the machine that is named.",
    MASS: (
        "Mean ± std of a window x N, as the paper prints it; in brackets the 95 % prediction "
        "interval of `mlflow-carbon predict`."
    ),
    ABSENT_CELL: "Why each has none.",
}
_STYLE = """\
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 80em; margin: 0 auto; padding: 1em; }
h1 { font-size: 1.5em; overflow-wrap: anywhere; } h2 { font-size: 1.15em; margin-top: 2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92em; min-width: 56em; }
th, td { text-align: left; vertical-align: top; padding: .35em .9em .35em 0; }
th, td { border-bottom: 1px solid #ddd; } td.number { font-variant-numeric: tabular-nums; }
td.runs { font-family: ui-monospace, monospace; font-size: .85em; color: #555; }
.agrees { color: #0a6b3d; font-weight: 600; } .differs { color: #a33a00; font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26em), 1fr)); }
.figures { gap: 1.5em; } figure { margin: 0; } figcaption { font-weight: 600; }
img { width: 100%; height: auto; }"""
ABOUT = (
    "The figures that need no knowledge of the machine come first: exponents and ratios, then J, "
    "then kg. Networks are untrained, since what they take depends "
    "on their shape and not on their weights. Ratio: ours over the paper's."
)


@dataclass(frozen=True)
class Illustration:
    """A figure of the report.

    Attributes:
        name: of its file, without an ending.
        title: above it.
        svg: the drawing; "" where there is none.
        problem: why it is not drawn; "" where it is.
    """

    name: str
    title: str
    svg: str = ""
    problem: str = ""


def findings_frame(findings: Sequence[Finding]) -> pd.DataFrame:
    """Returns one row a finding, with all run ids."""
    return pd.DataFrame(
        [{**vars(finding), "run_ids": ",".join(finding.run_ids)} for finding in findings]
    )


def study_report(study: Study, findings: Sequence[Finding]) -> Report:
    """Returns the findings for people; what each rests on, and its runs, the other formats say."""
    parts: list[str | Table] = ["".join(f"{line}\n" for line in [_title(study), *summary(study)])]
    for title, of_kind in _sections(findings):
        parts.append(f"\n{title}\n")
        if of_kind[0].kind in (ENERGY, MASS):
            parts += _amounts(of_kind)
        else:
            parts.append(_verdicts(of_kind))
    return Report.of(*parts, f"\n{ABOUT}\n")


def _verdicts(findings: Sequence[Finding]) -> str:
    """Returns each verdict with its quantity beside it, and the figures, or why there are none."""
    width = max(len(each.verdict) for each in findings)
    lines = []
    for each in findings:
        _, paper, ours, ratio, *_ = _cells(each)
        figures = f"ours {ours}, paper {paper}, ratio {ratio}"
        if not each.ours:
            figures = each.why
        lines += beside(each.verdict, each.quantity, figures, label_width=width)
    return "".join(f"{line}\n" for line in lines)


def _amounts(findings: Sequence[Finding]) -> Iterator[str | Table]:
    """Yields a table for each unit of the cells' amounts; the paper's where it prints any."""
    amounts: dict[str, list[tuple[str, Finding]]] = {}
    for finding in findings:
        cell, _, unit = finding.quantity.rpartition(": ")
        amounts.setdefault(unit, []).append((cell, finding))
    for position, (unit, rows) in enumerate(amounts.items()):
        if position:
            yield "\n"
        # the interval in brackets would not fit a terminal
        ours = [finding.ours.partition(" (")[0] or finding.verdict for _, finding in rows]
        columns = [Column(unit, [cell for cell, _ in rows], is_text=True), Column("ours", ours)]
        if any(finding.paper for _, finding in rows):
            for head in ("paper", "ratio"):
                texts = [_cells(finding)[HEADS.index(head)] for _, finding in rows]
                columns.append(Column(head, texts))
        yield Table(tuple(columns), num_keys=1)


def summary(study: Study) -> list[str]:
    """Returns a sentence each on the study's duration, energy and CO2e, and on its machines."""
    grams = [
        run.energy_kwh * run.pue * run.intensity.g_per_kwh
        for cell in study.cells
        if (run := cell.measured) is not None and run.pue is not None and run.intensity is not None
    ]
    took = []
    if study.duration_s is not None:
        took.append(f"{study.duration_s / SECONDS_PER_MINUTE:.1f} min from its start to its end")
    if study.machines:
        took.append(f"its cells {energy_text(study.energy_kwh)} of IT energy")
        took += [f"{mass_text(sum(grams))} CO2e"] if grams else []
    sentences = [f"It took {', '.join(took)}."] if took else []
    sentences += [f"Machine: {machine}." for machine in study.machines]
    num_shared = sum(bool(cell.measured and cell.other_load) for cell in study.cells)
    if num_shared:
        sentences.append(
            f"Other work used the machine beside {num_shared} of {len(study.cells)} cells: it "
            "slowed them, and their figures vary more than on a quiet one."
        )
    return sentences


def study_markdown(
    study: Study, findings: Sequence[Finding], illustrations: Sequence[Illustration] = ()
) -> str:
    """Returns the report in Markdown; its figures lie beside it, as ``NAME.svg``."""
    lines = [f"# {markdown(_title(study))}", "", markdown(ABOUT), ""]
    lines += [f"- {markdown(sentence)}" for sentence in summary(study)]
    for title, of_kind in _sections(findings):
        lines += ["", f"## {title}", "", NOTE_BY_KIND[of_kind[0].kind], ""]
        lines += findings_markdown(of_kind)
    if illustrations:
        lines += ["", f"## {FIGURES_TITLE}", ""]
        lines += [illustration_markdown(each) + "\n" for each in illustrations]
    lines += ["", f"## {CLAIMS_TITLE}", "", *claims_markdown()]
    return "\n".join([*lines, ""])


def findings_markdown(findings: Sequence[Finding], without: Sequence[str] = ()) -> list[str]:
    """Returns the lines of a table of findings, without some of its ``HEADS``."""
    return _markdown_table(HEADS, [_cells(finding) for finding in findings], without)


def claims_markdown(without: Sequence[str] = ()) -> list[str]:
    """Returns the lines of the table of the paper's own claims, without some ``CLAIM_HEADS``."""
    return _markdown_table(CLAIM_HEADS, _claims(), without)


def illustration_markdown(illustration: Illustration, folder: str = "") -> str:
    """Returns the picture of a figure that lies in a folder, or why there is none."""
    if not illustration.svg:
        return f"{illustration.title}: not drawn, {markdown(illustration.problem)}."
    return f"![{illustration.title}]({folder}{illustration.name}.svg)"


def study_html(
    study: Study, findings: Sequence[Finding], illustrations: Sequence[Illustration] = ()
) -> str:
    """Returns the report as a page of HTML, which needs no other file."""
    title = html.escape(shown(_title(study)))
    facts = "".join(f"<li>{html.escape(shown(each))}</li>" for each in summary(study))
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{html.escape(ABOUT)}</p><ul>{facts}</ul>",
    ]
    for heading, of_kind in _sections(findings):
        note = html.escape(NOTE_BY_KIND[of_kind[0].kind].replace("`", ""))
        parts += [f"<h2>{html.escape(heading)}</h2><p>{note}</p>", _findings_html(of_kind)]
        if of_kind[0].kind == RATIO and illustrations:
            parts += [f"<h2>{html.escape(FIGURES_TITLE)}</h2>", _figures_html(illustrations)]
    parts += [f"<h2>{html.escape(CLAIMS_TITLE)}</h2>", _html_table(CLAIM_HEADS, _claim_rows())]
    return "\n".join([*parts, "</body></html>", ""])


def _sections(findings: Sequence[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Yields the title and the findings of each kind that has any, the most trusted first."""
    for kind, title in TITLE_BY_KIND.items():
        of_kind = [finding for finding in findings if finding.kind == kind]
        if of_kind:
            yield title, of_kind


def _title(study: Study) -> str:
    num_done = sum(cell.measured is not None for cell in study.cells)
    name = study.name or "study"
    return f"{name}: {num_done} of {study.num_cells} cells measured, run {study.run_id}"


def _cells(finding: Finding) -> tuple[str, ...]:
    ratio = ABSENT if finding.ratio is None else f"{finding.ratio:.3g}"
    runs = " ".join(run_id[:ID_DIGITS] for run_id in finding.run_ids)
    texts = (finding.paper, finding.ours, ratio, finding.verdict, finding.why, runs)
    return (finding.quantity, *(text or ABSENT for text in texts))


def _claims() -> list[tuple[str, ...]]:
    return [(claim.verdict, claim.claim, claim.place, claim.arithmetic) for claim in check_claims()]


def _markdown_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], without: Sequence[str]
) -> list[str]:
    kept = [position for position, head in enumerate(heads) if head not in without]
    lines = [[heads[at] for at in kept], ["---"] * len(kept)]
    lines += [[markdown(row[at]) for at in kept] for row in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _findings_html(findings: Sequence[Finding]) -> str:
    rows = []
    for finding in findings:
        cells = [f"<td>{html.escape(shown(text))}</td>" for text in _cells(finding)]
        verdict = f'<td class="{finding.verdict}">{html.escape(finding.verdict)}</td>'
        cells[HEADS.index("verdict")] = verdict
        ids = html.escape(shown(" ".join(finding.run_ids)))
        runs = html.escape(shown(_cells(finding)[-1]))
        cells[HEADS.index("runs")] = f'<td class="runs" title="{ids}">{runs}</td>'
        rows.append("".join(cells))
    return _html_table(HEADS, rows)


def _claim_rows() -> list[str]:
    return ["".join(f"<td>{html.escape(text)}</td>" for text in claim) for claim in _claims()]


def _figures_html(illustrations: Sequence[Illustration]) -> str:
    """Returns the figures as pictures in the page, in which no text of a store can act."""
    figures = []
    for each in illustrations:
        title = html.escape(each.title)
        data = base64.b64encode(each.svg.encode()).decode()
        body = f'<img alt="{title}" src="data:image/svg+xml;base64,{data}">'
        if not each.svg:
            body = f"<p>Not drawn: {html.escape(shown(each.problem))}.</p>"
        figures.append(f"<figure><figcaption>{title}</figcaption>{body}</figure>")
    return f'<div class="figures">{"".join(figures)}</div>'


def _html_table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Returns a table whose rows are cells in HTML already; it scrolls where it is too wide."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'
