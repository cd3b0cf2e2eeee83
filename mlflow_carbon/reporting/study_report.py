"""The report of a study: its findings as a table, as Markdown and as a page of HTML."""

import html
from collections.abc import Sequence

import pandas as pd

from mlflow_carbon.inert import markdown, shown
from mlflow_carbon.reporting.finding import Finding
from mlflow_carbon.reporting.paper_claims import check_claims
from mlflow_carbon.reporting.report import Column, Report, Table
from mlflow_carbon.reporting.study_cells import Study
from mlflow_carbon.reporting.tables import ABSENT

ID_DIGITS = 8  # of a run's id in a table for people
HEADS = ("quantity", "paper", "ours", "ratio", "verdict", "rests on", "runs")
CLAIM_HEADS = ("verdict", "claim of the paper", "place", "arithmetic")
_STYLE = """\
body { font: 15px/1.45 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; } th, td { text-align: left; vertical-align: top; }
th, td { padding: .3em .8em .3em 0; border-bottom: 1px solid #ddd; }"""
_ABOUT = (
    "The figures that need no knowledge of the machine come first: exponents and ratios, then J, "
    "then kg. Brackets hold 95 % intervals. Networks are untrained, since what they take depends "
    "on their shape and not on their weights. Ratio: ours over the paper's."
)


def findings_frame(findings: Sequence[Finding]) -> pd.DataFrame:
    """Returns one row a finding, with all run ids."""
    return pd.DataFrame(
        [{**vars(finding), "run_ids": ",".join(finding.run_ids)} for finding in findings]
    )


def study_report(study: Study, findings: Sequence[Finding]) -> Report:
    """Returns the findings as a table for people; what each rests on is in the other formats."""
    rows = [_cells(finding) for finding in findings]
    columns = [
        Column(head, [row[position] for row in rows], is_text=position != HEADS.index("ratio"))
        for position, head in enumerate(HEADS)
        if head != "rests on"
    ]
    return Report.of(f"{_title(study)}\n\n", Table(tuple(columns), num_keys=1), f"\n{_ABOUT}\n")


def study_markdown(study: Study, findings: Sequence[Finding]) -> str:
    """Returns the report in Markdown."""
    lines = [f"# {markdown(_title(study))}", "", markdown(_ABOUT), ""]
    lines += [f"- Machine: {markdown(machine)}" for machine in study.machines]
    lines += ["", *_markdown_table(HEADS, [_cells(finding) for finding in findings])]
    lines += ["", "## The paper's claims against its own figures", ""]
    return "\n".join([*lines, *_markdown_table(CLAIM_HEADS, _claims()), ""])


def study_html(study: Study, findings: Sequence[Finding]) -> str:
    """Returns the report as a page of HTML, which needs no other file."""
    title = html.escape(shown(_title(study)))
    machines = "".join(f"<li>Machine: {html.escape(shown(each))}</li>" for each in study.machines)
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1><p>{html.escape(_ABOUT)}</p><ul>{machines}</ul>",
        _html_table(HEADS, [_cells(finding) for finding in findings]),
        "<h2>The paper's claims against its own figures</h2>",
        _html_table(CLAIM_HEADS, _claims()),
        "</body></html>",
    ]
    return "\n".join([*parts, ""])


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


def _markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return lines + [f"| {' | '.join(map(markdown, row))} |" for row in rows]


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{html.escape(shown(text))}</td>' for text in row)}</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
