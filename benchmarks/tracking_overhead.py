"""What tracking costs the program that is tracked, beside what users would pick instead.

Run it as ``python -m benchmarks.tracking_overhead``; ``--write docs/overhead.md`` writes the page.
Every measurement is a process of its own. A round runs each tool once, in an order drawn anew, and
the program alone twice: the ratio of the two is what chance does to a ratio.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from benchmarks.tracked_work import (
    EPOCH_S,
    LOG_BATCH,
    WORKS,
    calibrate,
    measure_latencies,
    measure_memory,
    run_loop,
    run_sweep,
)
from benchmarks.tracking_overhead_page import (
    HEAD,
    Ratios,
    SweepCosts,
    latency_lines,
    memory_lines,
    ratio_lines,
    sweep_lines,
    thread_line,
)

TOOLS = ("alone", "alone again", "mlflow_carbon", "Carbontracker", "CodeCarbon")
SWEEP_TOOLS = ("alone", "alone again", LOG_BATCH, "mlflow_carbon")
MEMORY_TOOLS = ("mlflow_carbon", "MLflow")
NUM_TRIALS = 200
IMPORT_ROUNDS = 10
LONG_LOOPS, LONG_LOOP_S = 3, 60.0  # long enough to spread the cost of the first call to the store


# MLflow as it is without us: our entry points are hidden from it.
IMPORT_ALONE = """
import importlib.metadata as metadata
real = metadata.entry_points
def others(**selection):
    found = real(**selection)
    return type(found)(entry for entry in found if not entry.value.startswith("mlflow_carbon"))
metadata.entry_points = others
"""
IMPORT_TIMED = """
import time
start_s = time.process_time()
import mlflow
{more}
print(time.process_time() - start_s)
"""


def import_s(*, is_with_us: bool) -> float:
    """Returns the CPU time that ``import mlflow`` takes, with us or without."""
    script = IMPORT_TIMED.format(more="import mlflow_carbon" if is_with_us else "")
    command = [sys.executable, "-c", script if is_with_us else IMPORT_ALONE + script]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# All of them


def in_process(*arguments: str) -> dict[str, Any]:
    """Runs this file in a process with a store of its own; returns the JSON that it prints."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.tracking_overhead", *arguments],
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
                "MLFLOW_CARBON_JOURNAL_DIR": folder,
                "MLFLOW_CARBON_AUTOLOG": "false",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise click.ClickException(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_ratios(work: str, *, duration_s: float, num_rounds: int) -> list[Ratios]:
    """Returns the ratios of every tool to the loop alone."""
    num_steps = int(in_process("calibrate", work, str(duration_s))["num_steps"])
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(num_rounds):
        tools = random.Random(number).sample(TOOLS, len(TOOLS))
        rounds.append({tool: in_process("loop", work, tool, str(num_steps)) for tool in tools})
    return [
        Ratios(
            work=work,
            tool=tool,
            wall=[one[tool]["wall_s"] / one["alone"]["wall_s"] for one in rounds],
            cpu=[one[tool]["cpu_s"] / one["alone"]["cpu_s"] for one in rounds],
            other_threads_ms_per_s=[
                one[tool]["other_threads_s"] / one[tool]["wall_s"] * 1e3 for one in rounds
            ],
        )
        for tool in TOOLS[1:]
    ]


def measure_long_loops(duration_s: float, num_rounds: int) -> list[float]:
    """Returns the CPU time of our own threads in ms per s of a long loop, one for each round."""
    num_steps = calibrate("numpy", 1.0)["num_steps"] * duration_s
    loops = [
        in_process("loop", "numpy", "mlflow_carbon", str(round(num_steps)))
        for _ in range(num_rounds)
    ]
    return [loop["other_threads_s"] / loop["wall_s"] * 1e3 for loop in loops]


def measure_sweeps(num_rounds: int) -> SweepCosts:
    """Returns the times of a trial with our plugin and without it, one figure for each round."""
    rounds: list[dict[str, float]] = []
    for number in range(num_rounds):
        tools = random.Random(number).sample(SWEEP_TOOLS, len(SWEEP_TOOLS))
        rounds.append(
            {
                tool: in_process("sweep", tool, str(NUM_TRIALS))["sweep_s"] / NUM_TRIALS
                for tool in tools
            }
        )
    return SweepCosts(
        num_trials=NUM_TRIALS,
        trials_s={tool: [one[tool] for one in rounds] for tool in SWEEP_TOOLS},
    )


@click.group(invoke_without_command=True)
@click.option("--duration-s", default=4.0, show_default=True, help="Length of a loop.")
@click.option("--num-rounds", default=7, show_default=True, help="Measurements of each.")
@click.option("--num-windows", default=10_000, show_default=True, help="For the memory.")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
@click.pass_context
def main(
    context: click.Context,
    duration_s: float,
    num_rounds: int,
    num_windows: int,
    write: Path | None,
) -> None:
    """Measures what tracking costs, beside other tools."""
    if context.invoked_subcommand is not None:
        return
    ratios = [
        row
        for work in WORKS
        for row in measure_ratios(work, duration_s=duration_s, num_rounds=num_rounds)
    ]
    imports_s = [
        import_s(is_with_us=True) - import_s(is_with_us=False) for _ in range(IMPORT_ROUNDS)
    ]
    sweeps = measure_sweeps(num_rounds)
    latencies = in_process("latencies", str(num_windows))
    threads_ms_per_s = measure_long_loops(LONG_LOOP_S, LONG_LOOPS)
    growth_bytes = {
        tool: in_process("memory", tool, str(num_windows))["growth_bytes"] for tool in MEMORY_TOOLS
    }
    machine = f"{os.cpu_count()} CPU cores, load {os.getloadavg()[0]:.1f}"
    head = HEAD.format(
        machine=machine, num_rounds=num_rounds, duration_s=duration_s, epoch_s=EPOCH_S
    )
    tables = [
        *ratio_lines(ratios),
        "",
        *sweep_lines(sweeps),
        "",
        *latency_lines(latencies, imports_s),
        thread_line(threads_ms_per_s, LONG_LOOP_S),
        *memory_lines(growth_bytes, num_windows),
    ]
    page = "\n".join([head, *tables, ""])
    click.echo(page)
    if write is not None:
        write.write_text(page, encoding="utf-8")


@main.command(hidden=True)
@click.argument("work", type=click.Choice(WORKS))
@click.argument("tool", type=click.Choice(TOOLS))
@click.argument("num_steps", type=int)
def loop(work: str, tool: str, num_steps: int) -> None:
    """Runs one loop under one tool."""
    click.echo(json.dumps(run_loop(work, tool, num_steps)))


@main.command(hidden=True)
@click.argument("tool", type=click.Choice(SWEEP_TOOLS))
@click.argument("num_trials", type=int)
def sweep(tool: str, num_trials: int) -> None:
    """Times a sweep under a tool, or alone."""
    click.echo(json.dumps(run_sweep(tool, num_trials)))


@main.command("calibrate", hidden=True)
@click.argument("work", type=click.Choice(WORKS))
@click.argument("duration_s", type=float)
def calibrate_command(work: str, duration_s: float) -> None:
    """Counts the steps of a loop."""
    click.echo(json.dumps(calibrate(work, duration_s)))


@main.command(hidden=True)
@click.argument("num_windows", type=int)
def latencies(num_windows: int) -> None:
    """Times starts, stops and windows."""
    click.echo(json.dumps(measure_latencies(12, num_windows)))


@main.command(hidden=True)
@click.argument("tool", type=click.Choice(MEMORY_TOOLS))
@click.argument("num_windows", type=int)
def memory(tool: str, num_windows: int) -> None:
    """Measures how a process grows with its windows."""
    click.echo(json.dumps(measure_memory(tool, num_windows)))


if __name__ == "__main__":
    main()
