"""The table of forecast and measured memory, from the rows that ``memory_peaks`` has written."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

MEASURED = Path(__file__).parent / "measured"
H100, H200 = "h100", "h200"
BYTES_PER_GB = 1e9
NOT_MEASURED = "not measured"  # nobody had the time: the script tries it again
WORK = {"train": "training", "synth": "sampling"}


@dataclass(frozen=True)
class MemoryRow:
    """A forecast of one piece of work on one device, and its measured peak or why there is none."""

    device: str
    task: str
    size: str
    model: str
    precision: str
    forecast_bytes: int
    peak_bytes: int | None = None
    reason: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What tells a row from all others."""
        return self.device, self.task, self.size, self.model

    def with_peak(self, peak_bytes: int) -> "MemoryRow":
        """Returns the row with its measured peak."""
        return replace(self, peak_bytes=peak_bytes)

    def without_peak(self, reason: str) -> "MemoryRow":
        """Returns the row with the reason why its peak was not measured."""
        return replace(self, reason=reason)

    def line(self) -> str:
        """Returns the row as a line of JSON, without what is not known."""
        known = {key: value for key, value in asdict(self).items() if value not in (None, "")}
        return json.dumps(known) + "\n"


def read_rows(path: Path) -> list[MemoryRow]:
    """Returns the rows of a file, the last one of each place."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [MemoryRow(**json.loads(line)) for line in lines]
    return list({row.place: row for row in rows}.values())


def table_lines(rows: list[MemoryRow], device: str) -> Iterator[str]:
    """Yields the lines of one device's table, by size and preset."""
    yield "| image | preset | work | precision | forecast GB | measured GB | forecast / measured |"
    yield "|---|---|---|---|--:|--:|--:|"
    chosen = [row for row in rows if row.device == device]
    for row in sorted(chosen, key=_order):
        forecast = f"{row.forecast_bytes / BYTES_PER_GB:.3g}"
        measured, ratio = row.reason, "-"
        if row.peak_bytes is not None:
            measured = f"{row.peak_bytes / BYTES_PER_GB:.3g}"
            ratio = f"{row.forecast_bytes / row.peak_bytes:.2f}"
        yield (
            f"| {row.size} | `{row.model}` | {WORK[row.task]} | {row.precision} "
            f"| {forecast} | {measured} | {ratio} |"
        )


def summary_line(rows: list[MemoryRow], device: str) -> str:
    """Returns how many of one device's forecasts lie within a fifth of the peak, in a sentence."""
    ratios = {
        row: row.forecast_bytes / row.peak_bytes
        for row in rows
        if row.device == device and row.peak_bytes is not None
    }
    outside = [row for row, ratio in ratios.items() if not 0.8 <= ratio <= 1.2]
    text = f"{len(ratios) - len(outside)} of {len(ratios)} forecasts lie within 20 %."
    if outside:
        names = ", ".join(f"{WORK[row.task]} `{row.model}` at {row.size}" for row in outside)
        text += f" Outside: {names}."
    return text


def section() -> str:
    """Returns the section of the page."""
    rows = read_rows(MEASURED / "memory.jsonl")
    return _SECTION.format(
        cpu_summary=summary_line(rows, "cpu"),
        cpu="\n".join(table_lines(rows, "cpu")),
        training_summary=summary_line(rows, H100),
        training="\n".join(table_lines(rows, H100)),
        sampling_summary=summary_line(rows, H200),
        sampling="\n".join(table_lines(rows, H200)),
    )


def _order(row: MemoryRow) -> tuple[int, int, str, str]:
    axes = [int(axis) for axis in row.size.split("x")]
    num_voxels = 1
    for axis in axes:
        num_voxels *= axis
    return len(axes), num_voxels, str(row.forecast_bytes).zfill(15), row.task


_SECTION = """\
## Memory

What a training iteration of the UNet and a sampling take of one image. The forecast follows each
tensor of the real networks from its making to its end, on shapes without data, and adds what
kernels and libraries take beside. `estimate` prints it, and refuses what does not fit with the GB
it needs; a `study` skips such a cell. Measured by `python -m benchmarks.memory_peaks`.

### On a CPU

The growth of the resident memory above the imports, in a process of its own: two training
iterations, or two denoising steps and a decoding. {cpu_summary}

{cpu}

At one image, torch convolves small fp32 volumes by itself, in matrices that leave holes in the
heap; how many is a matter of what lies between them.

### On a GPU

The peak of torch's allocations in bf16. A training iteration on one NVIDIA H100 80GB HBM3:
{training_summary}

{training}

Five denoising steps and a decoding on one NVIDIA H200, by `python -m benchmarks.gpu_peaks`; the
other presets and sizes were not measured. {sampling_summary} The forecast's copies of fp32 volumes
and the weights as they arrive are fitted to these peaks.

{sampling}
"""
