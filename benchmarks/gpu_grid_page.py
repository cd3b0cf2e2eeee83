"""Writes docs/gpu_grid.md from readings on a GPU: the paper's sizes, and compiling.

Run it as ``python -m benchmarks.gpu_grid_page``. The readings lie in ``benchmarks/measured``; only
new readings need a GPU, the page does not.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parent / "measured"
PAGE = Path(__file__).parent.parent / "docs" / "gpu_grid.md"
BYTES_PER_GB = 1e9
COMPUTED = ("train iteration", "denoise step")
PRESETS = ("small", "medium", "large")

LAUNCHES = {"each": "one by one", "recorded": "recorded", "compiled": "compiled"}

Reading = dict[str, Any]


def readings(name: str) -> list[Reading]:
    """Returns the completely measured rows of one file of the H100."""
    lines = (MEASURED / "h100" / name).read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "J_counter" in row and "error" not in row]


def step_readings() -> list[Reading]:
    """Returns the rows of the H200."""
    lines = (MEASURED / "h200" / "steps.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def step_lines(rows: list[Reading]) -> Iterator[str]:
    """Yields a line of the table for each way, of its first reading."""
    first: dict[tuple[str, str, str], Reading] = {}
    for row in rows:
        first.setdefault((row["size"], row["way"], row["launch"]), row)
    before = {size: row["J"] for (size, _, _), row in reversed(first.items())}
    for (size, way, launch), row in first.items():
        error = f"{row['error']:.1%}" if "error" in row else "-"
        yield (
            f"| {size} | {way} | {LAUNCHES[launch]} | {row['ms']:.3g} | {row['J']:.3g} "
            f"| {before[size] / row['J']:.2g}× | {error} |"
        )


def grid_lines(rows: list[Reading]) -> Iterator[str]:
    """Yields a line of the table for each size and preset with at least one reading."""
    known = {(row["what"], row["size"], row["model"]): row for row in rows}
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    for size in sizes:
        for preset in PRESETS:
            cells = [
                known.get((what, size, preset)) for what in ("train iteration", "denoise step")
            ]
            if not any(cells):
                continue
            # the autoencoder is the same in every preset, so it was timed once per size
            decoding = known.get(("decode", size, preset))
            figures = [figure for cell in cells for figure in _figures(cell)]
            yield f"| {size} | {preset} | {' | '.join([*figures, *_figures(decoding)[:2]])} |"


def compiled_lines(rows: list[Reading]) -> Iterator[str]:
    """Yields a line of the table for each size that ran both compiled and not compiled."""
    for size in dict.fromkeys(row["size"] for row in rows):
        ways = {row["compiled"]: row for row in rows if row["size"] == size}
        if len(ways) == 2:
            plain, fast = ways[False], ways[True]
            yield (
                f"| {size} | {plain['model']} | {plain['s'] * 1e3:.1f} | {plain['J_counter']:.3g} "
                f"| {fast['s'] * 1e3:.1f} | {fast['J_counter']:.3g} | {fast['first_s']:.0f} |"
            )


def page() -> str:
    """Returns the page as Markdown."""
    steps = step_readings()
    compiling = next(row for row in steps if row["launch"] == "compiled")
    return _PAGE.format(
        grid="\n".join(grid_lines(readings("grid.jsonl"))),
        compiled="\n".join(compiled_lines(readings("compile.jsonl"))),
        steps="\n".join(step_lines(steps)),
        compile_s=compiling["compile_s"],
        compile_j=compiling["compile_J"],
    )


def _figures(row: Reading | None) -> list[str]:
    """Returns J, s and peak GB as text; dashes if they were not measured."""
    if row is None:
        return ["-", "-", "-"]
    return [
        f"{row['J_counter']:.3g}",
        f"{row['s']:.3g}",
        f"{row['peak_bytes'] / BYTES_PER_GB:.2f}",
    ]


_PAGE = """\
# The paper's sizes on one GPU

Written by `python -m benchmarks.gpu_grid_page` from the readings in `benchmarks/measured/h100`, \
taken on 2026-11-27 on one NVIDIA H100 80GB HBM3 (power limit 700 W, driver 580.159.04), torch \
2.11.0+cu130.

Untrained networks, since energy does not depend on the weights; one image at a time. Training \
and denoising are in bf16, decoding in fp32, torch left alone otherwise; steps are unipc's. J is \
the GPU's own counter over about a second, and that counter moves every 100 ms: read each J as ±8 \
%. A thread beside read the counter every 8 ms, which slows whatever waits for Python; at the \
small sizes, where the GPU waits for the host, take J and s as upper bounds. Each cell was \
measured once. GB is the peak of torch's allocations. A dash: not measured.

| image | preset | J per training iteration | s | GB | J per denoising step | s | GB | J per \
decoding | s |
|---|---|--:|--:|--:|--:|--:|--:|--:|--:|
{grid}

Energy grows far slower than the number of voxels: at one image a time, small images cost the \
time of the host and not arithmetic.

## compile=on

One denoising step, plain and compiled to CUDA graphs by `torch.compile`; before the first step \
it compiles for as long as the last column says. The energy of compiling was not measured.

| image | preset | ms | J | ms, compiled | J, compiled | s to compile |
|---|---|--:|--:|--:|--:|--:|
{compiled}

## What a denoising step takes now

The tables above are of sampling as it was: weights in fp32, cast by autocast in each step, and a \
launch for each kernel. A third of the GPU's time went into copies to another precision or order, \
and at the small sizes the GPU was busy 15 to 24 % of the time ([profiles](ldm_energy.md)). Now \
sampling takes the way *bf16, channels last, own norm, recorded*: the UNet computes in bf16 \
throughout, its group normalisation leaves channels last, and the second step of each shape \
records all kernels as a CUDA graph, which the others replay.

One step of one image, `medium`, untrained, on one NVIDIA H200 (power limit 700 W, driver \
580.159.04), torch 2.11.0+cu130, 2026-11-27; read J as ±8 %, as above. *Error*: of the predicted \
velocity against fp32. `python -m benchmarks.gpu_steps` measures these ways; the rows are of a \
script that it was made from. Whole samplings are [measured apart](ldm_energy.md#on-a-gpu).

| image | way | kernels | ms | J | less energy | error |
|---|---|---|--:|--:|--:|--:|
{steps}

`compile=on` took {compile_s:.0f} s and {compile_j:.0f} J to compile.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
