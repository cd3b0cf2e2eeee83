"""The meter against known joules, over Carbontracker's own code and on a clock that tests move.

Every device's power is known over time, so its energy is known by integration on paper.
"""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from codecarbon.core.cpu import IntelRAPL
from codecarbon.core.rapl import RAPLFile
from codecarbon.core.units import Time

from mlflow_carbon.metering.cpu_power import read_cpu
from mlflow_carbon.metering.meter import Meter, MeterSettings, Reading
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.power import Constant, Power, Ramp, SquareWave
from mlflow_carbon.testing.powercap import WRAP_MICROJOULES, two_sockets
from mlflow_carbon.units import joules_from_kwh

GPU = MeterSettings(components="gpu")
CPU = MeterSettings(components="cpu")
EXACT = pytest.approx  # relative error 1e-6 where nothing but rounding of counters is in it
WITHIN_HALF_A_PERCENT = 0.005

PROFILES: dict[str, Callable[[int], Power]] = {
    "constant": lambda index: Constant(300.0 + 10 * index),
    "ramp": lambda index: Ramp(50.0, 300.0 + 10 * index, 40.0),
    "square wave": lambda index: SquareWave(300.0 + 10 * index, 60.0, 14.0),
}


def joules(reading: Reading) -> float:
    assert reading.energy_kwh is not None
    return joules_from_kwh(reading.energy_kwh)


def window_of(node: FakeNode, meter: Meter, duration_s: float) -> Reading:
    window = meter.open_window()
    node.run(meter, duration_s)
    return meter.close_window(window)


# GPUs with counters


@pytest.mark.parametrize("num_gpus", [1, 4, 8])
@pytest.mark.parametrize("profile", PROFILES)
def test_gpu_counters_give_the_sum_over_devices(
    tmp_path: Path, num_gpus: int, profile: str
) -> None:
    powers = [PROFILES[profile](index) for index in range(num_gpus)]
    with gpu_node(tmp_path, *powers) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 3.0)
        reading = window_of(node, meter, 50.0)
        meter.stop()
    truth_joules = sum(power.energy_joules(53.0) - power.energy_joules(3.0) for power in powers)
    assert joules(reading) == pytest.approx(truth_joules, rel=WITHIN_HALF_A_PERCENT)
    assert [device.index for device in reading.devices] == list(range(num_gpus))
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_four_gpus_of_300_w_are_1200_w(tmp_path: Path) -> None:
    with gpu_node(tmp_path, *[Constant(300.0)] * 4) as node:
        meter = node.started_meter(GPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(12_000.0)  # 4 × 300 W × 10 s; times a PUE it would be 18,960
    assert {device.method for device in reading.devices} == {"counter"}


# GPUs with a power sensor only


@pytest.mark.parametrize("num_gpus", [1, 4, 8])
@pytest.mark.parametrize("profile", ["constant", "ramp"])
def test_gpu_samples_of_piecewise_linear_power_are_exact(
    tmp_path: Path, num_gpus: int, profile: str
) -> None:
    powers = [PROFILES[profile](index) for index in range(num_gpus)]
    with gpu_node(tmp_path, *powers, has_counter=False) as node:
        meter = node.started_meter(GPU)
        reading = window_of(node, meter, 50.25)
        meter.stop()
    truth_joules = sum(power.energy_joules(50.25) for power in powers)
    assert joules(reading) == pytest.approx(truth_joules, rel=WITHIN_HALF_A_PERCENT)
    assert {device.method for device in reading.devices} == {"sampled"}
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_gpu_samples_err_by_half_an_interval_of_each_jump_at_most(tmp_path: Path) -> None:
    wave = SquareWave(300.0, 60.0, 14.6)  # jumps between samples
    with gpu_node(tmp_path, wave, has_counter=False) as node:
        meter = node.started_meter(GPU)
        reading = window_of(node, meter, 100.0)
        meter.stop()
    num_jumps = 13  # at 7.3, 14.6, … 94.9 s
    error_joules = abs(joules(reading) - wave.energy_joules(100.0))
    assert 0 < error_joules <= num_jumps * 0.5 * 240.0  # jump of 240 W, half of 1 s


def test_sample_at_each_end_measures_a_window_shorter_than_the_interval(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Ramp(0.0, 1000.0, 10.0), has_counter=False) as node:
        meter = node.started_meter(GPU)
        node.clock.advance(4.0)
        window = meter.open_window()
        node.clock.advance(0.05)
        reading = meter.close_window(window)
        meter.stop()
    # from 400 W to 405 W in 0.05 s: 402.5 W × 0.05 s
    assert joules(reading) == EXACT(20.125)
    assert reading.num_readings == 2


def test_sensor_silent_for_long_did_not_observe_the_time(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0), has_counter=False) as node:
        meter = node.started_meter(GPU)
        window = meter.open_window()
        node.run(meter, 10.0, interval_s=2.0)
        node.clock.advance(10.0)  # of 1 s each, ten intervals without a sample
        reading = meter.close_window(window)
        meter.stop()
    assert joules(reading) == EXACT(6_000.0)  # a straight line between the samples
    assert reading.coverage_fraction == pytest.approx(0.5)


def test_method_is_the_weaker_one_where_gpus_differ(tmp_path: Path) -> None:
    with gpu_node(tmp_path, *[Constant(300.0)] * 3) as node:
        node.nvml.gpus[1].has_counter = False
        meter = node.started_meter(GPU)
        reading = window_of(node, meter, 1.0)
        meter.stop()
    assert [device.method for device in reading.devices] == ["counter", "sampled", "counter"]
    assert meter.description.method_by_component == {"gpu": "sampled"}


# RAPL


def test_package_and_dram_of_two_sockets_are_counted_once(tmp_path: Path) -> None:
    node = cpu_node(tmp_path)
    node.powercap = two_sockets(tmp_path / "two", node.clock, Constant(100.0), Constant(10.0))
    with node:
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 60.0)
        meter.stop()
    # 2 × (100 W + 10 W) × 60 s; core is in the package, psys and mmio show it again
    assert joules(reading) == EXACT(13_200.0)
    assert [(device.component, device.index) for device in reading.devices] == [
        ("cpu", 0),
        ("dram", 0),
        ("cpu", 1),
        ("dram", 1),
    ]
    by_component = reading.energy_kwh_by_component()
    assert joules_from_kwh(by_component["dram"]) == EXACT(1_200.0)


def test_one_package_without_dram_is_counted(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(65.0))
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 2.0)
        meter.stop()
    assert joules(reading) == EXACT(130.0)  # 65 W × 2 s
    assert meter.description.method_by_component == {"cpu": "counter"}
    assert meter.description.cpu_tdp_source is None


def test_package_domains_that_mirror_each_other_are_counted_once(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0-die-0", Constant(180.0))
        node.powercap.add_mirror("1", "package-0-die-1", of="0")
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(1_800.0)  # 180 W × 10 s, not twice
    assert any("counter again" in problem for problem in meter.description.problems)


@pytest.mark.parametrize("has_dram", [True, False])
def test_dies_that_mirror_each_other_with_their_dram_are_counted_once(
    tmp_path: Path, has_dram: bool
) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0-die-0", Constant(50.0))
        node.powercap.add_mirror("1", "package-0-die-1", of="0")
        if has_dram:
            node.powercap.add_zone("0:0", "dram", Constant(10.0))
            node.powercap.add_mirror("1:0", "dram", of="0:0")
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(600.0 if has_dram else 500.0)  # (50 + 10) W × 10 s
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_dies_with_counters_of_their_own_are_added(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        for die in range(2):
            node.powercap.add_zone(f"{die}", f"package-0-die-{die}", Constant(50.0))
            node.powercap.add_zone(f"{die}:0", "dram", Constant(10.0))
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(1_200.0)  # 2 × (50 + 10) W × 10 s


def test_dram_without_a_package_is_counted_beside_an_estimated_cpu(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        package = node.powercap.add_zone("0", "package-0", Constant(100.0))
        node.powercap.add_zone("0:0", "dram", Constant(10.0))
        node.clock.on_advance.append(lambda _: (package / "energy_uj").write_text("garbage"))
        (package / "energy_uj").write_text("garbage")
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules_from_kwh(reading.energy_kwh_by_component()["dram"]) == EXACT(100.0)
    assert meter.description.method_by_component == {"cpu": "tdp", "dram": "counter"}
    assert reading.coverage_fraction == pytest.approx(0.5)


def test_package_that_only_mmio_shows_is_counted(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0), prefix="intel-rapl-mmio")
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(1_000.0)
    assert meter.description.method_by_component == {"cpu": "counter"}


@pytest.mark.parametrize("name", ["psys", "core"])
def test_tree_without_a_package_is_named(tmp_path: Path, name: str) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", name, Constant(100.0))
        meter = node.started_meter(CPU)
        meter.stop()
    assert meter.description.method_by_component == {"cpu": "tdp"}
    assert meter.description.problems == (
        f"RAPL shows no package, only intel-rapl:0 ({name}): that is not the CPU's energy.",
    )


def test_counter_that_wraps_once_is_counted_on(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        start_microjoules = WRAP_MICROJOULES - 5_000_000  # 5 J before its end
        node.powercap.add_zone(
            "0", "package-0", Constant(100.0), start_microjoules=start_microjoules
        )
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(1_000.0)  # 100 W × 10 s
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_counter_that_wraps_many_times_is_counted_on(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone(  # 2000 J: wraps every 20 s
            "0", "package-0", Constant(100.0), wrap_microjoules=2_000_000_000
        )
        meter = node.started_meter(CPU)
        reading = window_of(node, meter, 1_000.0)
        meter.stop()
    assert joules(reading) == EXACT(100_000.0)  # 100 W × 1000 s, after 50 wraps
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_gap_that_may_hide_a_wrap_does_not_count_as_observed(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0), wrap_microjoules=20_000_000_000)
        meter = node.started_meter(CPU)
        window = meter.open_window()
        node.clock.advance(30.0)  # at 1000 W the counter would wrap after 20 s
        meter.sample()
        node.run(meter, 10.0)
        reading = meter.close_window(window)
        meter.stop()
    assert reading.coverage_fraction == pytest.approx(10 / 40)


def test_codecarbons_rapl_reader_agrees(tmp_path: Path) -> None:
    node = cpu_node(tmp_path)
    powers = {"0": Ramp(80.0, 200.0, 30.0), "1": SquareWave(150.0, 40.0, 9.0)}
    with node:
        start_microjoules = WRAP_MICROJOULES - 1_000_000_000  # wraps after 1 kJ
        for number, power in powers.items():
            node.powercap.add_zone(
                number, f"package-{number}", power, start_microjoules=start_microjoules
            )
            node.powercap.add_zone(f"{number}:0", "core", power)
        node.powercap.add_zone("0:1", "dram", Constant(12.0))
        meter = node.started_meter(CPU)
        packages = IntelRAPL(rapl_dir=str(node.powercap.root))
        dram_folder = node.powercap.root / "intel-rapl:0:1"
        dram = RAPLFile(
            "dram", str(dram_folder / "energy_uj"), str(dram_folder / "max_energy_range_uj")
        )
        packages.start()
        dram.start()
        window = meter.open_window()
        their_kwh = 0.0
        for _ in range(45):
            node.run(meter, 1.0)
            second = Time.from_seconds(1.0)
            packages.get_cpu_details(second)
            dram.delta(second)
            their_kwh += sum(file.energy_delta.kWh for file in packages._rapl_files)
            their_kwh += dram.energy_delta.kWh
        reading = meter.close_window(window)
        meter.stop()
    assert reading.energy_kwh == pytest.approx(their_kwh, rel=1e-6)


# Windows


@pytest.mark.parametrize(
    "duration_s", [0.001, 0.05, 1.0, pytest.param(3600.0, marks=pytest.mark.slow)]
)
def test_window_of_any_length_is_measured(tmp_path: Path, duration_s: float) -> None:
    with gpu_node(tmp_path, Constant(300.0), Constant(200.0)) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter()
        node.run(meter, 1.5)
        reading = window_of(node, meter, duration_s)
        meter.stop()
    assert joules(reading) == pytest.approx(600.0 * duration_s, rel=WITHIN_HALF_A_PERCENT)
    assert reading.duration_s == pytest.approx(duration_s)


@pytest.mark.parametrize("has_counter", [True, False])
def test_a_thousand_windows_in_a_row_sum_to_the_run(tmp_path: Path, has_counter: bool) -> None:
    with gpu_node(tmp_path, Ramp(100.0, 400.0, 50.0), has_counter=has_counter) as node:
        meter = node.started_meter(GPU)
        windows = [window_of(node, meter, 0.05) for _ in range(1000)]
        total = meter.stop()
    # a ramp from 100 W to 400 W in 50 s: 250 W × 50 s
    assert joules(total) == EXACT(12_500.0)
    assert sum(map(joules, windows)) == EXACT(12_500.0)


def test_idle_gap_is_in_the_run_but_in_no_window(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(GPU)
        first = window_of(node, meter, 10.0)
        node.run(meter, 7.0)
        second = window_of(node, meter, 5.0)
        total = meter.stop()
    assert joules(first) + joules(second) == EXACT(1_500.0)  # 100 W × 15 s
    assert joules(total) == EXACT(2_200.0)  # 100 W × 22 s
    assert total.duration_s == pytest.approx(22.0)


def test_windows_may_overlap(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(GPU)
        outer = meter.open_window()
        node.run(meter, 1.0)
        inner = meter.open_window()
        node.run(meter, 2.0)
        assert joules(meter.close_window(outer)) == EXACT(300.0)  # 3 s
        node.run(meter, 4.0)
        assert joules(meter.close_window(inner)) == EXACT(600.0)  # 6 s
        meter.stop()


def test_window_knows_its_time_of_day(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(100.0)) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 5.0)
        reading = window_of(node, meter, 2.0)
        meter.stop()
    assert reading.start_unix_s == 1_700_000_005.0  # the clock's start plus 5 s


# Attribution and estimates


def test_process_share_counts_our_share_of_the_cpu_time(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter(MeterSettings(components="cpu", attribution="process_share"))
        window = meter.open_window()
        for own_s, all_s in [(1.0, 4.0), (3.0, 4.0)]:  # a quarter, then three quarters
            node.clock.process_tree_s += own_s
            node.clock.machine_s += all_s
            node.run(meter, 1.0)
        reading = meter.close_window(window)
        meter.stop()
    assert joules(reading) == EXACT(100.0)  # 100 J × 1/4 + 100 J × 3/4
    assert meter.description.attribution == "process_share"


@pytest.mark.slow
@pytest.mark.parametrize("window_s", [0.01, 0.002])
def test_process_share_of_windows_shorter_than_a_tick_loses_nothing(
    tmp_path: Path, window_s: float
) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        node.clock.on_advance.append(lambda now_s: tick(node, now_s))
        meter = node.started_meter(MeterSettings(components="cpu", attribution="process_share"))
        windows = [window_of(node, meter, window_s) for _ in range(round(4 / window_s))]
        total = meter.stop()
    known = [window for window in windows if window.energy_kwh is not None]
    # half of the CPU time of 4 s at 100 W is ours; the last tick is open still
    assert joules(total) == pytest.approx(200.0, rel=0.02)
    assert sum(map(joules, known)) == pytest.approx(200.0, rel=0.02)


def tick(node: FakeNode, now_s: float) -> None:
    """Counts CPU time as the kernel does, in ticks of 10 ms: one thread is ours, one another's."""
    ticks = int(now_s / 0.01 + 1e-9)
    node.clock.machine_s, node.clock.process_tree_s = 0.02 * ticks, 0.01 * ticks


def test_process_share_of_an_idle_machine_is_nothing(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter(MeterSettings(components="cpu", attribution="process_share"))
        node.run(meter, 10.0)
        total = meter.stop()
    assert total.energy_kwh == 0.0  # 10 s without any process's CPU time


def test_gpu_only_leaves_the_cpus_out(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter(MeterSettings(attribution="gpu_only"))
        reading = window_of(node, meter, 1.0)
        meter.stop()
    assert joules(reading) == EXACT(300.0)
    assert meter.description.method_by_component == {"gpu": "counter"}


@pytest.mark.parametrize(
    ("attribution", "expected_joules"),
    # load 50 %: 0.75 × 100 W × 10 s; of that, 0.2 of 0.5 threads' time is ours
    [("whole_node", 750.0), ("process_share", 300.0), ("auto", 300.0)],
)
def test_estimated_cpu_follows_the_load_curve(
    tmp_path: Path, attribution: str, expected_joules: float
) -> None:
    num_threads = read_cpu().num_threads
    with cpu_node(tmp_path) as node:
        settings = MeterSettings(
            components="cpu", attribution=attribution, cpu_tdp_w=100.0, cpu_threads=num_threads
        )
        meter = node.started_meter(settings)
        window = meter.open_window()
        for _ in range(10):
            node.clock.machine_s += 0.5 * num_threads
            node.clock.process_tree_s += 0.2 * num_threads
            node.run(meter, 1.0)
        reading = meter.close_window(window)
        meter.stop()
    assert joules(reading) == EXACT(expected_joules)
    assert reading.coverage_fraction == 0.0
    assert reading.devices[0].method == "tdp"
    counted = "process_share" if attribution == "auto" else attribution
    assert meter.description.attribution == counted


def test_counter_is_counted_whole_by_default_and_the_load_of_others_is_told(tmp_path: Path) -> None:
    num_threads = os.cpu_count() or 1
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter(CPU)
        window = meter.open_window()
        for _ in range(10):
            node.clock.machine_s += 0.5 * num_threads
            node.clock.process_tree_s += 0.2 * num_threads
            node.run(meter, 1.0)
        reading = meter.close_window(window)
        meter.stop()
    assert joules(reading) == EXACT(1000.0)
    assert meter.description.attribution == "whole_node"
    assert reading.other_cpu_fraction == pytest.approx(0.3)  # 0.5 of the threads less our 0.2


def test_estimated_cpu_that_does_nothing_draws_its_idle_part(tmp_path: Path) -> None:
    num_threads = read_cpu().num_threads
    with cpu_node(tmp_path) as node:
        settings = MeterSettings(
            components="cpu",
            attribution="whole_node",
            cpu_tdp_w=100.0,
            cpu_threads=num_threads,
        )
        meter = node.started_meter(settings)
        idle = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(idle) == EXACT(120.0)  # 0.12 × 100 W × 10 s
    assert meter.description.cpu_idle_power_w == EXACT(12.0)
    assert meter.description.tags()["carbon.cpu_idle_power_w"] == "12"


def test_estimate_of_windows_shorter_than_a_tick_is_that_of_the_whole(tmp_path: Path) -> None:
    num_threads = read_cpu().num_threads
    with cpu_node(tmp_path) as node:
        settings = MeterSettings(
            components="cpu",
            attribution="whole_node",
            cpu_tdp_w=100.0,
            cpu_threads=num_threads,
        )
        meter = node.started_meter(settings)
        windows = []
        for number in range(1000):
            node.clock.machine_s += 0.01 * num_threads if number % 10 == 9 else 0.0
            windows.append(window_of(node, meter, 0.002))
        meter.stop()
    # half of the time all threads are busy: 0.75 × 100 W × 2 s; ticks of 10 ms every 20 ms
    assert sum(map(joules, windows)) == pytest.approx(150.0, rel=0.05)


def test_simulated_devices_are_as_carbontracker_gives_them(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        settings = MeterSettings(sim_cpu_tdp_w=200.0, sim_gpu_w=400.0, sim_gpu_util_fraction=0.75)
        meter = node.started_meter(settings)
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert joules(reading) == EXACT(4_000.0)  # (200 W × 0.5 + 400 W × 0.75) × 10 s
    assert {device.method for device in reading.devices} == {"simulated"}
    assert reading.coverage_fraction == 0.0


def test_coverage_is_averaged_over_devices(tmp_path: Path) -> None:
    with gpu_node(tmp_path, *[Constant(300.0)] * 3) as node:  # and one estimated CPU
        meter = node.started_meter(MeterSettings(cpu_tdp_w=100.0))
        reading = window_of(node, meter, 10.0)
        meter.stop()
    assert reading.coverage_fraction == pytest.approx(3 / 4)


def test_sum_over_any_mix_of_windows_is_additive(tmp_path: Path) -> None:
    durations_s = list(itertools.islice(itertools.cycle([0.3, 2.5, 0.01, 1.0]), 40))
    with gpu_node(tmp_path, SquareWave(300.0, 50.0, 3.3), has_counter=False) as node:
        meter = node.started_meter(GPU)
        windows = [window_of(node, meter, duration_s) for duration_s in durations_s]
        total = meter.stop()
    assert sum(map(joules, windows)) == pytest.approx(joules(total), rel=1e-9)
