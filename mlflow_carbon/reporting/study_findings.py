"""What a study found beside what the paper says: each quantity with a verdict, most trusted first.

Ratios and exponents come first: they need no knowledge of the machine. Joules depend on it, and
masses on its place too.
"""

from mlflow_carbon.reporting.finding import Finding
from mlflow_carbon.reporting.study_amounts import absent, energy_of_unit, mass_of_all
from mlflow_carbon.reporting.study_cells import Study, StudyCell
from mlflow_carbon.reporting.study_ratios import MODEL_SIZES, TASKS, ratios_of


def measured_cells(study: Study) -> list[StudyCell]:
    """Returns the cells of which energy was measured, by what they compute."""
    cells = [
        cell for cell in study.cells if cell.statistics is not None and cell.statistics.mean_kwh > 0
    ]
    return sorted(cells, key=_order)


def findings_of(study: Study) -> tuple[Finding, ...]:
    """Returns the table of a study, in the order of trust."""
    measured = measured_cells(study)
    return (
        *ratios_of(measured),
        *(energy_of_unit(cell) for cell in measured),
        *(finding for cell in measured for finding in mass_of_all(cell)),
        *(absent(cell) for cell in study.cells if cell not in measured),
    )


def _order(cell: StudyCell) -> tuple[int, int, int, int, int, int]:
    """Returns the sort key of a cell; networks that are not the project's come last."""
    known = (*MODEL_SIZES, cell.model_size)
    return (
        TASKS.index(cell.task),
        cell.dims,
        cell.num_voxels,
        known.index(cell.model_size),
        cell.num_processes,
        cell.steps or 0,
    )
