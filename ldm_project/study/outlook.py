"""What a cell will take, by its arithmetic and by what cells like it have taken on this machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ldm_project.diffusion.flops import Cost, cost_of
from ldm_project.study.cells import TRAIN, Cell
from ldm_project.study.work import spec_of_cell

# A backward pass computes the gradients of the inputs and of the weights of every layer.
PASSES_PER_ITERATION = 3
MAX_PROBED_STEPS, MAX_PROBED_PARTS = 5, 10_000  # a probe ends by the clock


@dataclass(frozen=True)
class Seen:
    """What a piece of work has taken: by task, TFLOP of a unit, s and kWh of a unit.

    ``energy_kwh`` is ``None`` where it cannot be measured.
    """

    task: str
    tflop: float
    duration_s: float
    energy_kwh: float | None


@dataclass(frozen=True)
class Outlook:
    """What work takes, in s and kWh; each is ``None`` where it is not known."""

    duration_s: float | None
    energy_kwh: float | None


def tflop_per_unit(cell: Cell, known: dict[str, Cost]) -> float:
    """Returns the TFLOP of one unit of a cell, in all its processes.

    Args:
        cell: of a grid.
        known: the cost of the networks counted so far, by a name of them; added to.
    """
    spec = spec_of_cell(cell)
    name = f"{spec.size} {spec.model_size}"
    cost = known[name] if name in known else known.setdefault(name, cost_of(spec))
    if cell.task == TRAIN:
        num_images = cell.batch_size * cell.num_processes
        return PASSES_PER_ITERATION * num_images * cost.step_tflop
    assert cell.steps is not None
    return cost.sample_tflop(cell.steps)


def outlook(cell: Cell, tflop: float, seen: Sequence[Seen]) -> Outlook:
    """Returns the forecast cost of a cell, at the rate of work of its task nearest in arithmetic.

    Small networks reach fewer TFLOP/s than large ones, so work that is far smaller promises more
    than a cell takes.

    Args:
        cell: of a grid.
        tflop: of one unit of the cell.
        seen: what work of any task has taken.

    Returns:
        Nothing known if no work of the task was seen.
    """
    of_task = [work for work in seen if work.task == cell.task]
    if not of_task:
        return Outlook(None, None)
    nearest = min(of_task, key=lambda work: abs(math.log(work.tflop / tflop)))
    scale = cell.num_units * tflop / nearest.tflop
    energy_kwh = None if nearest.energy_kwh is None else scale * nearest.energy_kwh
    return Outlook(scale * nearest.duration_s, energy_kwh)


def total(outlooks: Sequence[Outlook]) -> Outlook:
    """Returns the forecast cost of several cells; unknown if that of one is."""
    return Outlook(
        _sum([each.duration_s for each in outlooks]), _sum([each.energy_kwh for each in outlooks])
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def probe_of(cell: Cell) -> Cell:
    """Returns a cell whose parts are short, to probe what those of a cell take."""
    steps = None if cell.steps is None else min(cell.steps, MAX_PROBED_STEPS)
    return replace(
        cell, steps=steps, num_processes=1, num_windows=MAX_PROBED_PARTS, num_warmup_windows=0
    )
