"""Holds forecasts of memory to measured peaks: each preset at each size, training and sampling.

Run it as ``python -m benchmarks.memory_peaks``; it takes an hour on two cores, and goes on where it
stopped. Each measurement is a process of its own: two training iterations, the second of which has
the optimiser's moments from its beginning, or two denoising steps and a decoding, of one image. Its
table stands in docs/model_sizes.md, which ``python -m benchmarks.model_sizes`` writes.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.memory_child import MAX_CPU_S
from benchmarks.memory_table import H100, H200, MEASURED, NOT_MEASURED, MemoryRow, read_rows
from ldm_project.diffusion.acceleration import resolve_precision
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.memory import CPU, CUDA, Work, sampling_bytes, training_bytes
from ldm_project.parsing import size_text
from ldm_project.presets import PRESETS
from ldm_project.study.cells import SYNTH, TRAIN, UNIT_BY_TASK, Cell
from ldm_project.study.memory import needed_by
from ldm_project.study.presets import PAPER
from ldm_project.study.work import spec_of_cell

# The paper's sizes, and the usual ones of a laptop.
SIZES = {2: ((64, 64), *PAPER.sizes[2]), 3: ((32, 32, 32), *PAPER.sizes[3])}
# What each GPU's file tells: of the H100 trainings alone, for denoising took another way then.
WORK_OF_GPU = {H100: (TRAIN, "grid.jsonl"), H200: (SYNTH, "peaks.jsonl")}
# Of the free memory: the rest is for what else the machine does.
MAX_FRACTION = 0.7
NUM_STEPS = 2


def cell_of(task: str, size: tuple[int, ...], model_size: str) -> Cell:
    """Returns the work that is measured: one image, two iterations or two steps."""
    return Cell(
        task=task,
        dims=len(size),
        size=size,
        model_size=model_size,
        steps=NUM_STEPS if task == SYNTH else None,
        num_windows=2 if task == TRAIN else 1,
        num_warmup_windows=0,
        units_per_window=1,
    )


def cells() -> list[Cell]:
    """Returns all cells, those of the least arithmetic first."""
    every = [
        cell_of(task, size, model_size)
        for sizes in SIZES.values()
        for size in sizes
        for model_size in PRESETS
        for task in UNIT_BY_TASK
    ]
    return sorted(every, key=lambda cell: cost_of(spec_of_cell(cell)).sample_tflop(NUM_STEPS))


def measured_row(cell: Cell) -> MemoryRow:
    """Returns the forecast of a cell on this CPU, and its peak if it fits and ends in time."""
    precision = resolve_precision(None, torch.device(CPU), spec_of_cell(cell))
    forecast_bytes = needed_by(cell, spec_of_cell(cell), precision=precision, device_type=CPU)
    limit_bytes = int(MAX_FRACTION * psutil.virtual_memory().available)
    row = MemoryRow(
        device=CPU,
        task=cell.task,
        size=size_text(cell.size),
        model=cell.model_size,
        precision=precision,
        forecast_bytes=forecast_bytes,
    )
    if forecast_bytes > limit_bytes:
        return row.without_peak("does not fit")
    command = [sys.executable, "-m", "benchmarks.memory_child", json.dumps(cell.to_dict())]
    done = subprocess.run(
        [*command, precision, str(limit_bytes)], capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return row.with_peak(json.loads(done.stdout)["peak_bytes"])
    if done.returncode < 0:  # by SIGXCPU
        return row.without_peak(f"over {MAX_CPU_S // 60} CPU minutes")
    return row.without_peak("does not fit")


def gpu_rows(device: str) -> Iterator[MemoryRow]:
    """Yields the forecasts beside the peaks that one of the lent GPUs has shown."""
    task, name = WORK_OF_GPU[device]
    for reading in map(json.loads, (MEASURED / device / name).read_text().splitlines()):
        if "peak_bytes" in reading and reading["what"] in (task, f"{task} iteration"):
            yield gpu_row(device, task, reading)


def gpu_row(device: str, task: str, reading: dict[str, Any]) -> MemoryRow:
    """Returns the forecast of one reading, with its peak."""
    size = tuple(int(axis) for axis in reading["size"].split("x"))
    spec = spec_of_cell(cell_of(task, size, reading["model"]))
    work = Work(reading["batch"], reading["precision"], CUDA)
    return MemoryRow(
        device=device,
        task=task,
        size=reading["size"],
        model=reading["model"],
        precision=reading["precision"],
        forecast_bytes=(training_bytes if task == TRAIN else sampling_bytes)(spec, work),
    ).with_peak(reading["peak_bytes"])


def main() -> None:
    """Measures what the file does not have yet, one line at a time."""
    path: Path = MEASURED / "memory.jsonl"
    rows = read_rows(path) if path.exists() else []
    known = {row.place for row in rows if row.reason != NOT_MEASURED}
    with path.open("a", encoding="utf-8") as file:
        for device in WORK_OF_GPU:
            if not any(place[0] == device for place in known):
                file.writelines(row.line() for row in gpu_rows(device))
        for cell in cells():
            if (CPU, cell.task, size_text(cell.size), cell.model_size) not in known:
                file.write(measured_row(cell).line())
                file.flush()


if __name__ == "__main__":
    main()
