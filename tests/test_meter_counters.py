"""No reading is believed that cannot be: counters that jump, restart, stand still; odd sensors."""

from collections.abc import Callable
from pathlib import Path

import pynvml
import pytest

from mlflow_carbon.metering.counter_steps import Count, CounterState, StepKind, counter_step
from mlflow_carbon.metering.meter import Meter, MeterSettings, Reading
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.nvml import FakeGpu
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.units import joules_from_kwh

GPU = MeterSettings(components="gpu")
CPU = MeterSettings(components="cpu")
ZERO_AT_5_S = 5.0


def joules(reading: Reading) -> float:
    assert reading.energy_kwh is not None
    return joules_from_kwh(reading.energy_kwh)


def shown(node: FakeNode, zone: Path, joules_at: Callable[[float, float], float]) -> None:
    """Lets a RAPL counter show something else than the truth from its next reading on."""

    def show(now_s: float) -> None:
        true_joules = int((zone / "energy_uj").read_text()) / 1e6
        (zone / "energy_uj").write_text(f"{round(joules_at(now_s, true_joules) * 1e6)}\n")

    node.clock.on_advance.append(show)


# A package of 50 W whose counter has counted 50 kJ before; true: 50 W × 10 s = 500 J.
ODD_RAPL: dict[str, tuple[Callable[[float, float], float], float, float]] = {
    # from 5 s on it counts from 0: the second in which it restarts is lost
    "restarts near 0": (lambda s, j: j if s < 5 else j - 50_250, 450.0, 0.9),
    "one reading of 0": (lambda s, j: 0.0 if s == ZERO_AT_5_S else j, 450.0, 0.9),
    "three readings of 0": (lambda s, j: 0.0 if 5 <= s < 8 else j, 350.0, 0.7),
    "one reading 200 J behind": (lambda s, j: j - 200 if s == ZERO_AT_5_S else j, 450.0, 0.9),
    "falls back by 200 J": (lambda s, j: j if s < 5 else j - 200, 450.0, 0.9),
    "jumps forward": (lambda s, j: j if s < 5 else j + 20_000, 450.0, 0.9),
    "one reading far ahead": (lambda s, j: j + 20_000 if s == ZERO_AT_5_S else j, 450.0, 0.9),
}


@pytest.mark.parametrize("kind", ODD_RAPL)
def test_rapl_counter_that_cannot_be_believed_is_a_gap(tmp_path: Path, kind: str) -> None:
    joules_at, expected_joules, coverage = ODD_RAPL[kind]
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone(
            "0", "package-0", Constant(50.0), start_microjoules=50_000_000_000
        )
        shown(node, zone, joules_at)
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(expected_joules, rel=1e-6)
    assert total.coverage_fraction == pytest.approx(coverage)
    (problem,) = meter.description.problems
    assert problem.startswith("cpu 0's energy counter went from")


@pytest.mark.parametrize("range_text", ["0", "-1", "1000", "", "9" * 400])
def test_range_that_no_counter_can_have_makes_a_fall_a_gap(tmp_path: Path, range_text: str) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone(
            "0", "package-0", Constant(50.0), start_microjoules=50_000_000_000
        )
        (zone / "max_energy_range_uj").write_text(f"{range_text}\n")
        shown(node, zone, lambda s, j: j if s < 5 else j - 50_250)
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(450.0, rel=1e-6)
    assert total.coverage_fraction == pytest.approx(0.9)


def test_limit_that_is_none_does_not_bound_what_is_believed(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone("0", "package-0", Constant(50.0))
        (zone / "constraint_0_power_limit_uw").write_text("1\n")
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(500.0)


def test_window_that_is_all_gap_has_no_energy(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone(
            "0", "package-0", Constant(50.0), start_microjoules=50_000_000_000
        )
        shown(node, zone, lambda s, j: j if s < 5 else j - 50_250)
        meter = node.started_meter(CPU)
        readings = []
        for _ in range(10):
            window = meter.open_window()
            node.clock.advance(1.0)
            readings.append(meter.close_window(window))
        meter.stop()
    lost = [index for index, reading in enumerate(readings) if reading.energy_kwh is None]
    assert lost == [4]  # from 4 s to 5 s
    assert readings[4].silent == ()  # it will not be known later


def test_wrap_of_a_counter_near_its_end_is_believed_however_it_was_gapped_before() -> None:
    state = CounterState(Count(262_100.0, 0.0), 0.0)
    step = counter_step(state, Count(50.0, 1.0), max_power_w=1000.0, wrap_joules=262_143.0)
    assert (step.kind, step.joules) == (StepKind.MOVED, 93.0)  # 43 J to its end and 50 J on


def test_wrap_after_a_short_step_is_believed() -> None:
    # 50 W throughout; a run's first reading was 5 ms ago, and a counter counts in steps of its own
    state = CounterState(Count(262_099.75, 0.0), 0.0)
    for count in (Count(262_100.0, 0.005), Count(7.0, 1.005)):
        step = counter_step(state, count, max_power_w=1000.0, wrap_joules=262_143.0)
        state = step.state
    assert (step.kind, step.joules) == (StepKind.MOVED, 50.0)


@pytest.mark.parametrize("short_of_end_joules", [50, 150, 500, 900, 1_900])
def test_reset_near_the_end_of_the_range_is_no_new_start(
    tmp_path: Path, short_of_end_joules: int
) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone(
            "0",
            "package-0",
            Constant(50.0),
            start_microjoules=(9_800 - short_of_end_joules) * 10**6,  # 4 s before it is set to 0
            wrap_microjoules=10**10,
        )
        shown(node, zone, lambda s, j: j if s < 5 else 50.0 * (s - 4))
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    # 50 W × 10 s; what a new start adds in the fifth second is at most twice what the CPU drew
    assert 450.0 <= joules(total) <= 450.0 + 2 * 50.0 * 1.1
    is_believed = short_of_end_joules + 50 <= 2 * 50.0 * 1.1
    assert bool(meter.description.problems) is not is_believed


def test_new_start_while_the_power_rises_is_counted_up_to_twice_the_power_before() -> None:
    state = CounterState(Count(0.0, 0.0), 0.0)
    for second in range(1, 11):  # 100 W
        count = Count(100.0 * second, float(second))
        state = counter_step(state, count, max_power_w=1000.0, wrap_joules=1_050.0).state
    # 50 J to the end, and on
    half_more = counter_step(state, Count(100.0, 11.0), max_power_w=1000.0, wrap_joules=1_050.0)
    tenfold = counter_step(state, Count(950.0, 11.0), max_power_w=1000.0, wrap_joules=1_050.0)
    assert (half_more.kind, half_more.joules) == (StepKind.MOVED, 150.0)
    assert tenfold.kind == StepKind.GAP


def test_package_that_tells_its_limit_is_believed_up_to_twice_that(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone("0", "package-0", Constant(20.0))
        (zone / "constraint_0_power_limit_uw").write_text("28000000\n")
        (zone / "constraint_1_power_limit_uw").write_text("64000000\n")
        shown(
            node, zone, lambda s, j: j if s < 5 else j + 400
        )  # 420 J in 1 s; 2 × 64 W × 2 s: 256 J
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(180.0)  # 20 W × 9 s


# GPUs


def odd_gpu(
    folder: Path,
    millijoules_at: Callable[[float, int], int] = lambda _, true: true,
    milliwatts_at: Callable[[float, int], int] = lambda _, true: true,
    *,
    has_counter: bool = True,
) -> FakeNode:
    """Returns a machine with one GPU of 300 W that shows something else than the truth."""
    node = gpu_node(folder, Constant(300.0), has_counter=has_counter)
    true_joules = node.nvml.nvmlDeviceGetTotalEnergyConsumption
    true_power = node.nvml.nvmlDeviceGetPowerUsage

    def shown_joules(handle: FakeGpu) -> int:
        return millijoules_at(node.clock.now_s, true_joules(handle))

    def shown_power(handle: FakeGpu) -> int:
        return milliwatts_at(node.clock.now_s, true_power(handle))

    node.nvml.nvmlDeviceGetTotalEnergyConsumption = shown_joules  # type: ignore[method-assign]
    node.nvml.nvmlDeviceGetPowerUsage = shown_power  # type: ignore[method-assign]
    return node


def test_one_zero_of_a_gpu_counter_is_a_gap_of_its_second(tmp_path: Path) -> None:
    with odd_gpu(tmp_path, lambda s, mj: 0 if s == ZERO_AT_5_S else mj) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(2_700.0)  # 300 W × 9 s
    assert total.coverage_fraction == pytest.approx(0.9)


def test_gpus_own_limit_bounds_what_is_believed(tmp_path: Path) -> None:
    with odd_gpu(tmp_path, lambda s, mj: mj if s < 5 else mj + 1_500_000) as node:
        node.nvml.nvmlDeviceGetPowerManagementLimitConstraints = (  # type: ignore[attr-defined]
            lambda _: (100_000, 400_000)
        )
        meter = node.started_meter(GPU)
        node.run(meter, 10.0)
        total = meter.stop()
    # 1800 J in the fifth second; twice its limit of 400 W for 2 s are 1600 J
    assert joules(total) == pytest.approx(2_700.0)


def test_counter_that_stands_still_while_the_gpu_draws_power_is_sampled(tmp_path: Path) -> None:
    with odd_gpu(tmp_path, lambda _, mj: min(mj, 6_500_000)) as node:  # still at 5 s
        meter = node.started_meter(GPU)
        node.run(meter, 20.0)
        window = meter.open_window()
        node.run(meter, 10.0)
        reading = meter.close_window(window)
        total = meter.stop()
    assert joules(total) == pytest.approx(9_000.0)  # 300 W × 30 s, by counter, then by samples
    assert joules(reading) == pytest.approx(3_000.0)
    assert reading.devices[0].method == "sampled"
    assert meter.description.method_by_component == {"gpu": "sampled"}
    assert meter.description.problems == (
        "gpu 0's energy counter stood still while it drew 300 W: its power is sampled from then "
        "on.",
    )


def test_counter_that_never_moved_is_sampled_from_the_start(tmp_path: Path) -> None:
    with odd_gpu(tmp_path, lambda *_: 7) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 300.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(90_000.0)  # 300 W × 300 s
    assert total.coverage_fraction == pytest.approx(1.0)


@pytest.mark.slow
def test_dead_rapl_counter_has_no_energy_and_is_named(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone("0", "package-0", Constant(50.0))
        shown(node, zone, lambda *_: 12.0)
        (zone / "energy_uj").write_text("12000000\n")
        meter = node.started_meter(CPU)
        windows = []
        for _ in range(5):
            window = meter.open_window()
            node.run(meter, 60.0)
            windows.append(meter.close_window(window))
        total = meter.stop()
    assert [window.energy_kwh for window in windows] == [None] * 5
    assert (total.energy_kwh, total.silent) == (None, ())
    assert meter.description.problems == (
        "cpu 0's energy counter stands still: no energy is known.",
    )
    assert meter.description.method_by_component == {"cpu": "unavailable"}
    assert meter.description.components == ()


def test_counter_that_wakes_up_counts_again(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        zone = node.powercap.add_zone("0", "package-0", Constant(50.0))
        shown(node, zone, lambda now_s, _: 12.0 if now_s < 100 else 12.0 + now_s)
        (zone / "energy_uj").write_text("12000000\n")
        meter = node.started_meter(CPU)
        node.run(meter, 90.0)
        before = meter.description.method_by_component
        node.run(meter, 90.0)
        assert (before, meter.description.method_by_component) == (
            {"cpu": "unavailable"},
            {"cpu": "counter"},
        )
        meter.stop()


@pytest.mark.parametrize("step_s", [0.1, 1.0])
def test_windows_shorter_than_a_counters_step_are_silent_not_zero(
    tmp_path: Path, step_s: float
) -> None:
    def in_steps(now_s: float, _: int) -> int:
        return 5_000_000 + round(300_000 * step_s * int(now_s / step_s + 1e-9))

    with odd_gpu(tmp_path, in_steps) as node:
        meter = node.started_meter(GPU)
        windows = []
        for _ in range(500):
            window = meter.open_window()
            node.clock.advance(0.02)
            windows.append(meter.close_window(window))
        meter.stop()
    known = [window for window in windows if window.energy_kwh is not None]
    assert len(known) == 10 / step_s  # one for each step of the 10 s
    assert [joules(window) for window in known] == [pytest.approx(300.0 * step_s)] * len(known)
    silent = [window for window in windows if window.energy_kwh is None]
    assert {window.silent for window in silent} == {(("gpu", 0),)}
    assert meter.description.method_by_component == {"gpu": "counter"}  # it only has steps


# Sensors


@pytest.mark.parametrize(
    ("has_counter", "problem"),
    [
        (False, "gpu 0 showed 0 W, which it cannot draw: that is left out."),
        (True, "gpu 0's energy counter stands still: no energy is known."),
    ],
)
def test_sensor_that_shows_no_power_gives_no_energy(
    tmp_path: Path, has_counter: bool, problem: str
) -> None:
    still = odd_gpu(tmp_path, lambda *_: 5_000_000, lambda *_: 0, has_counter=has_counter)
    with still as node:
        meter = node.started_meter(GPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert total.energy_kwh is None
    assert meter.description.problems == (problem,)


@pytest.mark.parametrize("milliwatts", [0xFFFFFFFF, -1])
def test_power_that_no_gpu_draws_is_left_out(tmp_path: Path, milliwatts: int) -> None:
    node = odd_gpu(
        tmp_path,
        milliwatts_at=lambda s, mw: milliwatts if s == ZERO_AT_5_S else mw,
        has_counter=False,
    )
    with node:
        meter = node.started_meter(GPU)
        node.run(meter, 20.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(6_000.0)  # 300 W × 20 s, a line over the bad one
    assert total.coverage_fraction == pytest.approx(0.9)  # the 2 s beside it are not observed
    assert "which it cannot draw" in meter.description.problems[0]


# Devices that should be there


def test_unreadable_package_of_two_lowers_the_coverage(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        zone = node.powercap.add_zone("1", "package-1", Constant(100.0))
        node.clock.on_advance.append(lambda _: broken(zone))
        broken(zone)
        meter = node.started_meter(CPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(1_000.0)  # 100 W × 10 s of one package
    assert total.coverage_fraction == pytest.approx(0.5)
    assert meter.description.unread == ("cpu 1",)


def broken(zone: Path) -> None:
    (zone / "energy_uj").write_text("garbage\n")


def test_one_of_four_gpus_that_cannot_be_read_lowers_the_coverage(tmp_path: Path) -> None:
    with gpu_node(tmp_path, *[Constant(300.0)] * 4) as node:
        blind = node.nvml.gpus[2]
        blind.has_counter = False
        true_power = node.nvml.nvmlDeviceGetPowerUsage

        def power_usage(handle: FakeGpu) -> int:
            if handle is blind:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return true_power(handle)

        node.nvml.nvmlDeviceGetPowerUsage = power_usage  # type: ignore[method-assign]
        meter = node.started_meter(GPU)
        node.run(meter, 10.0)
        total = meter.stop()
    assert joules(total) == pytest.approx(9_000.0)  # 3 × 300 W × 10 s
    assert total.coverage_fraction == pytest.approx(0.75)
    assert meter.description.unread == ("NVIDIA GPU 2",)


def test_gpu_that_appears_later_is_measured_from_then_on(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0), Constant(200.0)) as node:
        late = node.nvml.gpus.pop()
        meter = node.started_meter(GPU)
        node.run(meter, 10.0)
        node.nvml.gpus.append(late)
        node.run(meter, 30.0)
        total = meter.stop()
    by_index = {device.index: joules_from_kwh(device.energy_kwh) for device in total.devices}
    # it is found at the next reading, at 11 s of 40 s; 300 W × 40 s and 200 W × 29 s
    assert by_index == pytest.approx({0: 12_000.0, 1: 5_800.0})
    assert total.coverage_fraction == pytest.approx((40 + 29) / 80)
    assert "GPU 1 appeared later" in " ".join(meter.description.problems)
    assert meter.description.hardware == "2 × NVIDIA A100-SXM4-80GB"


# Reading takes time


@pytest.mark.parametrize("window_s", [0.02, 0.1, 1.0])
def test_time_that_reading_takes_is_no_part_of_a_window(tmp_path: Path, window_s: float) -> None:
    with gpu_node(tmp_path, *[Constant(300.0)] * 4) as node:
        counted = node.nvml.nvmlDeviceGetTotalEnergyConsumption

        def slow(handle: FakeGpu) -> int:
            node.clock.advance(0.005)
            return counted(handle)

        node.nvml.nvmlDeviceGetTotalEnergyConsumption = slow  # type: ignore[method-assign]
        meter: Meter = node.started_meter(GPU)
        window = meter.open_window()
        node.clock.advance(window_s)
        reading = meter.close_window(window)
        meter.stop()
    assert reading.duration_s == pytest.approx(window_s)
    assert joules(reading) == pytest.approx(1_200.0 * window_s, rel=0.01)  # 4 × 300 W
    assert reading.coverage_fraction == pytest.approx(1.0)
