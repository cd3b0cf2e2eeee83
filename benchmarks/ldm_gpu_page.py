"""The section on GPUs of the page of ``benchmarks.ldm_energy``."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.ldm_energy_page import NOT_MEASURED
from benchmarks.ldm_ways import Taken
from ldm_project.parsing import size_text

OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class TimeShares:
    """The fraction of time that a device was busy, and the operations that took longest."""

    busy_fraction: float
    longest: tuple[tuple[str, float], ...]  # name and fraction


@dataclass(frozen=True)
class GpuRow:
    """The cost of one image by one way of sampling; the baseline's row comes first."""

    size: tuple[int, ...]
    model_size: str
    way: str
    steps: int
    measured: tuple[Taken, TimeShares | None] | None  # None: out of memory
    tflop: float
    peak_tflop_per_s: float


@dataclass(frozen=True)
class TrainingRow:
    """The cost of one iteration by one way of training; the baseline's row comes first."""

    size: tuple[int, ...]
    model_size: str
    batch_size: int
    way: str
    taken: Taken | None  # None: out of memory
    tflop: float
    peak_tflop_per_s: float


@dataclass(frozen=True)
class GpuReport:
    """The measurements on a GPU, and a note about their circumstances."""

    sampling: tuple[GpuRow, ...] = ()
    training: tuple[TrainingRow, ...] = ()
    note: str = ""  # hardware, and how figures came about that were not simply measured

    def write(self, path: Path) -> None:
        """Writes the report to a file, so that the page can be written without a GPU."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "GpuReport":
        """Returns the report in a file; an empty report if the file does not exist."""
        if not path.exists():
            return cls()
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(
            tuple(_sampling_row(row) for row in kept["sampling"]),
            tuple(_training_row(row) for row in kept["training"]),
            kept["note"],
        )


def _sampling_row(row: dict[str, Any]) -> GpuRow:
    measured = row["measured"]
    if measured is not None:
        taken, shares = measured
        measured = Taken(**taken), shares and _time_shares(shares)
    return GpuRow(**{**row, "size": tuple(row["size"]), "measured": measured})


def _time_shares(kept: dict[str, Any]) -> TimeShares:
    longest = tuple((name, fraction) for name, fraction in kept["longest"])
    return TimeShares(kept["busy_fraction"], longest)


def _training_row(row: dict[str, Any]) -> TrainingRow:
    taken = None if row["taken"] is None else Taken(**row["taken"])
    return TrainingRow(**{**row, "size": tuple(row["size"]), "taken": taken})


def gpu_section(sampling: Sequence[GpuRow], training: Sequence[TrainingRow], note: str = "") -> str:
    """Returns the section as Markdown; a row that could not be measured says so."""
    return SECTION.format(
        note=f"{note}\n\n" if note else "",
        sampling="\n".join(_sampling_lines(sampling)),
        training="\n".join(_training_lines(training)),
    )


def _sampling_lines(rows: Sequence[GpuRow]) -> Iterator[str]:
    if not rows:
        for way, steps in (("monai-generative, fp32", 1000), ("ours", 1000), ("ours", 30)):
            yield f"| 256x256x192 | medium | {way} | {steps} |" + f" {NOT_MEASURED} |" * 5
    for _, ways in groupby(rows, key=lambda row: row.size):
        baseline: Taken | None = None
        for index, row in enumerate(ways):
            head = f"| {size_text(row.size)} | {row.model_size} | {row.way} | {row.steps} |"
            if row.measured is None:
                yield head + f" {OUT_OF_MEMORY} |" * 5
                continue
            taken, shares = row.measured
            baseline = baseline if index else taken
            figures = _figures(taken, baseline, row.tflop, row.peak_tflop_per_s)
            yield f"{head} {figures} | {_shares(shares)} |"


def _training_lines(rows: Sequence[TrainingRow]) -> Iterator[str]:
    if not rows:
        for way in ("monai-generative, fp32", "ours, bf16"):
            yield f"| 256x256x192 | medium | 1 | {way} |" + f" {NOT_MEASURED} |" * 4
    for _, ways in groupby(rows, key=lambda row: row.size):
        baseline: Taken | None = None
        for index, row in enumerate(ways):
            head = f"| {size_text(row.size)} | {row.model_size} | {row.batch_size} | {row.way} |"
            if row.taken is None:
                yield head + f" {OUT_OF_MEMORY} |" * 4
                continue
            baseline = baseline if index else row.taken
            yield f"{head} {_figures(row.taken, baseline, row.tflop, row.peak_tflop_per_s)} |"


def _figures(taken: Taken, baseline: Taken | None, tflop: float, peak_tflop_per_s: float) -> str:
    """Returns the cells of energy, how many times less it is, time, and TFLOP/s."""
    joules = NOT_MEASURED if taken.energy_joules is None else f"{taken.energy_joules:.4g}"
    less = NOT_MEASURED
    if taken.energy_joules and baseline is not None and baseline.energy_joules is not None:
        less = f"{baseline.energy_joules / taken.energy_joules:.3g}×"
    reached = tflop / taken.wall_s
    fraction = reached / peak_tflop_per_s
    return (
        f"{joules} | {less} | {taken.wall_s:.3g} "
        f"| {reached:.3g} of {peak_tflop_per_s:.3g} ({fraction:.0%})"
    )


def _shares(shares: TimeShares | None) -> str:
    """Returns the cell of what took the time; ``None``: the step is one recorded CUDA graph."""
    if shares is None:
        return "one CUDA graph"
    longest = ", ".join(f"{name} {fraction:.0%}" for name, fraction in shares.longest)
    return f"{longest}; busy {shares.busy_fraction:.0%}"


SECTION = """\
## On a GPU

Untrained networks of the paper's sizes: energy does not depend on the weights. One image a row, \
measured once. IT energy, the GPU's by its own counter; TFLOP/s reached, of what the chip reaches \
in a large bf16 multiplication. What bounds it: the operations that took most of the GPU's time in \
one step, and how much of the time it was busy. Bars for one H200-class GPU, 256x256x192: 40 kJ \
for 1000 steps, 3 kJ for 30, training 4× less.

{note}| image | preset | way | steps | J | less energy | s | TFLOP/s | what bounds it |
|---|---|---|---:|---:|---:|---:|---:|---|
{sampling}

One training iteration of the UNet. monai-generative's inferer encodes the images anew in each; \
ours encodes them once, which is not counted here.

| image | preset | images | way | J | less energy | s | TFLOP/s |
|---|---|---:|---|---:|---:|---:|---:|
{training}
"""
