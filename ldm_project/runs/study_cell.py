"""One cell of a study: its work, measured window by window in a run of its own."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from mlflow.environment_variables import MLFLOW_RUN_ID

from ldm_project.diffusion.processes import ALONE, Processes, check_devices, joined_processes
from ldm_project.price import PAPER_DEFAULTS, Price
from ldm_project.runs.launching import start_processes
from ldm_project.study.cells import Cell
from ldm_project.study.work import Place, free_memory, use_threads_of, work_of
from mlflow_carbon.tracking.track import track


@dataclass(frozen=True)
class WindowDone:
    """A measured window of a cell is over, the ``number``th of ``num_windows``."""

    number: int
    num_windows: int


def run_cell(
    cell: Cell, place: Place, price: Price, run_id: str, processes: Processes = ALONE
) -> Iterator[WindowDone]:
    """Does a cell's work in its run; yields after each measured window.

    The warm-up is part of the run's energy, but of no window.

    Args:
        cell: what is computed.
        place: how.
        price: of the electricity.
        run_id: of the cell.
        processes: that share the cell; all of them call this.
    """
    free_memory()
    work = work_of(cell, place, processes)
    processes.meet()  # before the first window, which would hold the waiting
    with track(
        run_id=run_id,
        is_alone=processes.count == 1,
        unit=cell.unit,
        region=price.region,
        month=price.month,
        pue=price.pue,
        defaults=PAPER_DEFAULTS,
        silent=True,  # the study's table tells what a receipt would
        total_units=cell.num_windows * cell.units_per_window,
    ) as tracker:
        _do(work, cell.num_warmup_windows * cell.units_per_window)
        for number in range(1, cell.num_windows + 1):
            with tracker.window(num_units=cell.units_per_window):
                _do(work, cell.units_per_window)
            yield WindowDone(number, cell.num_windows)


def launch_cell(cell: Cell, place: Place, price: Price, run_id: str) -> None:
    """Runs a cell in several processes that write to its run, and waits for them.

    Raises:
        InvalidInputError: there are fewer GPUs than processes.
        LdmProjectError: a process failed.
    """
    check_devices(place.device.type, cell.num_processes)
    told = {
        "cell": cell.to_dict(),
        "place": {**vars(place), "device": place.device.type},
        "price": vars(price),
        "num_threads": torch.get_num_threads(),
    }
    start_processes(
        ["study-cell", json.dumps(told)], run_id=run_id, num_processes=cell.num_processes
    )


def join_cell(text: str) -> None:
    """Does this process's share of a cell that ``launch_cell`` has started.

    Args:
        text: the cell and how it is computed, as ``launch_cell`` tells them.
    """
    told: dict[str, Any] = json.loads(text)
    cell = Cell.from_dict(told["cell"])
    torch.set_num_threads(max(1, told["num_threads"] // cell.num_processes))
    use_threads_of((cell.model_size,))
    run_id = os.environ.pop(MLFLOW_RUN_ID.name)
    with joined_processes(told["place"]["device"]) as processes:
        device = torch.device(told["place"]["device"])  # on GPUs, joining has chosen which
        place = Place(**{**told["place"], "device": device})
        for _ in run_cell(cell, place, Price(**told["price"]), run_id, processes):
            pass


def _do(work: Iterator[int], num_units: int) -> None:
    """Does as many units of some work, whose parts divide them."""
    num_done = 0
    while num_done < num_units:
        num_done += sum(islice(work, 1))
