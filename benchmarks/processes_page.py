"""The page of ``benchmarks.processes``: its figures as Markdown, apart from measuring."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

HEAD = """\
# One process and several

Written by `python -m benchmarks.processes --num-rounds {num_rounds} --write docs/processes.md`, \
on {hardware} (energy: {methods}), load {load:.1f}. In each round every work is done by {counts} \
processes, in an order drawn anew; medians, and ratios to 1 process within a round, quartiles in \
brackets. Time and energy are those of the run; *command* is all that a person waits for, with the \
start of every process.{gpus}

Images sampled are the same by any number of processes. So is a training whose batch they share: \
`batch_size` is that of all of them. A batch for each makes every iteration larger, so that equal \
iterations are more images, and equal images fewer iterations; those are other trainings.
"""


@dataclass(frozen=True)
class Machine:
    """The machine of the measurement, and the method."""

    hardware: str
    methods: str
    load: float
    num_gpus: int


@dataclass(frozen=True)
class Cost:
    """The cost of a work: figures of its run, and of the whole command."""

    num_images: int
    duration_s: float
    energy_joules: float
    command_s: float


# The costs of one work in one round, by number of processes.
Round = Mapping[int, Cost]


def page(rounds: Mapping[str, Sequence[Round]], machine: Machine) -> str:
    """Returns the page: a table of medians, and one of ratios."""
    first, *_ = rounds.values()
    *fewer, most = sorted(first[0])
    head = HEAD.format(
        hardware=machine.hardware,
        methods=machine.methods,
        load=machine.load,
        num_rounds=len(first),
        counts=f"{', '.join(map(str, fewer))} and {most}",
        gpus="" if machine.num_gpus else " Processes share the CPU; GPUs were not measured.",
    )
    return "\n".join([head, *cost_lines(rounds), "", *ratio_lines(rounds), ""])


def cost_lines(rounds: Mapping[str, Sequence[Round]]) -> Iterator[str]:
    """Yields the table of each work's cost."""
    yield "| work | processes | images | s | J | J per image | command, s |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for name, measured in rounds.items():
        for count in sorted(measured[0]):
            costs = [each[count] for each in measured]
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
    yield "| work | processes | time | energy | energy per image |"
    yield "|---|--:|--:|--:|--:|"
    figures: list[Callable[[Cost], float]] = [
        lambda cost: cost.duration_s,
        lambda cost: cost.energy_joules,
        lambda cost: cost.energy_joules / cost.num_images,
    ]
    for name, measured in rounds.items():
        _, *counts = sorted(measured[0])
        for count in counts:
            cells = [
                _with_quartiles([figure(each[count]) / figure(each[1]) for each in measured])
                for figure in figures
            ]
            yield f"| {name} | {count} | {' | '.join(cells)} |"


def _with_quartiles(values: Sequence[float]) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.2f} ({low:.2f} to {high:.2f})"
