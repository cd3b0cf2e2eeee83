"""Measures the peak memory of sampling on a GPU: each preset at each of the paper's sizes.

Run it as ``python -m benchmarks.gpu_peaks benchmarks/measured/h200/peaks.jsonl``; the presets come
one after another, the largest image first. ``python -m benchmarks.memory_peaks`` then puts the
forecasts beside the peaks. The networks are untrained.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.memory_peaks import cell_of
from ldm_project.diffusion.acceleration import BF16
from ldm_project.parsing import size_text
from ldm_project.study.cells import SYNTH
from ldm_project.study.presets import PAPER
from ldm_project.study.work import Place, free_memory, work_of

MODEL_SIZES = ("medium", "small", "large")
NUM_STEPS = 5  # the second one is recorded


def peak_bytes(size: tuple[int, ...], model_size: str, device: torch.device) -> int:
    """Returns the peak of torch's allocations while one image is denoised and decoded."""
    cell = replace(cell_of(SYNTH, size, model_size), steps=NUM_STEPS)
    free_memory()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in work_of(cell, Place(device=device, precision=BF16, sampler="unipc", seed=0)):
        pass
    return torch.cuda.max_memory_allocated(device)


def main() -> None:
    """Writes one line for each preset and size."""
    device = torch.device("cuda")
    sizes = [size for of_dims in PAPER.sizes.values() for size in reversed(of_dims)]
    with Path(sys.argv[1]).open("w", encoding="utf-8") as file:
        for model_size in MODEL_SIZES:
            for size in sizes:
                row = {"what": SYNTH, "size": size_text(size), "model": model_size}
                row |= {"precision": BF16, "batch": 1}
                row |= {"peak_bytes": peak_bytes(size, model_size, device)}
                file.write(json.dumps(row) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
