"""What tracking costs the program that is tracked, beside what users would pick instead.

Run it as ``python -m benchmarks.tracking_overhead``; ``--write docs/overhead.md`` writes the page.
Every measurement is a process of its own. A round runs each tool once, in an order drawn anew, and
the program alone twice: the ratio of the two is what chance does to a ratio.
"""

import contextlib
import gc
import importlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil

from benchmarks.tracking_overhead_page import (
    HEAD,
    Ratios,
    SweepCosts,
    latency_lines,
    ratio_lines,
    sweep_lines,
)

TOOLS = ("alone", "alone again", "mlflow_carbon", "Carbontracker", "CodeCarbon")
WORKS = ("numpy", "torch")
SWEEP_TOOLS = ("alone", "alone again", "mlflow_carbon")
NUM_TRIALS = 200
IMPORT_ROUNDS = 10
EPOCH_S = 1.0  # one window, where a tool has windows


# One process: a loop under one tool


def numpy_step() -> Callable[[], None]:
    """Returns one step of a CPU-bound loop."""
    import numpy as np

    matrix = np.random.default_rng(0).standard_normal((160, 160))

    def step() -> None:
        np.linalg.svd(matrix)

    return step


def torch_step() -> Callable[[], None]:
    """Returns one step of a small network's training, on one thread."""
    import torch

    torch.set_num_threads(1)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 1, 3)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    images = torch.randn(8, 1, 32, 32)

    def step() -> None:
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()

    return step


@contextlib.contextmanager
def epochs_of(tool: str) -> Iterator[Callable[[], Any]]:
    """Starts a tool; gives what makes a context of each epoch."""
    if tool == "mlflow_carbon":
        import mlflow

        from mlflow_carbon import track

        with mlflow.start_run(), track(unit="epoch", region="SE") as tracker:
            yield tracker.window
    elif tool == "Carbontracker":
        from carbontracker.tracker import CarbonTracker

        with contextlib.redirect_stdout(sys.stderr):  # it prints to stdout
            tracker = CarbonTracker(epochs=10**6, monitor_epochs=-1, verbose=0, ignore_errors=True)

            @contextlib.contextmanager
            def epoch() -> Iterator[None]:
                tracker.epoch_start()
                yield
                tracker.epoch_end()

            yield epoch
            tracker.stop()
    elif tool == "CodeCarbon":
        from codecarbon import OfflineEmissionsTracker

        tracker = OfflineEmissionsTracker(
            country_iso_code="SWE", measure_power_secs=1, save_to_file=False, log_level="error"
        )
        tracker.start()
        yield contextlib.nullcontext
        tracker.stop()
    else:
        yield contextlib.nullcontext


def run_loop(work: str, tool: str, num_steps: int) -> dict[str, float]:
    """Returns times in s of a loop of so many steps under a tool."""
    # Every process loads the same: what is loaded changes how quick numpy's loops are.
    for package in ("mlflow", "codecarbon", "carbontracker.tracker"):
        importlib.import_module(package)

    step = {"numpy": numpy_step, "torch": torch_step}[work]()
    step()
    with epochs_of(tool) as epoch:
        end_s = 0.0
        window = None
        wall_s, cpu_s, main_s = time.perf_counter(), time.process_time(), time.thread_time()
        for _ in range(num_steps):
            if time.perf_counter() >= end_s:
                if window is not None:
                    window.__exit__(None, None, None)
                window = epoch()
                window.__enter__()
                end_s = time.perf_counter() + EPOCH_S
            step()
        if window is not None:
            window.__exit__(None, None, None)
        wall_s = time.perf_counter() - wall_s
        cpu_s, main_s = time.process_time() - cpu_s, time.thread_time() - main_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "other_threads_s": cpu_s - main_s}


def calibrate(work: str, duration_s: float) -> dict[str, float]:
    """Returns how many steps take so long."""
    step = {"numpy": numpy_step, "torch": torch_step}[work]()
    step()
    num_steps, end_s = 0, time.perf_counter() + duration_s
    while time.perf_counter() < end_s:
        step()
        num_steps += 1
    return {"num_steps": num_steps}


def measure_latencies(num_runs: int, num_windows: int) -> dict[str, list[float]]:
    """Returns times in s of starts, stops and windows, and memory in bytes as windows go by."""
    import mlflow
    from mlflow import MlflowClient

    from mlflow_carbon.metering.meter import Meter
    from mlflow_carbon.recording.journal import Batch, Point
    from mlflow_carbon.recording.recorder import SEND_INTERVAL_S, RunWriter
    from mlflow_carbon.tracking.track import track

    meter_starts_s, meter_stops_s = [], []
    starts_s, stops_s, windows_s, writes_s, memory = [], [], [], [], []
    for _ in range(num_runs):
        meter = Meter()
        start_s = time.perf_counter()
        meter.start()
        meter_starts_s.append(time.perf_counter() - start_s)
        time.sleep(0.2)
        start_s = time.perf_counter()
        meter.stop()
        meter_stops_s.append(time.perf_counter() - start_s)
        with mlflow.start_run():
            context = track(region="SE")
            start_s = time.perf_counter()
            tracker = context.__enter__()
            starts_s.append(time.perf_counter() - start_s)
            time.sleep(0.5)
            start_s = time.perf_counter()
            context.__exit__(None, None, None)
            stops_s.append(time.perf_counter() - start_s)
    with mlflow.start_run() as run, track(region="SE") as tracker:
        for number in range(num_windows + 1):
            if number in (num_windows // 10, num_windows):
                time.sleep(2 * SEND_INTERVAL_S)  # nothing waits to be sent any more
                gc.collect()
                memory.append(float(psutil.Process().memory_info().rss))
            start_s = time.perf_counter()
            with tracker.window():
                pass
            windows_s.append(time.perf_counter() - start_s)
        writer = RunWriter(MlflowClient(), run.info.run_id)
        for number in range(30):
            points = tuple(Point(f"sync/{key}", 1.0, number, number) for key in "abcdef")
            start_s = time.perf_counter()
            writer.write(Batch(points))
            writes_s.append(time.perf_counter() - start_s)
    return {
        "meter_starts_s": meter_starts_s,
        "meter_stops_s": meter_stops_s,
        "starts_s": starts_s,
        "stops_s": stops_s,
        "windows_s": windows_s,
        "writes_s": writes_s,
        "memory_bytes": memory,
    }


def run_sweep(tool: str, num_trials: int) -> dict[str, float]:
    """Returns the time in s of a sweep: a run with so many children of a parameter and a metric."""
    import mlflow

    import mlflow_carbon

    if tool == "mlflow_carbon":
        mlflow_carbon.autolog(region="SE")
    with mlflow.start_run():  # what the first run of a process loads is no trial's cost
        mlflow.log_metric("loss", 1.0)
    start_s = time.perf_counter()
    with mlflow.start_run():
        for number in range(num_trials):
            with mlflow.start_run(nested=True):
                mlflow.log_param("number", number)
                mlflow.log_metric("loss", 1.0)
    return {"sweep_s": time.perf_counter() - start_s}


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
    """Returns what this file prints as JSON in a process with a store of its own."""
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


def measure_sweeps(num_rounds: int) -> SweepCosts:
    """Returns what a trial takes, with us and without, one figure for each round."""
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


if __name__ == "__main__":
    main()
