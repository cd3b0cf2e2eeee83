"""What a study found that needs no knowledge of the machine: exponents and ratios."""

import math
from collections.abc import Iterator, Sequence

from mlflow_carbon.accounting.power_law import fit_power_law
from mlflow_carbon.accounting.steps_model import Estimate, StepsModel, StepsPoint, fit_steps
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.reporting.finding import (
    AGREES,
    DIFFERS,
    RATIO,
    TOO_SMALL,
    Finding,
    finding_of,
    ids_of,
    mean_kwh,
    missing,
    ratio_of,
    scaled,
    verdict_of,
)
from mlflow_carbon.reporting.paper_regions import region_ratios
from mlflow_carbon.reporting.paper_results import (
    PAPER_STEPS,
    Range,
    exponent,
    printed,
    result_of,
)
from mlflow_carbon.reporting.study_cells import PAPER_UNITS, StudyCell
from mlflow_carbon.units import joules_from_kwh, kg_from_grams

TASKS, DIMS = ("train", "synth"), (2, 3)
FROM_STEPS, TO_STEPS, SAVING = PAPER_STEPS, 200, 0.8  # section 3.4
MODEL_GROWTH = {"train": Range(1.3, 1.4), "synth": Range(1.6, 1.8)}  # section 3.2
MODEL_SIZES = ("tiny", "small", "medium", "large")  # of the project, by their weights
MIN_SIZES = 3  # two points lie on a line whatever they are
POLAND_KG, SWEDEN_KG = "405", "4.3"  # section 3.3
TABLE_ROUNDING = 0.02  # of the paper's ratio: Sweden's 7 g/kWh is one digit
MONTHS = ("2022-12", "2022-02")  # section 3.3


def ratios_of(cells: Sequence[StudyCell]) -> tuple[Finding, ...]:
    """Returns the lines of cells that were measured, in the order of trust."""
    pairs = [(dims, task) for dims in DIMS for task in TASKS]
    return (
        *(_exponent(cells, dims, task) for dims, task in pairs),
        *(_steps(cells, dims) for dims in DIMS),
        *(_volumes_over_slices(cells, task) for task in TASKS),
        *(_model_sizes(cells, dims, task) for dims, task in pairs),
        *_processes(cells),
        *_regions(cells),
        _months(),
    )


def comparable(cells: Sequence[StudyCell], dims: int, task: str) -> list[StudyCell]:
    """Returns the cells that differ in their image size only, the smallest first."""
    alone = [c for c in cells if (c.dims, c.task, c.num_processes) == (dims, task, 1)]
    groups: dict[tuple[str, int | None], list[StudyCell]] = {}
    for cell in alone:
        groups.setdefault((cell.model_size, cell.steps), []).append(cell)
    widest = max(groups.values(), key=len, default=[])
    return sorted(widest, key=lambda cell: cell.num_voxels)


def size_text(size: Sequence[int]) -> str:
    """Returns a size as the ``size`` parameter takes it: ``256x256x192``."""
    return "x".join(map(str, size))


def _exponent(cells: Sequence[StudyCell], dims: int, task: str) -> Finding:
    paper = exponent(task, dims)
    small, large = (result_of(task, dims, is_largest=largest) for largest in (False, True))
    quantity = f"energy against voxels, {dims}D {task}: exponent"
    middle = (paper.low + paper.high) / 2
    found = comparable(cells, dims, task)
    if len(found) < 2:
        return missing(quantity, f"{middle:.2f}", "fewer than two image sizes are measured")
    law = fit_power_law([(cell.num_voxels, mean_kwh(cell)) for cell in found])
    why = (
        f"{len(found)} sizes, {size_text(found[0].size)} to {size_text(found[-1].size)}; the "
        f"paper's two: {size_text(small.size)} and {size_text(large.size)}"
    )
    verdict = verdict_of(law.exponent, paper)
    if len(found) < MIN_SIZES or found[-1].num_voxels <= math.prod(small.size):
        verdict = TOO_SMALL
    return finding_of(quantity, f"{middle:.2f}", law.exponent, middle, verdict, why, found)


def step_cells(cells: Sequence[StudyCell], dims: int) -> list[StudyCell]:
    """Returns the syntheses that differ in their number of steps only, the fewest first."""
    groups: dict[tuple[str, tuple[int, ...]], list[StudyCell]] = {}
    for cell in cells:
        if cell.dims == dims and cell.steps is not None:
            groups.setdefault((cell.model_size, cell.size), []).append(cell)
    widest = max(groups.values(), key=len, default=[])
    return sorted(widest, key=lambda cell: cell.steps or 0)


def steps_model(cells: Sequence[StudyCell]) -> StepsModel:
    """Returns the line through the energies of two step counts or more."""
    return fit_steps([StepsPoint(cell.steps or 0, mean_kwh(cell)) for cell in cells])


def _steps(cells: Sequence[StudyCell], dims: int) -> Finding:
    quantity = f"{TO_STEPS} steps instead of {FROM_STEPS}, {dims}D: saving"
    found, paper = step_cells(cells, dims), f"{SAVING:.2f}"
    if len(found) < 2:
        return missing(quantity, paper, "fewer than two step counts are measured")
    model = steps_model(found)
    fixed, step = (joules_from_kwh(term.value) for term in (model.fixed_kwh, model.step_kwh))
    counts = ", ".join(map(str, model.step_counts))
    why = (
        f"{fixed:.3g} J + {step:.3g} J a step at {size_text(found[0].size)}, fitted to {counts} "
        "steps; the paper's is pure proportion, without a fixed part"
    )
    try:
        saving = model.saving_fraction(FROM_STEPS, TO_STEPS)
    except InvalidInputError as error:
        return Finding(RATIO, quantity, paper, "", None, TOO_SMALL, error.message, ids_of(found))
    verdict = verdict_of(saving, printed("80") / Range(100, 100))
    if max(model.step_counts) < FROM_STEPS:
        why += f"; {FROM_STEPS} lie far beyond what was measured"
        verdict = TOO_SMALL
    return finding_of(quantity, paper, saving, SAVING, verdict, why, found)


def _volumes_over_slices(cells: Sequence[StudyCell], task: str) -> Finding:
    quantity = f"3D over 2D, largest sizes, {task}: ratio"
    slices, volumes = (result_of(task, dims, is_largest=True) for dims in DIMS)
    paper = printed(volumes.kg) / printed(slices.kg)
    middle = float(volumes.kg) / float(slices.kg)
    largest = [found[-1] for dims in DIMS if (found := comparable(cells, dims, task))]
    if len(largest) < len(DIMS):
        return missing(quantity, f"{middle:.1f}", "2D or 3D is not measured")
    ratio = ratio_of(largest[1], largest[0])
    sizes = [cell.size for cell in largest]
    why = f"{size_text(sizes[1])} over {size_text(sizes[0])}"
    verdict = verdict_of(ratio, paper)
    if sizes != [slices.size, volumes.size]:
        why += f"; the paper's: {size_text(volumes.size)} over {size_text(slices.size)}"
        verdict = TOO_SMALL
    return finding_of(quantity, f"{middle:.1f}", ratio, middle, verdict, why, largest)


def model_size_cells(cells: Sequence[StudyCell], dims: int, task: str) -> list[StudyCell]:
    """Returns the cells that differ in their networks only, the smallest first."""
    groups: dict[tuple[tuple[int, ...], int | None], list[StudyCell]] = {}
    for cell in cells:
        is_alone = (cell.dims, cell.task, cell.num_processes) == (dims, task, 1)
        if is_alone and cell.model_size in MODEL_SIZES:
            groups.setdefault((cell.size, cell.steps), []).append(cell)
    widest = max(groups.values(), key=len, default=[])
    return sorted(widest, key=lambda cell: MODEL_SIZES.index(cell.model_size))


def _model_sizes(cells: Sequence[StudyCell], dims: int, task: str) -> Finding:
    quantity = f"largest over smallest networks, {dims}D {task}: ratio"
    paper = MODEL_GROWTH[task]
    paper_text = f"{paper.low:g} to {paper.high:g}"
    found = model_size_cells(cells, dims, task)
    if len(found) < 2:
        return missing(quantity, paper_text, "fewer than two model sizes are measured")
    ratio = ratio_of(found[-1], found[0])
    why = (
        f"{found[-1].model_size} over {found[0].model_size} at {size_text(found[0].size)}; the "
        "paper prints no widths, so ours are another three networks"
    )
    verdict = verdict_of(ratio, paper)
    if (found[0].model_size, found[-1].model_size) != ("small", "large"):
        verdict = TOO_SMALL
    middle = math.sqrt(paper.low * paper.high)
    return finding_of(quantity, paper_text, ratio, middle, verdict, why, (found[0], found[-1]))


def process_pairs(cells: Sequence[StudyCell]) -> list[tuple[StudyCell, StudyCell]]:
    """Returns each training of several processes with that of one which is otherwise the same."""
    several = [cell for cell in cells if cell.task == "train" and cell.num_processes > 1]
    alone = {
        (cell.size, cell.model_size): cell
        for cell in cells
        if cell.task == "train" and cell.num_processes == 1
    }
    return [(c, alone[c.size, c.model_size]) for c in several if (c.size, c.model_size) in alone]


def _processes(cells: Sequence[StudyCell]) -> Iterator[Finding]:
    """Yields several processes against one, at equal iterations and at equal samples."""
    paper = "no reduction"
    pairs = process_pairs(cells)
    if not pairs:
        yield missing("4 processes over 1: ratio", paper, "no two numbers of processes")
    for cell, one in pairs:
        count = cell.num_processes
        at_iterations = ratio_of(cell, one)
        for what, share in (("iterations", 1), ("samples", count)):
            ratio = scaled(at_iterations, 1 / share)
            # no reduction: one times as much, or more
            verdict = verdict_of(ratio, Range(1.0, math.inf))
            why = f"{cell.dims}D {size_text(cell.size)}; each process has one batch an iteration"
            if cell.device == "cpu":
                verdict = TOO_SMALL
                why += "; the processes share the cores of one machine"
            quantity = f"{count} processes over 1 at equal {what}: ratio"
            yield finding_of(quantity, paper, ratio, None, verdict, why, (cell, one))


def dearest_synthesis(cells: Sequence[StudyCell]) -> StudyCell | None:
    """Returns the synthesis whose sample takes most energy; ``None`` without any."""
    return max((cell for cell in cells if cell.task == "synth"), key=mean_kwh, default=None)


def _regions(cells: Sequence[StudyCell]) -> Iterator[Finding]:
    """Yields Poland over Sweden by each basis, and what the dearest sample emits in both."""
    paper = float(POLAND_KG) / float(SWEDEN_KG)
    dearest = dearest_synthesis(cells)
    for number, known in enumerate(region_ratios()):
        poland, sweden = known.poland_g_per_kwh, known.sweden_g_per_kwh
        why = f"{poland:g} over {sweden:g} g/kWh in {known.period}"
        if dearest is not None and dearest.measured is not None and dearest.measured.pue:
            kwh = mean_kwh(dearest) * PAPER_UNITS["sample"] * dearest.measured.pue
            kg = [kg_from_grams(kwh * g_per_kwh) for g_per_kwh in (poland, sweden)]
            why += f"; {dearest.name}: {kg[0]:.3g} or {kg[1]:.3g} kg for 10,000"
        verdict = verdict_of(
            Estimate(known.ratio, None, None), printed(POLAND_KG) / printed(SWEDEN_KG)
        )
        if not number:  # the paper's own table, of rounded figures
            verdict = AGREES if abs(known.ratio / paper - 1) < TABLE_ROUNDING else DIFFERS
        yield Finding(
            RATIO,
            f"Poland over Sweden by {known.basis}: ratio",
            f"{paper:.0f}",
            f"{known.ratio:.0f}",
            known.ratio / paper,
            verdict,
            why,
            () if dearest is None else (dearest.run_id,),
        )


def _months() -> Finding:
    december, february = (lookup_intensity("DE", month=month) for month in MONTHS)
    ratio = december.g_per_kwh / february.g_per_kwh
    why = (
        f"{december.intensity_set}, {december.basis}: {december.g_per_kwh:g} over "
        f"{february.g_per_kwh:g} g/kWh; no run is needed"
    )
    verdict = verdict_of(Estimate(ratio, None, None), printed("1.50"))
    quantity = "Germany 2022, December over February: ratio"
    return Finding(RATIO, quantity, "1.50", f"{ratio:.2f}", ratio / 1.5, verdict, why)
