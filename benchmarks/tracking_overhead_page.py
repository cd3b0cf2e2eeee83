"""The page of ``benchmarks.tracking_overhead``: its figures as Markdown, apart from measuring."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

HEAD = """\
# What tracking costs

Written by `python -m benchmarks.tracking_overhead --duration-s {duration_s:g} --num-rounds \
{num_rounds} --write docs/overhead.md`, on {machine}. Loops have a window every {epoch_s:g} s; \
medians, quartiles in brackets. *alone again* is the loop without any tool, against itself: a \
ratio inside its quartiles is none that this machine can tell from 1. Carbontracker asks for the \
place of the machine when it starts and CodeCarbon runs offline; both are started before the \
clock. Other threads: so short a loop holds the first call to the store, the dearest one; the last \
table has a loop of 60 s. A sweep is one run with children that log a parameter and a metric each \
and do nothing else; *one log_batch of MLflow's* writes, in each child, as many metrics and tags \
as we do in a child with a figure, by MLflow alone and in the child's own thread; a child that \
ends before a counter moves gets 7 tags.
"""


@dataclass(frozen=True)
class Ratios:
    """The ratios of a loop under one tool to the loop alone, one for each round."""

    work: str
    tool: str
    wall: list[float]
    cpu: list[float]
    other_threads_ms_per_s: list[float]


@dataclass(frozen=True)
class SweepCosts:
    """Times in s of a trial by tool, one for each round; ``alone`` is among them."""

    num_trials: int
    trials_s: dict[str, list[float]]


def ratio_lines(ratios: list[Ratios]) -> Iterator[str]:
    """Yields the table of ratios; quartiles beside the medians."""
    yield "| loop | tool | wall, ratio | CPU, ratio | other threads, ms of CPU per s |"
    yield "|---|---|--:|--:|--:|"
    for row in ratios:
        wall, cpu = (_with_quartiles(values, decimals=4) for values in (row.wall, row.cpu))
        others_ms_per_s = statistics.median(row.other_threads_ms_per_s)
        yield f"| {row.work} | {row.tool} | {wall} | {cpu} | {others_ms_per_s:.2f} |"


def sweep_lines(costs: SweepCosts) -> Iterator[str]:
    """Yields the table of a sweep; the added time is relative to the same round's sweep alone."""
    alone_s = costs.trials_s["alone"]
    yield f"| {costs.num_trials} nested runs on sqlite | ms per run | added, ms per run |"
    yield "|---|--:|--:|"
    for tool, trials_s in costs.trials_s.items():
        added_ms = [(with_s - s) * 1e3 for with_s, s in zip(trials_s, alone_s, strict=True)]
        added = "" if tool == "alone" else _with_quartiles(added_ms, decimals=2)
        trials_ms = [trial_s * 1e3 for trial_s in trials_s]
        yield f"| {tool} | {_with_quartiles(trials_ms, decimals=2)} | {added} |"


def latency_lines(latencies: dict[str, list[float]], imports_s: list[float]) -> Iterator[str]:
    """Yields the table of latencies, each beside its bar."""
    meter_starts_s = latencies["meter_starts_s"]
    yield "| what | median | bar |"
    yield "|---|--:|--:|"
    rows = {
        "the meter's first start, Carbontracker's import included": (meter_starts_s[:1], ""),
        "the meter's start, from the second on": (meter_starts_s[1:], "20 ms"),
        "the meter's stop": (latencies["meter_stops_s"], "20 ms"),
        "`track()` begins, its run looked up in sqlite": (latencies["starts_s"][1:], "20 ms"),
        "`track()` ends, totals in sqlite, models looked up": (latencies["stops_s"], "20 ms"),
        "a window, handed to our own thread": (latencies["windows_s"], "1 ms"),
        "a window's points, written to sqlite at once": (latencies["writes_s"], "15 ms"),
        "added to the CPU time of `import mlflow`": (imports_s, "50 ms"),
    }
    for what, (values_s, bar) in rows.items():
        yield f"| {what} | {statistics.median(values_s) * 1e3:.2f} ms | {bar} |"


def thread_line(threads_ms_per_s: list[float], duration_s: float) -> str:
    """Returns the row with the CPU time of our own threads in a long loop."""
    median_ms = statistics.median(threads_ms_per_s)
    return (
        f"| our threads, CPU time per s of a loop of {duration_s:g} s | {median_ms:.2f} ms | 2 ms |"
    )


def memory_lines(growth_bytes: dict[str, float], num_windows: int) -> Iterator[str]:
    """Yields the rows of how a process grows, by tool."""
    what = f"memory from window {num_windows // 10:,} to {num_windows:,}"
    bars = {"mlflow_carbon": "flat"}
    for tool, growth in growth_bytes.items():
        whose = "" if tool in bars else f", as many points written by {tool} alone"
        yield f"| {what}{whose} | {growth / 2**20:+.1f} MiB | {bars.get(tool, '')} |"


def _with_quartiles(values: list[float], *, decimals: int) -> str:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{median:.{decimals}f} ({low:.{decimals}f} to {high:.{decimals}f})"
