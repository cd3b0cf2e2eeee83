"""Measures the peak memory of one piece of work, in a process that ``memory_peaks`` starts.

Run it as ``python -m benchmarks.memory_child CELL PRECISION LIMIT_BYTES``. It prints the growth of
the resident memory in bytes, from after the imports to the peak, as JSON.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import torch

from ldm_project.diffusion.acceleration import limit_threads
from ldm_project.study.cells import Cell
from ldm_project.study.work import Place, work_of

BYTES_PER_KB = 1024
RESET_PEAK = "5"  # man 5 proc: /proc/pid/clear_refs
MAX_CPU_S = 600


def resident_bytes(name: str) -> int:
    """Returns a figure of this process's memory: ``VmRSS`` now, ``VmHWM`` at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * BYTES_PER_KB
    raise ValueError(f"/proc/self/status has no {name}; this needs Linux.")


def peak_growth_bytes(cell: Cell, place: Place) -> int:
    """Does all work of a cell; returns by how much the resident memory grew at its peak."""
    before_bytes = resident_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    for _ in work_of(cell, place):
        pass
    return resident_bytes("VmHWM") - before_bytes


def main() -> None:
    """Prints what one cell took, in bytes and CPU seconds."""
    cell_text, precision, limit_bytes = sys.argv[1:]
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit_bytes),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
    cell = Cell.from_dict(json.loads(cell_text))
    limit_threads(cell.model_size)
    place = Place(device=torch.device("cpu"), precision=precision, sampler="unipc", seed=0)
    start_s = time.process_time()
    peak_bytes = peak_growth_bytes(cell, place)
    measured = {"peak_bytes": peak_bytes, "cpu_s": round(time.process_time() - start_s, 1)}
    print(json.dumps(measured), flush=True)
    os._exit(0)  # the networks need not be taken apart


if __name__ == "__main__":
    main()
