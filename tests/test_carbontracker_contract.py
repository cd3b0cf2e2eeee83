"""What our code relies on or corrects in the installed Carbontracker.

A test that fails here says that Carbontracker has changed: look at what our code does about it,
so that nothing is corrected twice.
"""

import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from carbontracker import constants, exceptions
from carbontracker.components.apple_silicon import powermetrics
from carbontracker.components.component import Component, create_components
from carbontracker.components.cpu import generic, intel
from carbontracker.components.cpu.sim_cpu import SimulatedCPUHandler
from carbontracker.components.gpu import nvidia
from carbontracker.components.gpu.sim_gpu import SimulatedGPUHandler
from carbontracker.tracker import CarbonTrackerThread

from mlflow_carbon.testing.node import cpu_node, gpu_node
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.testing.powercap import WRAP_MICROJOULES

JOULES_PER_KWH = 3.6e6


class Log:
    """A logger as the meter gives it to Carbontracker; keeps what is critical."""

    def __init__(self) -> None:
        self.critical: list[str] = []

    def info(self, message: str) -> None:
        pass

    def output(self, message: str, verbose_level: int = 0) -> None:
        pass

    def err_critical(self, message: str) -> None:
        self.critical.append(message)


class Probe:
    """A component as the meter gives it to Carbontracker's thread; records the calls."""

    name = "probe"

    def __init__(self, on_collect: Callable[[], None] = lambda: None) -> None:
        self.calls: list[str] = []
        self.power_usages: list[list[float]] = []
        self.collected = threading.Event()
        self._on_collect = on_collect

    def available(self) -> bool:
        self.calls.append("available")
        return True

    def init(self) -> None:
        self.calls.append("init")

    def devices(self) -> list[str]:
        self.calls.append("devices")
        return []

    def collect_power_usage(self, epoch: int) -> None:
        self.calls.append(f"collect {epoch}")
        self.collected.set()
        self._on_collect()

    def shutdown(self) -> None:
        self.calls.append("shutdown")


def started_thread(probe: Probe, delete: Callable[[], None]) -> Any:
    thread = CarbonTrackerThread(
        components=[probe], logger=Log(), ignore_errors=True, delete=delete, update_interval=0
    )
    thread.epoch_start()
    return thread


def component_of(handler: object, name: str = "gpu") -> Any:
    """Returns Carbontracker's component over a handler of the test's."""
    with_handler = Component.__new__(Component)
    with_handler.__dict__.update(
        name=name, _handler=handler, power_usages=[], cur_epoch=-1, logger=Log()
    )
    return with_handler


def handler_of(*powers_w: float) -> object:
    return SimpleNamespace(power_usage=lambda: list(powers_w))


def test_version_is_the_one_that_was_read() -> None:
    assert version("carbontracker") == "2.4.7"


# The thread


def test_thread_asks_a_component_for_what_ours_gives() -> None:
    probe = Probe()
    thread = started_thread(probe, lambda: None)
    assert probe.collected.wait(5)
    thread.shutdown_event.set()
    thread.measuring_event.set()
    thread.join(5)
    assert not thread.is_alive()
    assert thread.daemon
    # the interval is 0 s, so that how often it collects depends on the collector's own wait
    assert list(dict.fromkeys(probe.calls)) == [
        "available",
        "init",
        "devices",
        "collect 1",
        "shutdown",
    ]


def test_thread_survives_an_error_only_with_ignore_errors() -> None:
    deleted = threading.Event()

    def fail() -> None:
        raise RuntimeError("boom")

    thread = started_thread(Probe(fail), deleted.set)
    assert deleted.wait(5)
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.slow
def test_thread_ends_the_whole_process_without_ignore_errors() -> None:
    script = (
        "import time\n"
        "from carbontracker.tracker import CarbonTrackerThread\n"
        "from tests.test_carbontracker_contract import Log\n"
        "CarbonTrackerThread(components=[], logger=Log(), ignore_errors=False, delete=None)\n"
        "time.sleep(10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=Path(__file__).parent.parent, capture_output=True
    )
    assert done.returncode == 70


def test_threads_own_stop_waits_for_a_handler_without_limit() -> None:
    release = threading.Event()
    probe = Probe(lambda: release.wait(10) and None)
    thread = started_thread(probe, lambda: None)
    assert probe.collected.wait(5)
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    stopping.join(0.3)
    assert stopping.is_alive()  # ours joins for half a second at most
    release.set()
    stopping.join(5)


def test_totals_contain_a_pue() -> None:
    with_gpus = component_of(handler_of(300.0))
    thread = CarbonTrackerThread.__new__(CarbonTrackerThread)
    thread.components, thread.epoch_times = [with_gpus], [10.0]
    with_gpus.collect_power_usage(1)
    assert constants.PUE_2023 == 1.58
    total_kwh = thread.total_energy_per_epoch()
    assert total_kwh.sum() * JOULES_PER_KWH == pytest.approx(3_000.0 * 1.58)  # 300 W × 10 s


# Components


@pytest.mark.parametrize(
    ("powers_w", "joules"),
    [
        ((300.0,) * 4, 300.0),  # four GPUs: 1200 J in truth
        ((100.0, 10.0), 55.0),  # package and DRAM: 110 J in truth
    ],
)
def test_energy_is_averaged_over_devices(powers_w: tuple[float, ...], joules: float) -> None:
    averaging = component_of(handler_of(*powers_w))
    averaging.collect_power_usage(1)
    assert averaging.energy_usage([1.0])[0] * JOULES_PER_KWH == pytest.approx(joules)


def test_epoch_without_a_sample_repeats_the_one_before() -> None:
    repeating = component_of(handler_of(300.0))
    repeating.collect_power_usage(1)
    repeating.collect_power_usage(3)
    assert repeating.power_usages == [[300.0], [300.0], [300.0]]
    assert repeating.power_usages[1] is repeating.power_usages[0]
    four_epochs_kwh = repeating.energy_usage([1.0] * 4)
    assert four_epochs_kwh[3] == four_epochs_kwh[2]  # a forked child sees this too


def test_unreadable_rapl_is_0_w() -> None:
    def refuse() -> list[float]:
        raise exceptions.IntelRaplPermissionError(["energy_uj"])

    refused = component_of(SimpleNamespace(power_usage=refuse), "cpu")
    refused.collect_power_usage(1)
    assert refused.energy_usage([10.0, 10.0])[-1] == 0
    assert "read-permissions" in refused.logger.critical[0]


def test_components_are_found_by_name(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        found = create_components("all", pids=[], devices_by_pid=False, logger=Log())
    assert [type(component.handler) for component in found] == [nvidia.NvidiaGPU, intel.IntelCPU]


# NVIDIA


@pytest.mark.parametrize("value", ["", "GPU-00000001-aaaa", "MIG-5a5a"])
def test_cuda_visible_devices_is_understood_as_indices_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    with gpu_node(tmp_path, *[Constant(300.0)] * 3):
        handler = nvidia.NvidiaGPU(pids=[], devices_by_pid=False)
        handler.init()
        assert len(handler.devices()) == 3  # every GPU of the node
        handler.shutdown()


def test_gpu_power_is_that_of_the_handles_and_is_never_counted(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0), Constant(200.0)) as node:
        handler = nvidia.NvidiaGPU(pids=[], devices_by_pid=False)
        handler._handles = [node.nvml.gpus[1]]
        assert handler.power_usage() == [200.0]
    assert "TotalEnergy" not in inspect.getsource(nvidia)


# RAPL


@pytest.mark.slow
def test_rapl_is_read_for_a_second_and_a_wrap_is_0_w(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        start_microjoules = WRAP_MICROJOULES - 50_000_000  # wraps after half of 100 J
        node.powercap.add_zone(
            "0", "package-0", Constant(100.0), start_microjoules=start_microjoules
        )
        handler = intel.IntelCPU(pids=[], devices_by_pid=False)
        handler.init()
        moving = threading.Timer(0.2, node.clock.advance, [1.0])
        moving.start()
        start_s = time.monotonic()
        power_w = handler.power_usage()
        elapsed_s = time.monotonic() - start_s
    assert power_w == [0.0]  # 100 W in truth
    assert elapsed_s >= 1.0


def test_rapl_directory_with_dangling_links_is_available_and_then_fails(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_dangling_zone("0")
        handler = intel.IntelCPU(pids=[], devices_by_pid=False)
        assert handler.available()
        with pytest.raises(FileNotFoundError):
            handler.init()


def test_rapl_directory_without_zones_is_available_too(tmp_path: Path) -> None:
    with cpu_node(tmp_path):
        assert intel.IntelCPU(pids=[], devices_by_pid=False).available()


# A CPU without RAPL


def generic_power_w(name: str) -> float:
    """Returns what Carbontracker takes for a CPU, without its 1.2 s of asking for the name."""
    handler = generic.GenericCPU.__new__(generic.GenericCPU)
    handler.cpu_brand = name
    handler.cpu_power_data = handler.load_cpu_power_data()
    handler.average_tdp = handler.calculate_average_tdp()
    handler.init()
    (power_w,) = handler.power_usage()
    return float(power_w)


def test_generic_cpu_is_a_constant_half_of_its_tdp() -> None:
    assert generic_power_w("AMD EPYC 7513") == 100.0  # 200 W / 2
    assert "get_cpu_info" in inspect.getsource(generic.GenericCPU.__init__) + inspect.getsource(
        generic.GenericCPU.get_cpu_brand
    )


def test_generic_cpu_misses_the_kernels_names_and_matches_parts_of_names() -> None:
    average_w = generic_power_w("no such CPU")
    assert generic_power_w("AMD EPYC 7513 32-Core Processor") == average_w
    assert generic_power_w("Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz") == average_w
    assert generic_power_w("AMD EPYC") == 60.0  # half the TDP of an EPYC 7232P, the first of them


# Simulated and Apple components


@pytest.mark.parametrize("handler_class", [SimulatedCPUHandler, SimulatedGPUHandler])
def test_simulated_handler_prints_when_it_is_initialised_only(
    handler_class: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = handler_class("simulated", 200.0, 0.25)
    assert handler.power_usage() == [50.0]  # 200 W × 0.25
    assert capsys.readouterr().out == ""
    handler.init()
    assert "simulated" in capsys.readouterr().out


def test_apple_handlers_read_powermetrics_under_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    unified = powermetrics.PowerMetricsUnified
    text = "CPU Power: 1500 mW\nGPU Power: 2500 mW\nANE Power: 500 mW\n"
    monkeypatch.setattr(unified, "_output", text)
    monkeypatch.setattr(unified, "_last_updated", time.time() + 60)
    cpu = powermetrics.AppleSiliconCPU(pids=[], devices_by_pid=False)
    gpu = powermetrics.AppleSiliconGPU(pids=[], devices_by_pid=False)
    cpu.init()
    gpu.init()
    assert (cpu.power_usage(), gpu.power_usage()) == ([1.5], [3.0])
    assert '"sudo"' in inspect.getsource(unified.get_output)  # asks for a password


# The facade, which we do not use


@pytest.mark.slow
def test_facade_looks_up_a_host_and_prints(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "hosts = []\n"
        "def watch(event, arguments):\n"
        "    if event == 'socket.getaddrinfo':\n"
        "        hosts.append(arguments[0])\n"
        "sys.addaudithook(watch)\n"
        "from carbontracker.tracker import CarbonTracker\n"
        "tracker = CarbonTracker(epochs=1, ignore_errors=True)\n"
        "tracker.intensity_updater.join(8)\n"
        "print('HOSTS', hosts)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True
    )
    *printed, hosts = done.stdout.strip().splitlines()
    assert hosts != "HOSTS []"
    assert any(line.startswith("CarbonTracker:") for line in printed)
