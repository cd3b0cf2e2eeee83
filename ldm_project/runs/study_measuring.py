"""One cell of a study from its run's beginning to its end, whatever becomes of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.distributed.elastic.multiprocessing import SignalException

from ldm_project.diffusion.acceleration import FP32, resolve_precision
from ldm_project.errors import InvalidInputError
from ldm_project.price import Price
from ldm_project.runs.study_cell import WindowDone, launch_cell, run_cell
from ldm_project.runs.study_runs import end_cell_run, new_cell_run, skip_cell
from ldm_project.study.cells import Cell
from ldm_project.study.memory import memory_of
from ldm_project.study.work import Place, free_memory, spec_of_cell
from mlflow_carbon.contract import study_tags
from mlflow_carbon.errors import MlflowCarbonError


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its state, the run with its figures, and why it was not done."""

    cell_name: str
    state: str
    run_id: str
    problem: str = ""


def measure_cell(
    parent_run_id: str,
    cell: Cell,
    place: Place,
    price: Price,
    *,
    begun: Callable[[], None] = lambda: None,
    done: Callable[[WindowDone], None] = lambda _: None,
) -> Outcome:
    """Measures a cell in a run of its own; a cell that does not fit or fails says why.

    Args:
        parent_run_id: of the study.
        cell: what is computed.
        place: how.
        price: of the electricity.
        begun: called once the cell has its run.
        done: called after each measured window.

    Raises:
        BaseException: this process was told to stop; the run is closed.
    """
    problem = unfit(cell, place)
    if problem:
        run_id = skip_cell(parent_run_id, cell, place, problem)
        return Outcome(cell.name, study_tags.SKIPPED, run_id, problem)
    run_id = new_cell_run(parent_run_id, cell, place, state=study_tags.RUNNING)
    begun()
    try:
        for window in _windows(cell, place, price, run_id):
            done(window)
    except Exception as error:
        reason = _reason(error)
        end_cell_run(run_id, study_tags.FAILED, reason)
        if isinstance(error.__cause__, SignalException):  # told to stop, while others worked
            raise
        return Outcome(cell.name, study_tags.FAILED, run_id, reason)
    except BaseException:
        end_cell_run(run_id, study_tags.INTERRUPTED)
        raise
    end_cell_run(run_id, study_tags.DONE)
    return Outcome(cell.name, study_tags.DONE, run_id)


def place_for(
    cell: Cell, device: torch.device, *, precision: str | None, sampler: str, seed: int
) -> Place:
    """Returns the settings of a cell on a device; a precision of ``None`` is the faster one."""
    try:
        used = resolve_precision(precision, device, spec_of_cell(cell))
    except InvalidInputError:  # the cell will fail by it, and no other
        used = precision or FP32
    return Place(device=device, precision=used, sampler=sampler, seed=seed)


def unfit(cell: Cell, place: Place) -> str:
    """Returns why a cell cannot run on this machine; "" if it can."""
    if place.device.type == "cuda" and cell.num_processes > torch.cuda.device_count():
        return f"needs {cell.num_processes} GPUs, torch sees {torch.cuda.device_count()}"
    free_memory()
    memory = memory_of(cell, spec_of_cell(cell), device=place.device, precision=place.precision)
    return memory.shortage


def _windows(cell: Cell, place: Place, price: Price, run_id: str) -> Iterator[WindowDone]:
    if cell.num_processes == 1:
        yield from run_cell(cell, place, price, run_id)
    else:
        free_memory()
        launch_cell(cell, place, price, run_id)


def _reason(error: Exception) -> str:
    """Returns an error in one line."""
    text = error.message if isinstance(error, MlflowCarbonError) else str(error)
    first = (text.strip().splitlines() or [""])[0]
    return first if isinstance(error, MlflowCarbonError) else f"{type(error).__name__}: {first}"
