"""One line of the table of a study: what the paper says, what was measured, whether they agree."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow_carbon.accounting.steps_model import Estimate
from mlflow_carbon.reporting.paper_results import Range
from mlflow_carbon.reporting.study_cells import StudyCell

# What a line is about, the most trusted first.
RATIO = "ratio"  # needs no knowledge of the machine
ENERGY = "energy"  # J, of this machine
MASS = "mass"  # kg, of this machine and its place
ABSENT = "absent"  # a cell without figures
KINDS = (RATIO, ENERGY, MASS, ABSENT)

AGREES = "agrees"
DIFFERS = "differs"
TOO_SMALL = "too small to tell"
NOT_MEASURED = "not measured"
OTHER_MACHINE = "another machine"
NOT_IN_PAPER = "not in the paper"

Z_95 = 1.96  # of a ratio of two means, whose windows are many


@dataclass(frozen=True)
class Finding:
    """One line of the table: what the paper says, what was measured, and whether they agree.

    Attributes:
        kind: one of ``KINDS``.
        quantity: what is compared.
        paper: as the paper has it; "" where it prints nothing.
        ours: as measured; "" where it was not.
        ratio: ours over the paper's; ``None`` where either is missing.
        verdict: ``agrees``, ``differs``, ``too small to tell``, ``not measured``, ``not in the
            paper``, or ``another machine`` where a difference is no surprise.
        why: what the figures rest on.
        run_ids: of the runs that they come from.
    """

    kind: str
    quantity: str
    paper: str
    ours: str
    ratio: float | None
    verdict: str
    why: str
    run_ids: tuple[str, ...] = ()


def mean_kwh(cell: StudyCell) -> float:
    """Returns the energy of one unit of a cell that was measured."""
    statistics = cell.statistics
    assert statistics is not None  # only measured cells come here
    return statistics.mean_kwh


def ratio_of(over: StudyCell, under: StudyCell) -> Estimate:
    """Returns a ratio of two means, with the interval that their windows' spread gives it."""
    ratio = mean_kwh(over) / mean_kwh(under)
    errors = [_relative_error(cell) for cell in (over, under)]
    if None in errors:
        return Estimate(ratio, None, None)
    margin = Z_95 * math.hypot(*(error or 0.0 for error in errors))
    return Estimate(ratio, ratio * math.exp(-margin), ratio * math.exp(margin))


def _relative_error(cell: StudyCell) -> float | None:
    statistics = cell.statistics
    if statistics is None or statistics.std_kwh is None or not statistics.mean_kwh:
        return None
    return statistics.std_kwh / statistics.mean_kwh / math.sqrt(statistics.effective_num_windows)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """Returns an estimate and its interval times a factor."""
    low, high = (None if b is None else b * factor for b in (estimate.low, estimate.high))
    return Estimate(estimate.value * factor, low, high)


def verdict_of(ours: Estimate, paper: Range) -> str:
    """Returns whether what we found may be what the paper found, by the intervals of both."""
    low = ours.value if ours.low is None else ours.low
    high = ours.value if ours.high is None else ours.high
    return AGREES if low <= paper.high and paper.low <= high else DIFFERS


def missing(quantity: str, paper: str, why: str) -> Finding:
    """Returns the line of a ratio for which cells are missing."""
    return Finding(RATIO, quantity, paper, "", None, NOT_MEASURED, why)


def finding_of(
    quantity: str,
    paper: str,
    ours: Estimate,
    paper_value: float | None,
    verdict: str,
    why: str,
    cells: Sequence[StudyCell],
) -> Finding:
    """Returns the line of a ratio: ours with its interval, and over the paper's."""
    text = f"{ours.value:.3g}"
    if ours.low is not None and ours.high is not None:
        text += f" ({ours.low:.3g} to {ours.high:.3g})"
    ratio = None if paper_value is None else ours.value / paper_value
    return Finding(RATIO, quantity, paper, text, ratio, verdict, why, ids_of(cells))


def ids_of(cells: Sequence[StudyCell]) -> tuple[str, ...]:
    """Returns the ids of the cells' runs."""
    return tuple(cell.run_id for cell in cells)
