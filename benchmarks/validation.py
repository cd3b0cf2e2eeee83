"""Writes docs/validation.md: known joules, and their measurement by our meter and Carbontracker.

Run it as ``python -m benchmarks.validation``. Devices, counters and time are those of the test
suite's fakes under Carbontracker's own code; nothing waits and every run gives the same page.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

from carbontracker import constants, tracker
from carbontracker.components.component import create_components
from carbontracker.components.cpu import intel
from codecarbon.core.rapl import RAPLFile
from codecarbon.core.units import Time

from benchmarks import gpu_validation
from benchmarks.silent_log import SilentLog
from mlflow_carbon.metering.counter_steps import (
    MAX_GPU_POWER_W,
    MAX_PACKAGE_POWER_W,
    MAX_STEP_S,
)
from mlflow_carbon.metering.meter import Meter, MeterSettings
from mlflow_carbon.metering.readings import STILL_S
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.power import Constant, Power, Ramp, SquareWave
from mlflow_carbon.testing.powercap import WRAP_MICROJOULES, two_sockets
from mlflow_carbon.units import joules_from_kwh

PAGE = Path(__file__).parent.parent / "docs" / "validation.md"
INTERVAL_S = 1.0


@dataclass(frozen=True)
class Case:
    """A machine, its work as window lengths (negative: an idle gap), and its energy."""

    name: str
    components: str
    make_node: Callable[[Path], FakeNode]
    true_power_w: tuple[Power, ...]  # of every device that should be counted
    windows_s: tuple[float, ...] = (60.0,)


@dataclass(frozen=True)
class Row:
    """The energy of one case in J, by each tool."""

    name: str
    true_joules: float
    carbontracker_joules: float
    codecarbon_joules: float | None  # its RAPL reader; None where there is no RAPL
    our_joules: float
    methods: str
    coverage_fraction: float


def gpus(*powers: Power, has_counter: bool = True) -> Callable[[Path], FakeNode]:
    """Returns a maker of a machine with these GPUs."""
    return lambda folder: gpu_node(folder, *powers, has_counter=has_counter)


def one_package(
    power: Power, *, start_microjoules: int = 0, wrap_microjoules: int = WRAP_MICROJOULES
) -> Callable[[Path], FakeNode]:
    """Returns a maker of a machine with one CPU package that has a RAPL counter."""

    def make(folder: Path) -> FakeNode:
        node = cpu_node(folder)
        node.powercap.add_zone(
            "0",
            "package-0",
            power,
            start_microjoules=start_microjoules,
            wrap_microjoules=wrap_microjoules,
        )
        node.powercap.add_zone("0:0", "core", power)
        return node

    return make


def server(package: Power, dram: Power) -> Callable[[Path], FakeNode]:
    """Returns a maker of a machine with two packages, their DRAM, core zones and psys."""

    def make(folder: Path) -> FakeNode:
        node = cpu_node(folder)
        node.powercap = two_sockets(folder / "two", node.clock, package, dram)
        return node

    return make


def cases() -> Iterator[Case]:
    """Yields every case of the page."""
    ramp, square = Ramp(50.0, 400.0, 40.0), SquareWave(300.0, 60.0, 14.6)
    for num_gpus in (1, 4, 8):
        for name, power in (("constant", Constant(300.0)), ("ramp", ramp), ("square", square)):
            powers = (power,) * num_gpus
            yield Case(f"{num_gpus} GPU, counter, {name}", "gpu", gpus(*powers), powers)
    for name, power in (("constant", Constant(300.0)), ("ramp", ramp), ("square", square)):
        powers = (power,) * 4
        make = gpus(*powers, has_counter=False)
        yield Case(f"4 GPU, sampled, {name}", "gpu", make, powers)
    package, dram = Constant(100.0), Constant(10.0)
    yield Case("1 package (and its core zone)", "cpu", one_package(package), (package,))
    yield Case(
        "2 packages + 2 DRAM (and core, psys, mmio)",
        "cpu",
        server(package, dram),
        (package, dram) * 2,
    )
    # The wraps fall into the seconds when Carbontracker reads the counter; it misses no other wrap.
    near_end = WRAP_MICROJOULES - 1_050_000_000  # wraps after 10.5 s at 100 W
    make = one_package(package, start_microjoules=near_end)
    yield Case("1 package, counter wraps once", "cpu", make, (package,))
    make = one_package(package, wrap_microjoules=2_030_000_000)  # every 20.3 s
    yield Case("1 package, counter wraps 29 times", "cpu", make, (package,), (600.0,))
    four = (Constant(300.0),) * 4
    for label, duration_s in (("1 ms", 0.001), ("50 ms", 0.05), ("1 s", 1.0), ("1 h", 3600.0)):
        yield Case(f"4 GPU, one window of {label}", "gpu", gpus(*four), four, (duration_s,))
    yield Case("4 GPU, 1000 windows of 50 ms", "gpu", gpus(*four), four, (0.05,) * 1000)
    yield Case("4 GPU, two windows of 10 s, 30 s idle", "gpu", gpus(*four), four, (10, -30, 10))


def row_of(case: Case) -> Row:
    """Measures a case with each tool, each on a machine of its own."""
    methods, coverage_fraction, our_joules = measured_by_us(case)
    return Row(
        name=case.name,
        true_joules=true_joules(case),
        carbontracker_joules=measured_by_carbontracker(case),
        codecarbon_joules=measured_by_codecarbon(case) if case.components == "cpu" else None,
        our_joules=our_joules,
        methods=methods,
        coverage_fraction=coverage_fraction,
    )


def true_joules(case: Case) -> float:
    """Returns the energy inside the windows, by integration on paper."""
    total_joules = now_s = 0.0
    for window_s in case.windows_s:
        end_s = now_s + abs(window_s)
        if window_s > 0:
            total_joules += sum(
                power.energy_joules(end_s) - power.energy_joules(now_s)
                for power in case.true_power_w
            )
        now_s = end_s
    return total_joules


@contextmanager
def machine_of(case: Case) -> Iterator[FakeNode]:
    """Gives the case's machine, on its own clock."""
    with tempfile.TemporaryDirectory() as folder, case.make_node(Path(folder)) as node:
        yield node


def measured_by_us(case: Case) -> tuple[str, float, float]:
    """Returns methods, mean coverage and the sum of the windows in J, by our meter."""
    readings = []
    with machine_of(case) as node:
        meter = Meter(MeterSettings(components=case.components), clock=node.clock)
        meter.start()
        for window_s in case.windows_s:
            if window_s < 0:
                node.run(meter, -window_s, interval_s=INTERVAL_S)
                continue
            window = meter.open_window()
            node.run(meter, window_s, interval_s=INTERVAL_S)
            readings.append(meter.close_window(window))
        meter.stop()
    methods = sorted({device.method for reading in readings for device in reading.devices})
    coverages = [reading.coverage_fraction for reading in readings]  # each is known, or this fails
    energy_kwh = sum(reading.energy_kwh for reading in readings)
    return ", ".join(methods), sum(coverages) / len(coverages), joules_from_kwh(energy_kwh)


class SteppedThread(tracker.CarbonTrackerThread):
    """Carbontracker's thread, run by hand instead of as a thread."""

    def start(self) -> None:
        """Prepares the handlers, as the thread does before its loop."""
        self.begin()


@contextmanager
def carbontrackers_time(node: FakeNode) -> Iterator[None]:
    """Puts the machine's clock under Carbontracker."""
    real = tracker.time, intel.time
    tracker.time = SimpleNamespace(time=node.clock.monotonic_s)
    intel.time = SimpleNamespace(sleep=node.clock.advance)
    try:
        yield
    finally:
        tracker.time, intel.time = real


def measured_by_carbontracker(case: Case) -> float:
    """Returns Carbontracker's own total in J without its PUE; a window is an epoch."""
    with machine_of(case) as node, carbontrackers_time(node):
        components = create_components(
            case.components, pids=[], devices_by_pid=False, logger=SilentLog()
        )
        thread = SteppedThread(components, SilentLog(), ignore_errors=True, delete=lambda: None)
        next_sample_s = 0.0
        for window_s in case.windows_s:
            end_s = node.clock.now_s + abs(window_s)
            if window_s > 0:
                thread.epoch_start()
            while window_s > 0 and next_sample_s < end_s:
                node.clock.advance(max(next_sample_s - node.clock.now_s, 0.0))
                thread._collect_measurements()  # takes 1 s for RAPL
                next_sample_s = node.clock.now_s + INTERVAL_S
            node.clock.advance(max(end_s - node.clock.now_s, 0.0))
            if window_s > 0:
                thread.epoch_end()
        total_kwh = thread.total_energy_per_epoch().sum() / constants.PUE_2023
    return float(joules_from_kwh(total_kwh))


def measured_by_codecarbon(case: Case) -> float:
    """Returns the sum of package and DRAM counters in J, by CodeCarbon's reader."""
    with machine_of(case) as node:
        names = sorted(node.powercap.root.glob("intel-rapl:*"))
        folders = [path for path in names if is_counted((path / "name").read_text().strip())]
        files = [
            RAPLFile(path.name, str(path / "energy_uj"), str(path / "max_energy_range_uj"))
            for path in folders
        ]
        total_kwh = 0.0
        for _ in range(round(sum(case.windows_s))):
            node.clock.advance(1.0)
            for file in files:
                file.delta(Time.from_seconds(1.0))
                total_kwh += file.energy_delta.kWh
    return joules_from_kwh(total_kwh)


def is_counted(name: str) -> bool:
    """Returns whether a zone is a package or DRAM."""
    return name.startswith("package") or name == "dram"


def page(rows: list[Row]) -> str:
    """Returns the page."""
    return HEAD.format(
        carbontracker=version("carbontracker"),
        codecarbon=version("codecarbon"),
        table="\n".join(table(rows)),
        max_package_w=MAX_PACKAGE_POWER_W,
        max_gpu_w=MAX_GPU_POWER_W,
        max_step_s=MAX_STEP_S,
        still_s=STILL_S,
        gpu_ways=gpu_validation.table(gpu_validation.kept()),
    )


def table(rows: list[Row]) -> Iterator[str]:
    """Yields the lines of the table."""
    yield (
        "| case | truth, J | Carbontracker, J | CodeCarbon, J | ours, J | our error | method "
        "| coverage |"
    )
    yield "|---|--:|--:|--:|--:|--:|---|--:|"
    for row in rows:
        codecarbon = "" if row.codecarbon_joules is None else f"{row.codecarbon_joules:,.1f}"
        yield (
            f"| {row.name} | {row.true_joules:,.1f} | {row.carbontracker_joules:,.1f} "
            f"| {codecarbon} | {row.our_joules:,.1f} | {error_fraction(row):.2%} "
            f"| {row.methods} | {row.coverage_fraction:.0%} |"
        )


def error_fraction(row: Row) -> float:
    """Returns our error over the truth, without its sign."""
    return abs(row.our_joules - row.true_joules) / row.true_joules


HEAD = """\
# How right the meter is

Written by `python -m benchmarks.validation`; a test compares this page with what it writes.

## Against known joules

The devices are fakes whose power over time is known, so that their energy is known by \
integration on paper. They lie under the code of Carbontracker {carbontracker} (a powercap tree \
under `intel.RAPL_DIR`, a `pynvml` under `nvidia.pynvml`) and move with a clock that the program \
steps; devices are read once a second and at both ends of each window. Each tool gets the same \
machine from its start. Carbontracker's figure is its own total over epochs, one for each \
window, with its PUE of 1.58 taken out again. The RAPL reader of CodeCarbon {codecarbon} \
reads the package and DRAM counters as an independent check.

{table}

Why the figures differ:

- Carbontracker averages over the devices of a component: four GPUs count as one, package and \
DRAM as their mean. Ours adds them.
- Carbontracker takes a counter that wraps as 0 W. Ours and CodeCarbon count on.
- An epoch that no sample fell into repeats the one before in Carbontracker. Ours reads every \
device at both ends of every window.
- Where a GPU has no counter, its power is sampled and integrated over straight lines. That is \
exact where power is constant or changes steadily. Where it jumps between two samples, the error \
is at most half an interval times the jump, for each jump. In the row *4 GPU, sampled, square* \
every wave jumps 8 times by 240 W in 60 s: at most 8 × 0.5 s × 240 W = 960 J a GPU, 3,840 J in \
all; jumps up and down make errors of both signs, which partly cancel.

## What is not believed

- **A step of a counter is plausible or a gap.** A gain above what the device can draw, a \
fall, or a wrap of more than twice the power drawn before has no energy, lowers the coverage \
and is said once in `carbon.error`. The bound is twice the largest limit that the device tells \
(RAPL's constraints, NVML's power limit), else {max_package_w:,.0f} W for a package and \
{max_gpu_w:,.0f} W for a GPU, times the time since the counter last moved and {max_step_s:g} \
s. If one reading was wrong and the next follows from the one before it, only the time of the \
wrong one is lost. What is smaller than the bound goes unseen.
- **A power above that bound**, negative or no number is left out; a straight line joins its \
neighbours, and their time does not count as observed.
- **A counter that stands still** for {still_s:g} s while the GPU's sensor shows power is \
replaced by that sensor, from when it stopped. A RAPL counter has no second opinion: that time \
has no energy.
- **Missing devices**: a package or a GPU that cannot be read, and a GPU of another vendor on \
the PCI bus or seen by torch, count in the coverage with nothing observed.

## What short windows cost

- A counter moves in steps (NVML about every 100 ms, RAPL every 1 ms). A window that ends \
before every counter has moved has no energy of its own; it is reported with those that follow \
it, energy, time and units together. The mean is right, the spread is that of the merged \
windows. Over a counter of 100 ms, five windows of 20 ms share each step.
- Reading takes time: an NVML call of 5 ms on 4 GPUs takes 20 ms. A window begins when its \
first reading is over and ends when its last is asked for; each device's energy is cut from \
its own two readings to that stretch, as if its power were even between them. The time of \
reading is part of the run, of no window. Windows much shorter than the reading are mostly \
such a guess.
- With `process_share` the kernel counts CPU time in ticks of 10 ms. Energy waits until enough \
ticks have passed to say whose it is.
- An estimated CPU's load is that of the last 100 ms or more.

## On real hardware

Measured once, on 2026-11-27, on one NVIDIA H100 80GB HBM3 (power limit 700 W, driver \
580.159.04, MIG off) of a virtual machine that shows no RAPL. `python -m \
benchmarks.gpu_validation` trains a small network with pauses of 0.3 s and prints this table; \
its trace is kept in `tests/fixtures/gpu_power_trace.json`, and a test reads it again:

{gpu_ways}

The first two rows differ by one step of the counter (12 J when idle): they are read \
milliseconds apart, and the counter stepped in between.

What the counter can tell, by reading it as often as it answers:

- It moves every 100 ms (8 of 10 steps between 98 and 102 ms), in mJ. Reading it takes 3 ms (5 % \
of readings: over 7 ms), so a window costs about 6 ms. Reading the power takes 1 µs.
- The power reading moves every 100 ms too and is an average over the last second: after a jump \
from 142 W to 700 W it rises along a straight line for one second, and falls so after it. Over \
2.8 s that begin just after such a jump its integral is 14 % short of the counter; over a whole \
rise and fall the two agree to 0.1 %.
- NVML's own buffer of samples holds one power every 20 ms. Over 2.8 s of load their integral is \
1.2 % below the counter.

So a window is right to one step: 100 ms of power. Windows at random times within 12 s of a load \
that does not change (698 W), each against the mean of the whole:

| window | r.m.s. error | 90 % of errors within | counter did not move |
|--:|--:|--:|--:|
| 10 ms | 298% | -100% to +902% | 90% |
| 20 ms | 202% | -100% to +417% | 80% |
| 50 ms | 100% | -100% to +114% | 51% |
| 100 ms | 11% | -10% to +10% | 0.5% |
| 200 ms | 6.9% | -8.3% to +8.9% | 0% |
| 500 ms | 3.9% | -5.8% to +5.5% | 0% |
| 1 s | 1.1% | -0.5% to +0.4% | 0% |
| 2 s | 0.6% | -0.4% to +0.2% | 0% |
| 5 s | 0.3% | -0.4% to +0.1% | 0% |

Windows whose length is a multiple of 100 ms do better here than others would, for they hold a \
whole number of steps; the worst at 1 s was off by 11 %, one step. Our meter's own windows under \
the same load: of 60 of 10 ms, 48 held no step; of 40 of 20 ms, 29; of 30 of 50 ms, 12. Of 20 \
windows of 100 ms the r.m.s. error was 30 %, of 4 windows of 1 s 4.6 %. Since then, windows that \
hold no step are reported together with those that follow.

RAPL has been read on no real machine yet: over fakes, and beside CodeCarbon's reader. Nothing \
on this page says how well NVML's or RAPL's own counters agree with a wall meter, or what other \
GPUs' counters do.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page([row_of(case) for case in cases()]), encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
