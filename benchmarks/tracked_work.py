"""The work of one process of ``benchmarks.tracking_overhead`` under a tool, and its timing."""

import contextlib
import gc
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil

WORKS = ("numpy", "torch")
EPOCH_S = 1.0  # one window, where a tool has windows
LOG_BATCH = "one log_batch of MLflow's"  # in each trial of a sweep
NUM_BATCH_METRICS, NUM_BATCH_TAGS = 3, 26  # what we write on a trial with a figure


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
    """Starts a tool; gives a function that returns a new context for each epoch."""
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
    """Returns times in s of a loop of ``num_steps`` steps under a tool."""
    # Every process loads the same modules, since they change the speed of numpy's loops.
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
    """Returns the number of steps that take ``duration_s``."""
    step = {"numpy": numpy_step, "torch": torch_step}[work]()
    step()
    num_steps, end_s = 0, time.perf_counter() + duration_s
    while time.perf_counter() < end_s:
        step()
        num_steps += 1
    return {"num_steps": num_steps}


def measure_latencies(num_runs: int, num_windows: int) -> dict[str, list[float]]:
    """Returns times in s of starts, stops and windows."""
    import mlflow
    from mlflow import MlflowClient

    from mlflow_carbon.metering.meter import Meter
    from mlflow_carbon.recording.journal import Batch, Point
    from mlflow_carbon.recording.outbox import RunWriter
    from mlflow_carbon.tracking.track import track

    meter_starts_s, meter_stops_s = [], []
    starts_s, stops_s, windows_s, writes_s = [], [], [], []
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
        for _ in range(num_windows):
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
    }


def measure_memory(tool: str, num_windows: int) -> dict[str, float]:
    """Returns the growth of a process in bytes after the first tenth of its windows.

    Without our plugin, MLflow writes the same number of points, in calls of the same size.
    """
    import mlflow
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from mlflow_carbon import track
    from mlflow_carbon.recording.delivery import MAX_POINTS
    from mlflow_carbon.recording.outbox import SEND_INTERVAL_S

    def memory_bytes() -> int:
        time.sleep(2 * SEND_INTERVAL_S if tool == "mlflow_carbon" else 0)  # nothing waits any more
        gc.collect()
        return int(psutil.Process().memory_info().rss)

    def windows_ours() -> Iterator[int]:
        with mlflow.start_run(), track(region="SE") as tracker:
            for number in range(num_windows):
                with tracker.window():
                    yield number

    def windows_of_mlflow() -> Iterator[int]:
        client, keys = MlflowClient(), "abcde"  # of the points of a window
        size = MAX_POINTS // len(keys)
        with mlflow.start_run() as run:
            for number in range(num_windows):
                yield number
                if (number + 1) % size == 0:
                    steps = range(number + 1 - size, number + 1)
                    points = [Metric(key, step / 7, step, step) for step in steps for key in keys]
                    client.log_batch(run.info.run_id, metrics=points)

    windows = windows_ours() if tool == "mlflow_carbon" else windows_of_mlflow()
    marks = [memory_bytes() for number in windows if number in (num_windows // 10, num_windows - 1)]
    return {"growth_bytes": float(marks[1] - marks[0])}


def run_sweep(tool: str, num_trials: int) -> dict[str, float]:
    """Returns the time in s of a sweep: a run and its children, each with a metric."""
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
                if tool == LOG_BATCH:
                    _log_batch()
    return {"sweep_s": time.perf_counter() - start_s}


def _log_batch() -> None:
    """Writes as many metrics and tags as we do on a trial, by MLflow alone."""
    import mlflow
    from mlflow.entities import Metric, RunTag

    run_id = mlflow.active_run().info.run_id
    metrics = [Metric(f"metric {n}", n / 7, 0, 0) for n in range(NUM_BATCH_METRICS)]
    tags = [RunTag(f"tag {n}", f"a tag's text {n}") for n in range(NUM_BATCH_TAGS)]
    mlflow.MlflowClient().log_batch(run_id, metrics=metrics, tags=tags)
