"""One training loop on this machine's GPU, measured four ways at once.

Run it as ``python -m benchmarks.gpu_validation``. It prints a table for docs/validation.md and
writes a power trace that a test can replay.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from carbontracker import constants, tracker
from carbontracker.components.component import create_components
from carbontracker.components.gpu import nvidia

from benchmarks.silent_log import SilentLog
from mlflow_carbon.metering.meter import Meter, MeterSettings, Reading
from mlflow_carbon.units import joules_from_kwh

TRACE_INTERVAL_S = 0.1
KEPT = Path(__file__).parent.parent / "tests" / "fixtures" / "gpu_power_trace.json"
GPU_ONLY = MeterSettings(components="gpu")


@dataclass(frozen=True)
class Measured:
    """Energy of the GPUs over one loop in J, and GPU 0's trace of (time s, power W, counter J).

    What was not measured is ``None``.
    """

    hardware: str
    duration_s: float
    counter_joules: float
    our_joules: float | None
    our_sampled_joules: float | None
    carbontracker_joules: float
    trace: tuple[tuple[float, float, float], ...]


class WithoutCounter:
    """NVML of GPUs older than Volta: power, but no energy counter."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvml, name)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802, ARG002
        """Raises NVML's error for a missing counter."""
        raise self._nvml.NVMLError(3)  # NVML_ERROR_NOT_SUPPORTED


class Tracer:
    """Reads power and counter of GPU 0 ten times a second in a thread of its own."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._end = threading.Event()
        self._points: list[tuple[float, float, float]] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def points(self) -> tuple[tuple[float, float, float], ...]:
        """Ends the thread and returns its readings."""
        self._end.set()
        self._thread.join()
        return tuple(self._points)

    def _run(self) -> None:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(0)
        start_s = time.monotonic()
        while not self._end.is_set():
            power_w = self._nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            counter_joules = self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
            self._points.append((time.monotonic() - start_s, power_w, counter_joules))
            self._end.wait(TRACE_INTERVAL_S)


def measure(work: Callable[[float], None], duration_s: float) -> Measured:
    """Returns the energy of ``work`` by counter, by Carbontracker, and twice by our meter.

    Raises:
        NVMLError: this machine has no NVIDIA GPU or no driver.
    """
    nvml = nvidia.pynvml
    nvml.nvmlInit()
    handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]

    def counters_joules() -> float:
        return sum(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) for handle in handles) / 1e3

    meter, sampling = Meter(GPU_ONLY), Meter(GPU_ONLY)
    meter.start()
    with without_counter():
        sampling.start()
    carbontracker = carbontracker_thread()
    tracer = Tracer(nvml)
    start_s, first_joules = time.monotonic(), counters_joules()
    windows = meter.open_window(), sampling.open_window()
    carbontracker.epoch_start()
    work(duration_s)
    carbontracker.epoch_end()
    ours, sampled = meter.close_window(windows[0]), sampling.close_window(windows[1])
    last_joules, end_s = counters_joules(), time.monotonic()
    for one in (meter, sampling):
        one.stop()
    carbontracker.stop()
    points = tracer.points()
    nvml.nvmlShutdown()
    total_kwh = carbontracker.total_energy_per_epoch().sum() / constants.PUE_2023
    return Measured(
        hardware=meter.description.hardware,
        duration_s=end_s - start_s,
        counter_joules=last_joules - first_joules,
        our_joules=_joules(ours),
        our_sampled_joules=_joules(sampled),
        carbontracker_joules=joules_from_kwh(float(total_kwh)),
        trace=points,
    )


def _joules(reading: Reading) -> float | None:
    return None if reading.energy_kwh is None else joules_from_kwh(reading.energy_kwh)


@contextmanager
def without_counter() -> Iterator[None]:
    """Hides the energy counters from a meter that starts inside."""
    real = nvidia.pynvml
    nvidia.pynvml = WithoutCounter(real)
    try:
        yield
    finally:
        nvidia.pynvml = real


def carbontracker_thread() -> Any:
    """Returns Carbontracker's own thread over the GPUs, one reading a second."""
    components = create_components("gpu", pids=[], devices_by_pid=False, logger=SilentLog())
    return tracker.CarbonTrackerThread(
        components, SilentLog(), ignore_errors=True, delete=lambda: None, update_interval=1
    )


def train(duration_s: float) -> None:
    """Trains a small network on the GPU, with pauses as if data were loaded."""
    import torch

    device = torch.device("cuda")
    network = torch.nn.Sequential(
        torch.nn.Linear(4096, 8192), torch.nn.GELU(), torch.nn.Linear(8192, 4096)
    ).to(device, torch.bfloat16)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    images = torch.randn(4096, 4096, device=device, dtype=torch.bfloat16)
    end_s = time.monotonic() + duration_s
    while time.monotonic() < end_s:
        for _ in range(50):
            optimizer.zero_grad()
            (network(images) - images).square().mean().backward()
            optimizer.step()
        torch.cuda.synchronize()
        time.sleep(0.3)


def kept() -> Measured:
    """Returns the measurement that the repository keeps, of one NVIDIA H100."""
    values = json.loads(KEPT.read_text(encoding="utf-8"))
    return Measured(**{**values, "trace": tuple(map(tuple, values["trace"]))})


def table(measured: Measured) -> str:
    """Returns the figures as Markdown, each beside its difference from the counter."""
    lines = [
        f"{measured.hardware}, {measured.duration_s:.1f} s:",
        "",
        "| by | J | against the counter |",
        "|---|--:|--:|",
    ]
    for name, joules in (
        ("NVML counter, read directly", measured.counter_joules),
        ("our meter (counter)", measured.our_joules),
        ("our meter (power once a second)", measured.our_sampled_joules),
        ("Carbontracker", measured.carbontracker_joules),
    ):
        if joules is None:
            lines.append(f"| {name} | - | - |")
            continue
        difference = joules / measured.counter_joules - 1
        lines.append(f"| {name} | {joules:,.1f} | {difference:+.2%} |")
    return "\n".join(lines)


@click.command()
@click.option("--duration-s", default=60.0, show_default=True, help="Length of the loop.")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("gpu_power_trace.json"),
    show_default=True,
    help="File for the power trace.",
)
def main(duration_s: float, trace: Path) -> None:
    """Measures a training loop on this machine's NVIDIA GPUs four ways at once."""
    try:
        measured = measure(train, duration_s)
    except nvidia.pynvml.NVMLError as error:
        raise click.ClickException(f"No NVIDIA GPU can be read: {error}.") from error
    trace.write_text(json.dumps(asdict(measured)), encoding="utf-8")
    click.echo(table(measured))
    click.echo(f"Wrote {trace}", err=True)


if __name__ == "__main__":
    main()
