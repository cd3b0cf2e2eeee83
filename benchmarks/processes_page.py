"""The page of ``benchmarks.processes``: its figures as Markdown, apart from measuring."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

HEAD = """\
# One process and several

Written by `python -m benchmarks.processes --num-rounds {num_rounds} --write docs/processes.md`, \
on {hardware} (energy: {methods}), load {load:.1f}. In each round every work is done by 1 and by \
{num_processes} processes, in an order drawn anew; medians, and ratios of {num_processes} \
processes to 1 within a round, quartiles in brackets. Time and energy are those of the run; \
*command* is all that a person waits for, with the start of every process.

Images sampled are the same by any number of processes. So is a training whose batch they share: \
`batch_size` is that of all of them. A batch for each makes every iteration larger, so that equal \
iterations are more images, and equal images fewer iterations; those are other trainings.
"""


@dataclass(frozen=True)
class Machine:
    """Where it was measured, and how."""

    hardware: str
    methods: str
    load: float


@dataclass(frozen=True)
class Cost:
    """What a work took: of its run, and of the whole command."""

    num_images: int
    duration_s: float
    energy_joules: float
    command_s: float


@dataclass(frozen=True)
class Round:
    """A work by one process and by several, one right after the other."""

    alone: Cost
    shared: Cost


def page(
    rounds: Mapping[str, Sequence[Round]],
    *,
    num_processes: int,
    machine: Machine,
    num_rounds: int,
) -> str:
    """Returns the page: a table of medians, and one of ratios."""
    head = HEAD.format(
        hardware=machine.hardware,
        methods=machine.methods,
        load=machine.load,
        num_rounds=num_rounds,
        num_processes=num_processes,
    )
    lines = [*cost_lines(rounds, num_processes), "", *ratio_lines(rounds)]
    return "\n".join([head, *lines, ""])


def cost_lines(rounds: Mapping[str, Sequence[Round]], num_processes: int) -> Iterator[str]:
    """Yields the table of what each work takes."""
    yield "| work | processes | images | s | J | J per image | command, s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, measured in rounds.items():
        by_count = {
            1: [each.alone for each in measured],
            num_processes: [each.shared for each in measured],
        }
        for count, costs in by_count.items():
            cells = [
                f"{statistics.median(figures):.3g}"
                for figures in (
                    [cost.duration_s for cost in costs],
                    [cost.energy_joules for cost in costs],
                    [cost.energy_joules / cost.num_images for cost in costs],
                    [cost.command_s for cost in costs],
                )
            ]
            yield f"| {name} | {count} | {costs[0].num_images} | {' | '.join(cells)} |"


def ratio_lines(rounds: Mapping[str, Sequence[Round]]) -> Iterator[str]:
    """Yields the table of ratios of several processes to one, quartiles beside the medians."""
    yield "| work | time | energy | energy per image |"
    yield "|---|--:|--:|--:|"
    figures: list[Callable[[Cost], float]] = [
        lambda cost: cost.duration_s,
        lambda cost: cost.energy_joules,
        lambda cost: cost.energy_joules / cost.num_images,
    ]
    for name, measured in rounds.items():
        cells = [
            _with_quartiles([figure(each.shared) / figure(each.alone) for each in measured])
            for figure in figures
        ]
        yield f"| {name} | {' | '.join(cells)} |"


def _with_quartiles(values: Sequence[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f} to {high:.2f})"
