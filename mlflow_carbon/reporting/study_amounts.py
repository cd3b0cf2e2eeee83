"""J and kg of each cell of a study, beside the paper's where it prints one."""

from collections.abc import Iterator

from mlflow_carbon.reporting.finding import (
    ABSENT,
    ENERGY,
    MASS,
    NOT_IN_PAPER,
    NOT_MEASURED,
    OTHER_MACHINE,
    TOO_SMALL,
    Finding,
)
from mlflow_carbon.reporting.paper_results import PAPER_STEPS, PaperResult, result_of
from mlflow_carbon.reporting.prediction import predict
from mlflow_carbon.reporting.study_cells import PAPER_UNITS, StudyCell
from mlflow_carbon.units import joules_from_kwh, kg_from_grams

UNIT_BY_TASK = {"train": "iteration", "synth": "sample"}
PAPER_MACHINE = "one A100 40GB and two EPYC 7513"  # section 2.4
_MIN_WINDOWS = 2  # for a spread


def energy_of_unit(cell: StudyCell) -> Finding:
    """Returns the energy of one unit of a cell, beside the paper's where it prints one."""
    statistics = cell.statistics
    assert statistics is not None
    joules, unit = joules_from_kwh(statistics.mean_kwh), UNIT_BY_TASK[cell.task]
    spread = "" if statistics.std_kwh is None else f" ± {joules_from_kwh(statistics.std_kwh):.2g}"
    quantity = f"{cell.name}: J per {unit}"
    why = f"{statistics.num_windows} windows on {cell.hardware or 'unknown hardware'}"
    paper = same_in_paper(cell)
    if paper is None:
        ours = f"{joules:.3g}{spread}"
        return Finding(ENERGY, quantity, "", ours, None, NOT_IN_PAPER, why, (cell.run_id,))
    paper_joules = joules_from_kwh(paper.energy_kwh_per_unit)
    return Finding(
        ENERGY,
        quantity,
        f"{paper_joules:.3g}",
        f"{joules:.3g}{spread}",
        joules / paper_joules,
        OTHER_MACHINE,
        f"{why}; the paper's: {PAPER_MACHINE}, with networks whose widths it does not print",
        (cell.run_id,),
    )


def mass_of_all(cell: StudyCell) -> Iterator[Finding]:
    """Yields the CO2e of the paper's number of units, as `predict` has it, where it has a price."""
    run = cell.measured
    assert run is not None
    if run.intensity is None or run.pue is None:
        return
    num_units = PAPER_UNITS[run.unit]
    quantity = f"{cell.name}: kg CO2e of {num_units:,} {run.unit}s"
    if len(run.windows) < _MIN_WINDOWS:  # the others were shorter than the counter's step
        why = "one window has no spread"
        yield Finding(MASS, quantity, "", "", None, TOO_SMALL, why, (cell.run_id,))
        return
    row = predict(run, num_units, intensities=[run.intensity]).table.iloc[0]
    kg, spread, low, high = (
        kg_from_grams(row[name])
        for name in ("co2e_g", "co2e_g_spread", "co2e_g_prediction_low", "co2e_g_prediction_high")
    )
    ours = f"{kg:.3g} ± {spread:.2g} ({low:.3g} to {high:.3g})"
    why = f"{run.intensity.g_per_kwh:g} g/kWh, PUE {run.pue:g}"
    paper = same_in_paper(cell)
    if paper is None:
        yield Finding(MASS, quantity, "", ours, None, NOT_IN_PAPER, why, (cell.run_id,))
    else:
        text, ratio = f"{paper.kg} ± {paper.std_kg}", kg / float(paper.kg)
        yield Finding(MASS, quantity, text, ours, ratio, OTHER_MACHINE, why, (cell.run_id,))


def same_in_paper(cell: StudyCell) -> PaperResult | None:
    """Returns the paper's result for a cell; ``None`` where it prints none."""
    if cell.num_processes > 1 or cell.steps not in (None, PAPER_STEPS):
        return None
    results = [result_of(cell.task, cell.dims, is_largest=largest) for largest in (False, True)]
    return next((result for result in results if result.size == cell.size), None)


def absent(cell: StudyCell) -> Finding:
    """Returns why a cell has no figure."""
    why = f"{cell.state}: {cell.problem}" if cell.problem else cell.state
    if cell.measured is not None:
        why = "its windows were too short for this machine's counters: no energy was seen"
    return Finding(ABSENT, cell.name, "", "", None, NOT_MEASURED, why, (cell.run_id,))
