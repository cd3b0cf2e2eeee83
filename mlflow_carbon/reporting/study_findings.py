"""What a study found beside what the paper says: each quantity with a verdict, most trusted first.

Ratios and exponents come first: they need no knowledge of the machine. Joules depend on it, and
masses on its place too.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlflow_carbon.accounting.power_law import fit_power_law
from mlflow_carbon.accounting.steps_model import Estimate, StepsPoint, fit_steps
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.reporting.paper_results import (
    PaperResult,
    Range,
    exponent,
    printed,
    result_of,
)
from mlflow_carbon.reporting.prediction import predict
from mlflow_carbon.reporting.study_cells import PAPER_UNITS, Study, StudyCell
from mlflow_carbon.units import joules_from_kwh, kg_from_grams

AGREES = "agrees"
DIFFERS = "differs"
TOO_SMALL = "too small to tell"
_MIN_WINDOWS = 2  # for a spread
NOT_MEASURED = "not measured"
OTHER_MACHINE = "another machine"
NOT_IN_PAPER = "not in the paper"

TASKS, DIMS = ("train", "synth"), (2, 3)
UNIT_BY_TASK = {"train": "iteration", "synth": "sample"}
FROM_STEPS, TO_STEPS, SAVING = 1000, 200, 0.8  # section 3.4
MODEL_GROWTH = {"train": Range(1.3, 1.4), "synth": Range(1.6, 1.8)}  # section 3.2
MIN_SIZES = 3  # two points lie on a line whatever they are
Z_95 = 1.96  # of a ratio of two means, whose windows are many
MONTHS = ("2022-12", "2022-02")  # section 3.3
REGION_SETS = {
    "paper_table1": "the paper's Table 1, of mixed bases",
    "eea": "direct emissions (EEA)",
    "ember": "life-cycle emissions (Ember)",
}
MODEL_SIZES = ("tiny", "small", "medium", "large")  # of the project, by their weights


@dataclass(frozen=True)
class Finding:
    """One line of the table: what the paper says, what was measured, and whether they agree.

    Attributes:
        quantity: what is compared.
        paper: as the paper has it; "" where it prints nothing.
        ours: as measured; "" where it was not.
        ratio: ours over the paper's; ``None`` where either is missing.
        verdict: ``agrees``, ``differs``, ``too small to tell``, ``not measured``, ``not in the
            paper``, or ``another machine`` where a difference is no surprise.
        why: what the figures rest on.
        run_ids: of the runs that they come from.
    """

    quantity: str
    paper: str
    ours: str
    ratio: float | None
    verdict: str
    why: str
    run_ids: tuple[str, ...] = ()


def findings_of(study: Study) -> tuple[Finding, ...]:
    """Returns the table of a study, in the order of trust."""
    measured = [
        cell for cell in study.cells if cell.statistics is not None and cell.statistics.mean_kwh > 0
    ]
    pairs = [(dims, task) for dims in DIMS for task in TASKS]
    return (
        *(_exponent(measured, dims, task) for dims, task in pairs),
        *(_steps(measured, dims) for dims in DIMS),
        *(_volumes_over_slices(measured, task) for task in TASKS),
        *(_model_sizes(measured, dims, task) for dims, task in pairs),
        *_processes(measured),
        *_regions(measured),
        _months(),
        *(_joules(cell) for cell in measured),
        *(finding for cell in measured for finding in _mass(cell)),
        *(_absent(cell) for cell in study.cells if cell not in measured),
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
        return _missing(quantity, f"{middle:.2f}", "fewer than two image sizes are measured")
    law = fit_power_law([(cell.num_voxels, _mean_kwh(cell)) for cell in found])
    why = (
        f"{len(found)} sizes, {size_text(found[0].size)} to {size_text(found[-1].size)}; the "
        f"paper's two: {size_text(small.size)} and {size_text(large.size)}"
    )
    verdict = _verdict(law.exponent, paper)
    if len(found) < MIN_SIZES or found[-1].num_voxels <= math.prod(small.size):
        verdict = TOO_SMALL
    return _finding(quantity, f"{middle:.2f}", law.exponent, middle, verdict, why, found)


def _steps(cells: Sequence[StudyCell], dims: int) -> Finding:
    quantity = f"{TO_STEPS} steps instead of {FROM_STEPS}, {dims}D: saving"
    groups: dict[tuple[str, tuple[int, ...]], list[StudyCell]] = {}
    for cell in cells:
        if cell.dims == dims and cell.steps is not None:
            groups.setdefault((cell.model_size, cell.size), []).append(cell)
    found = max(groups.values(), key=len, default=[])
    paper = f"{SAVING:.2f}"
    if len(found) < 2:
        return _missing(quantity, paper, "fewer than two step counts are measured")
    model = fit_steps([StepsPoint(cell.steps or 0, _mean_kwh(cell)) for cell in found])
    fixed, step = (joules_from_kwh(term.value) for term in (model.fixed_kwh, model.step_kwh))
    counts = ", ".join(map(str, model.step_counts))
    why = (
        f"{fixed:.3g} J + {step:.3g} J a step at {size_text(found[0].size)}, fitted to {counts} "
        "steps"
    )
    if not {FROM_STEPS, TO_STEPS} <= set(model.step_counts):
        why += f"; {FROM_STEPS} and {TO_STEPS} are extrapolated"
    try:
        saving = model.saving_fraction(FROM_STEPS, TO_STEPS)
    except InvalidInputError as error:
        return Finding(quantity, paper, "", None, TOO_SMALL, error.message, _ids(found))
    verdict = _verdict(saving, printed("80") / Range(100, 100))
    return _finding(quantity, paper, saving, SAVING, verdict, why, found)


def _volumes_over_slices(cells: Sequence[StudyCell], task: str) -> Finding:
    quantity = f"3D over 2D, largest sizes, {task}: ratio"
    slices, volumes = (result_of(task, dims, is_largest=True) for dims in DIMS)
    paper = printed(volumes.kg) / printed(slices.kg)
    middle = float(volumes.kg) / float(slices.kg)
    largest = [found[-1] for dims in DIMS if (found := comparable(cells, dims, task))]
    if len(largest) < len(DIMS):
        return _missing(quantity, f"{middle:.1f}", "2D or 3D is not measured")
    ratio = _ratio(largest[1], largest[0])
    sizes = [cell.size for cell in largest]
    why = f"{size_text(sizes[1])} over {size_text(sizes[0])}"
    verdict = _verdict(ratio, paper)
    if sizes != [slices.size, volumes.size]:
        why += f"; the paper's: {size_text(volumes.size)} over {size_text(slices.size)}"
        verdict = TOO_SMALL
    return _finding(quantity, f"{middle:.1f}", ratio, middle, verdict, why, largest)


def _model_sizes(cells: Sequence[StudyCell], dims: int, task: str) -> Finding:
    quantity = f"largest over smallest networks, {dims}D {task}: ratio"
    paper = MODEL_GROWTH[task]
    paper_text = f"{paper.low:g} to {paper.high:g}"
    groups: dict[tuple[tuple[int, ...], int | None], list[StudyCell]] = {}
    for cell in cells:
        is_alone = (cell.dims, cell.task, cell.num_processes) == (dims, task, 1)
        if is_alone and cell.model_size in MODEL_SIZES:
            groups.setdefault((cell.size, cell.steps), []).append(cell)
    found = max(groups.values(), key=len, default=[])
    if len(found) < 2:
        return _missing(quantity, paper_text, "fewer than two model sizes are measured")
    found = sorted(found, key=lambda cell: MODEL_SIZES.index(cell.model_size))
    ratio = _ratio(found[-1], found[0])
    why = (
        f"{found[-1].model_size} over {found[0].model_size} at {size_text(found[0].size)}; the "
        "paper prints no widths, so ours are another three networks"
    )
    verdict = _verdict(ratio, paper)
    if (found[0].model_size, found[-1].model_size) != ("small", "large"):
        verdict = TOO_SMALL
    middle = math.sqrt(paper.low * paper.high)
    return _finding(quantity, paper_text, ratio, middle, verdict, why, (found[0], found[-1]))


def _processes(cells: Sequence[StudyCell]) -> Iterator[Finding]:
    """Yields several processes against one, at equal iterations and at equal samples."""
    paper = "no reduction"
    several = [cell for cell in cells if cell.task == "train" and cell.num_processes > 1]
    alone = {
        (cell.size, cell.model_size): cell
        for cell in cells
        if cell.task == "train" and cell.num_processes == 1
    }
    pairs = [(c, alone[c.size, c.model_size]) for c in several if (c.size, c.model_size) in alone]
    if not pairs:
        yield _missing("4 processes over 1: ratio", paper, "no two numbers of processes")
    for cell, one in pairs:
        count = cell.num_processes
        at_iterations = _ratio(cell, one)
        for what, share in (("iterations", 1), ("samples", count)):
            ratio = _scaled(at_iterations, 1 / share)
            # no reduction: one times as much, or more
            verdict = _verdict(ratio, Range(1.0, math.inf))
            why = f"{cell.dims}D {size_text(cell.size)}; each process has one batch an iteration"
            if cell.device == "cpu":
                verdict = TOO_SMALL
                why += "; the processes share the cores of one machine"
            quantity = f"{count} processes over 1 at equal {what}: ratio"
            yield _finding(quantity, paper, ratio, None, verdict, why, (cell, one))


def _regions(cells: Sequence[StudyCell]) -> Iterator[Finding]:
    """Yields Poland over Sweden by each basis, and what the dearest sample emits in both."""
    paper = 405 / 4.3  # section 3.3
    dearest = max((cell for cell in cells if cell.task == "synth"), key=_mean_kwh, default=None)
    for name, basis in REGION_SETS.items():
        poland, sweden = (lookup_intensity(code, intensity_set=name) for code in ("PL", "SE"))
        ratio = poland.g_per_kwh / sweden.g_per_kwh
        why = f"{name} {poland.period}: {poland.g_per_kwh:g} over {sweden.g_per_kwh:g} g/kWh"
        if dearest is not None and dearest.measured is not None and dearest.measured.pue:
            kwh = _mean_kwh(dearest) * PAPER_UNITS["sample"] * dearest.measured.pue
            kg = [kwh * each.g_per_kwh / 1000 for each in (poland, sweden)]
            why += f"; {dearest.name}: {kg[0]:.3g} or {kg[1]:.3g} kg for 10,000"
        verdict = _verdict(Estimate(ratio, None, None), printed("405") / printed("4.3"))
        if name == "paper_table1":  # the paper's own table, of rounded figures
            verdict = AGREES if abs(ratio / paper - 1) < 0.02 else DIFFERS
        runs = () if dearest is None else (dearest.run_id,)
        texts = (f"{paper:.0f}", f"{ratio:.0f}")
        yield Finding(
            f"Poland over Sweden by {basis}: ratio", *texts, ratio / paper, verdict, why, runs
        )


def _months() -> Finding:
    december, february = (lookup_intensity("DE", month=month) for month in MONTHS)
    ratio = december.g_per_kwh / february.g_per_kwh
    why = (
        f"{december.intensity_set}, {december.basis}: {december.g_per_kwh:g} over "
        f"{february.g_per_kwh:g} g/kWh"
    )
    verdict = _verdict(Estimate(ratio, None, None), Range(1.495, 1.505))
    quantity = "Germany 2022, December over February: ratio"
    return Finding(quantity, "1.50", f"{ratio:.2f}", ratio / 1.5, verdict, why)


def _joules(cell: StudyCell) -> Finding:
    """Returns the energy of one unit of a cell, beside the paper's where it prints one."""
    statistics = cell.statistics
    assert statistics is not None
    joules, unit = joules_from_kwh(statistics.mean_kwh), UNIT_BY_TASK[cell.task]
    spread = "" if statistics.std_kwh is None else f" ± {joules_from_kwh(statistics.std_kwh):.2g}"
    quantity = f"{cell.name}: J per {unit}"
    why = f"{statistics.num_windows} windows on {cell.hardware or 'unknown hardware'}"
    paper = _same_in_paper(cell)
    if paper is None:
        ours = f"{joules:.3g}{spread}"
        return Finding(quantity, "", ours, None, NOT_IN_PAPER, why, (cell.run_id,))
    paper_joules = joules_from_kwh(paper.energy_kwh_per_unit)
    return Finding(
        quantity,
        f"{paper_joules:.3g}",
        f"{joules:.3g}{spread}",
        joules / paper_joules,
        OTHER_MACHINE,
        f"{why}; the paper's: one A100 40GB and two EPYC 7513",
        (cell.run_id,),
    )


def _mass(cell: StudyCell) -> Iterator[Finding]:
    """Yields the CO2e of the paper's number of units, as `predict` has it, where it has a price."""
    run = cell.measured
    assert run is not None
    if run.intensity is None or run.pue is None:
        return
    num_units = PAPER_UNITS[run.unit]
    quantity = f"{cell.name}: kg CO2e of {num_units:,} {run.unit}s"
    if len(run.windows) < _MIN_WINDOWS:  # the others were shorter than the counter's step
        yield Finding(quantity, "", "", None, TOO_SMALL, "one window has no spread", (cell.run_id,))
        return
    row = predict(run, num_units, intensities=[run.intensity]).table.iloc[0]
    kg, spread, low, high = (
        kg_from_grams(row[name])
        for name in ("co2e_g", "co2e_g_spread", "co2e_g_prediction_low", "co2e_g_prediction_high")
    )
    ours = f"{kg:.3g} ± {spread:.2g} ({low:.3g} to {high:.3g})"
    why = (
        f"mean ± spread x N, as the paper prints it, and the {row['confidence_fraction']:.0%} "
        f"prediction interval; {run.intensity.g_per_kwh:g} g/kWh, PUE {run.pue:g}"
    )
    paper = _same_in_paper(cell)
    if paper is None:
        yield Finding(quantity, "", ours, None, NOT_IN_PAPER, why, (cell.run_id,))
    else:
        text, ratio = f"{paper.kg} ± {paper.std_kg}", kg / float(paper.kg)
        yield Finding(quantity, text, ours, ratio, OTHER_MACHINE, why, (cell.run_id,))


def _same_in_paper(cell: StudyCell) -> PaperResult | None:
    """Returns the paper's result for a cell; ``None`` where it prints none."""
    if cell.num_processes > 1 or cell.steps not in (None, FROM_STEPS):
        return None
    results = [result_of(cell.task, cell.dims, is_largest=largest) for largest in (False, True)]
    return next((result for result in results if result.size == cell.size), None)


def _absent(cell: StudyCell) -> Finding:
    """Returns why a cell has no figure."""
    why = f"{cell.state}: {cell.problem}" if cell.problem else cell.state
    if cell.measured is not None:
        why = "its windows were too short for this machine's counters: no energy was seen"
    return Finding(cell.name, "", "", None, NOT_MEASURED, why, (cell.run_id,))


def _mean_kwh(cell: StudyCell) -> float:
    statistics = cell.statistics
    assert statistics is not None  # only measured cells come here
    return statistics.mean_kwh


def _ratio(over: StudyCell, under: StudyCell) -> Estimate:
    """Returns a ratio of two means, with the interval that their windows' spread gives it."""
    ratio = _mean_kwh(over) / _mean_kwh(under)
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


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = (None if b is None else b * factor for b in (estimate.low, estimate.high))
    return Estimate(estimate.value * factor, low, high)


def _verdict(ours: Estimate, paper: Range) -> str:
    """Returns whether what we found may be what the paper found, by the intervals of both."""
    low = ours.value if ours.low is None else ours.low
    high = ours.value if ours.high is None else ours.high
    return AGREES if low <= paper.high and paper.low <= high else DIFFERS


def _missing(quantity: str, paper: str, why: str) -> Finding:
    return Finding(quantity, paper, "", None, NOT_MEASURED, why)


def _finding(
    quantity: str,
    paper: str,
    ours: Estimate,
    paper_value: float | None,
    verdict: str,
    why: str,
    cells: Sequence[StudyCell],
) -> Finding:
    text = f"{ours.value:.3g}"
    if ours.low is not None and ours.high is not None:
        text += f" ({ours.low:.3g} to {ours.high:.3g})"
    ratio = None if paper_value is None else ours.value / paper_value
    return Finding(quantity, paper, text, ratio, verdict, why, _ids(cells))


def _ids(cells: Sequence[StudyCell]) -> tuple[str, ...]:
    return tuple(cell.run_id for cell in cells)
