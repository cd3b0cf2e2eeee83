"""Writes what was measured into docs/study.md, and the paper's four figures beside it.

Run it as ``python -m benchmarks.study_page``. It reads the studies that are kept in
``benchmarks/measured/study`` and replaces what stands between the page's marks, ``<!-- made: NAME
-->`` and ``<!-- end -->``; the other sentences of the page are written by hand.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.study_database import opened
from mlflow_carbon.pictures.study_pictures import study_illustrations
from mlflow_carbon.reporting.finding import ENERGY, KINDS, MASS, RATIO, Finding
from mlflow_carbon.reporting.study_cells import Study, find_study, read_study
from mlflow_carbon.reporting.study_findings import findings_of
from mlflow_carbon.reporting.study_report import (
    ARITHMETIC,
    WHY,
    Illustration,
    claims_markdown,
    findings_markdown,
    illustration_markdown,
    summary,
)
from mlflow_carbon.store.access import open_client

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "benchmarks" / "measured" / "study"
KEPT = STUDIES / "laptop.db.xz"
KEPT_OF_GPU = STUDIES / "h200.db.xz"
SHOWN_OF_GPU = ("took", "ratios", "energy")
PAGE = ROOT / "docs" / "study.md"
FIGURES = ROOT / "docs" / "pictures" / "study"
_BLOCK = re.compile(r"(<!-- made: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Kept:
    """A study that is kept, with its table and its figures."""

    study: Study
    findings: tuple[Finding, ...]
    illustrations: Sequence[Illustration]


def read_kept(kept: Path) -> Kept:
    """Returns the study of a kept database."""
    with opened(kept) as tracking_uri:
        client = open_client(tracking_uri)
        study = read_study(client, find_study(client, None))
    return Kept(study, findings_of(study), study_illustrations(study))


def blocks_of(kept: Kept, kept_of_gpu: Kept) -> dict[str, str]:
    """Returns the page's tables of two studies, by the names of their marks."""
    pictures = [illustration_markdown(each, "pictures/study/") for each in kept.illustrations]
    return {
        **tables_of(kept),
        **{f"gpu_{name}": tables_of(kept_of_gpu)[name] for name in SHOWN_OF_GPU},
        "figures": "\n".join(pictures),
        "claims": "\n".join(claims_markdown([ARITHMETIC])),
    }


def tables_of(kept: Kept) -> dict[str, str]:
    """Returns the tables of one study by their names."""
    of_kind = {kind: [each for each in kept.findings if each.kind == kind] for kind in KINDS}
    return {
        "took": "\n".join(summary(kept.study)),
        "ratios": "\n".join(findings_markdown(of_kind[RATIO])),
        "energy": "\n".join(findings_markdown(of_kind[ENERGY], [WHY])),
        "mass": "\n".join(findings_markdown(of_kind[MASS], [WHY])),
    }


def filled(page: str, blocks: dict[str, str]) -> str:
    """Returns a page with the blocks between its marks.

    Raises:
        KeyError: a mark has a name that there is no block of.
    """
    return _BLOCK.sub(lambda mark: f"{mark[1]}{blocks[mark[2]]}\n{mark[3]}", page)


def main() -> None:
    """Writes the page and its figures."""
    kept = read_kept(KEPT)
    blocks = blocks_of(kept, read_kept(KEPT_OF_GPU))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), blocks), encoding="utf-8")
    FIGURES.mkdir(parents=True, exist_ok=True)
    for each in kept.illustrations:
        (FIGURES / f"{each.name}.svg").write_text(each.svg, encoding="utf-8")
    print(f"Wrote {PAGE} and {len(kept.illustrations)} figures in {FIGURES}.")


if __name__ == "__main__":
    main()
