"""Whatever breaks while measuring, the user's run goes on, soon and silently."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pynvml
import pytest

from mlflow_carbon.errors import InvalidInputError, MeterError
from mlflow_carbon.metering.meter import Meter, MeterSettings, SystemClock, synchronize_gpu
from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.nvml import no_gpu
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.testing.powercap import FakePowercap
from tests.fakes.ordinary_user import as_nobody

ROOT = Path(__file__).parent.parent
GPU = MeterSettings(components="gpu")
CPU = MeterSettings(components="cpu")


# Devices that are not there, may not be read, or die


def test_no_component_at_all_is_no_reading_and_a_reason(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        meter = node.started_meter(GPU)
        window = meter.open_window()
        node.run(meter, 2.0)
        reading = meter.close_window(window)
        meter.stop()
    assert reading.devices == ()
    assert reading.energy_kwh is None
    assert reading.duration_s == 2.0
    assert meter.description.components == ()
    assert meter.description.problems == (
        "No GPU can be measured: NVML says NVML Shared Library Not Found.",
    )


def test_machine_without_a_gpu_is_no_problem_unless_one_is_asked_for(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter()
        meter.stop()
    assert meter.description.problems == ()
    assert meter.description.method_by_component == {"gpu": "unavailable", "cpu": "counter"}


def test_driver_that_does_not_fit_is_a_problem(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.nvml.init_error = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
        meter = node.started_meter()
        meter.stop()
    assert "version mismatch" in meter.description.problems[0]


def test_unreadable_rapl_falls_back_to_an_estimate_for_an_ordinary_user() -> None:
    with tempfile.TemporaryDirectory() as folder, cpu_node(Path(folder)) as node:
        Path(folder).chmod(0o755)
        zone = node.powercap.add_zone("0", "package-0", Constant(100.0))
        (zone / "energy_uj").chmod(0o400)  # as kernels since 5.10 have it
        methods, source, problems = as_nobody(lambda: described(node))
    assert methods == {"cpu": "tdp"}
    assert source is not None
    assert problems == [
        "RAPL may not be read by this user (1 counters): "
        f"sudo chmod a+r {node.powercap.root}/intel-rapl:0/energy_uj"
    ]


def test_dram_that_may_not_be_read_is_missed_and_said() -> None:
    with tempfile.TemporaryDirectory() as folder, cpu_node(Path(folder)) as node:
        Path(folder).chmod(0o755)
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        zone = node.powercap.add_zone("0:0", "dram", Constant(100.0))
        (zone / "energy_uj").chmod(0o400)
        methods, source, problems = as_nobody(lambda: described(node))
    assert methods == {"cpu": "counter"}
    assert source is None
    assert "intel-rapl:0:0/energy_uj" in problems[0]


def described(node: FakeNode) -> list[object]:
    meter = node.started_meter(CPU)
    meter.stop()
    description = meter.description
    return [description.method_by_component, description.cpu_tdp_source, description.problems]


def test_dangling_powercap_links_leave_the_rest_to_be_measured(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        node.powercap.add_dangling_zone("0")
        meter = node.started_meter()
        node.run(meter, 1.0)
        total = meter.stop()
    assert total.energy_kwh_by_component()["gpu"] == pytest.approx(300.0 / 3.6e6)
    assert meter.description.method_by_component == {"gpu": "counter", "cpu": "tdp"}
    assert "No such file or directory" in meter.description.problems[0]


def test_one_dangling_zone_does_not_hide_another(tmp_path: Path) -> None:
    with cpu_node(tmp_path) as node:
        node.powercap.add_dangling_zone("0")
        node.powercap.add_zone("1", "package-1", Constant(100.0))
        meter = node.started_meter(CPU)
        node.run(meter, 1.0)
        total = meter.stop()
    assert total.energy_kwh == pytest.approx(100.0 / 3.6e6)


def test_nvml_that_dies_leaves_what_was_measured_until_then(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        node.powercap.add_zone("0", "package-0", Constant(100.0))
        meter = node.started_meter()
        node.run(meter, 6.0)
        node.nvml.fails = raise_gpu_is_lost
        after = meter.open_window()
        node.run(meter, 4.0)
        reading = meter.close_window(after)
        total = meter.stop()
    assert total.energy_kwh_by_component() == pytest.approx(
        {"gpu": 1_800.0 / 3.6e6, "cpu": 1_000.0 / 3.6e6}  # 300 W × 6 s; 100 W × 10 s
    )
    assert total.coverage_fraction == pytest.approx(0.8)  # 6 s and 10 s of 10 s
    assert set(reading.energy_kwh_by_component()) == {"cpu"}  # absent, not 0
    assert reading.coverage_fraction == pytest.approx(0.5)
    assert meter.description.problems == (
        "gpu 0 stopped answering: NVMLError_GpuIsLost: GPU is lost.",
    )


def raise_gpu_is_lost() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)


def test_energy_of_a_missed_edge_is_spread_over_the_time_between_readings(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 2.0)
        node.nvml.fails = raise_gpu_is_lost
        node.clock.advance(2.0)
        window = meter.open_window()  # last read 2 s ago
        node.nvml.fails = lambda: None
        node.run(meter, 6.0)
        reading = meter.close_window(window)
        meter.stop()
    assert reading.energy_kwh == pytest.approx(1_800.0 / 3.6e6)  # 300 W × 6 s, not 8 s
    assert reading.coverage_fraction == pytest.approx(1.0)


def test_gpu_counter_that_starts_anew_is_a_gap(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 5.0)
        node.nvml.gpus[0].power = Constant(10.0)  # the counter falls from 1500 J to 60 J
        node.clock.advance(1.0)
        meter.sample()
        node.run(meter, 4.0)
        total = meter.stop()
    assert total.energy_kwh == pytest.approx(1_540.0 / 3.6e6)  # 300 W × 5 s, 10 W × 4 s
    assert total.coverage_fraction == pytest.approx(0.9)


def test_carbontracker_that_cannot_be_imported_is_a_reason() -> None:
    script = (
        "import sys\n"
        "sys.modules['carbontracker.tracker'] = None\n"
        "from mlflow_carbon.metering.meter import Meter\n"
        "meter = Meter()\n"
        "meter.start()\n"
        "print(meter.close_window(meter.open_window()).energy_kwh, meter.stop().energy_kwh)\n"
        "print(meter.description.problems[0][:30])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "None None\nCarbontracker does not start: \n"


# Threads that raise, end or hang


class FailingClock(FakeClock):
    """A clock that breaks the sampling thread."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error
        self.is_broken = False

    def machine_cpu_s(self) -> float:
        if self.is_broken:
            raise self.error
        return super().machine_cpu_s()

    def wait_for(
        self, condition: threading.Condition, predicate: Callable[[], bool], timeout_s: float
    ) -> bool:
        is_due = super().wait_for(condition, predicate, timeout_s)
        if self.is_broken and threading.current_thread() is not threading.main_thread():
            raise self.error
        return is_due


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(70), MemoryError()])
def test_sampling_thread_that_dies_takes_nobody_with_it(
    tmp_path: Path, error: BaseException
) -> None:
    clock = FailingClock(error)
    node = FakeNode(clock, FakePowercap(tmp_path / "powercap", clock), no_gpu(clock))
    node.powercap.add_zone("0", "package-0", Constant(100.0))
    with node:
        meter = node.started_meter(CPU)
        node.run(meter, 3.0)
        clock.is_broken = True
        start_s = time.monotonic()
        for _ in range(100):
            meter.close_window(meter.open_window())
        total = meter.stop()
        elapsed_s = time.monotonic() - start_s
    assert elapsed_s < 1.0
    assert total.energy_kwh == pytest.approx(300.0 / 3.6e6)  # until the thread died
    (problem,) = meter.description.problems
    assert problem.startswith("The sampling thread ended")


def test_device_that_raises_anything_is_left_out(tmp_path: Path) -> None:
    clock = FailingClock(KeyError("odd"))
    node = FakeNode(clock, FakePowercap(tmp_path / "powercap", clock), no_gpu(clock))
    node.nvml.init_error = None
    node.nvml.nvmlDeviceGetCount = lambda: 1 / 0  # type: ignore[method-assign]
    node.powercap.add_zone("0", "package-0", Constant(100.0))
    with node:
        meter = node.started_meter()
        node.run(meter, 1.0)
        total = meter.stop()
    assert total.energy_kwh == pytest.approx(100.0 / 3.6e6)
    assert "ZeroDivisionError" in meter.description.problems[0]
    assert node.nvml.num_inits == 0  # what was opened is closed


@pytest.mark.slow
def test_handler_that_hangs_keeps_the_run_for_2_s_at_most(tmp_path: Path) -> None:
    release = threading.Event()
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 2.0)
        node.clock.patience_s = 1.0
        node.nvml.fails = lambda: release.wait(60) and None
        start_s = time.monotonic()
        window = meter.open_window()
        reading = meter.close_window(window)
        total = meter.stop()
        elapsed_s = time.monotonic() - start_s
        release.set()
    assert elapsed_s < 2.0  # for a window and the end together
    assert reading.energy_kwh is None
    assert total.energy_kwh == pytest.approx(600.0 / 3.6e6)  # 300 W × 2 s, read before it hung
    assert meter.description.problems == ("The devices did not answer within 1 s.",)


@pytest.mark.slow
def test_handler_that_answers_again_is_read_again(tmp_path: Path) -> None:
    release = threading.Event()
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        node.clock.patience_s = 1.0
        node.nvml.fails = lambda: release.wait(60) and None
        window = meter.open_window()  # waits in vain
        node.nvml.fails = lambda: None
        release.set()
        wait_until(lambda: meter.is_answered)
        node.run(meter, 10.0)
        reading = meter.close_window(window)
        meter.stop()
    assert reading.energy_kwh == pytest.approx(3_000.0 / 3.6e6)


def wait_until(is_done: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 5
    while not is_done() and time.monotonic() < end_s:
        time.sleep(0.001)


@pytest.mark.slow
def test_driver_that_hangs_at_the_start_keeps_the_run_for_2_s_at_most(tmp_path: Path) -> None:
    release = threading.Event()
    with gpu_node(tmp_path, Constant(300.0)) as node:
        node.clock.patience_s = 1.0
        node.nvml.fails = lambda: release.wait(60) and None
        start_s = time.monotonic()
        meter = node.started_meter(GPU)
        elapsed_start_s = time.monotonic() - start_s
        total = meter.stop()
        elapsed_s = time.monotonic() - start_s
        release.set()
    assert elapsed_start_s < 2.2
    assert elapsed_s - elapsed_start_s < 2.0
    assert total.energy_kwh is None


# Calls in another order than meant


def test_stop_twice_gives_the_same_reading(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        node.run(meter, 1.0)
        first = meter.stop()
        node.clock.advance(5.0)
        assert meter.stop() is first


def test_window_closed_after_stop_holds_what_was_measured_until_then(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)
        window = meter.open_window()
        node.run(meter, 2.0)
        meter.stop()
        node.clock.advance(2.0)
        reading = meter.close_window(window)
    assert reading.energy_kwh == pytest.approx(600.0 / 3.6e6)
    assert reading.coverage_fraction == pytest.approx(0.5)


def test_meter_never_started_reads_nothing() -> None:
    meter = Meter(CPU)
    assert meter.close_window(meter.open_window()).energy_kwh is None
    assert meter.stop().energy_kwh is None


def test_window_closed_twice_is_an_error_of_the_caller() -> None:
    meter = Meter(CPU)
    window = meter.open_window()
    meter.close_window(window)
    with pytest.raises(MeterError, match="closed already"):
        meter.close_window(window)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"components": "tpu"}, "components is 'tpu'"),
        ({"attribution": "mine"}, "attribution is 'mine'; use one of whole_node"),
        ({"interval_s": 0.0}, "interval_s is 0.0; give a number above zero"),
        ({"cpu_tdp_w": float("nan")}, "cpu_tdp_w is nan"),
        ({"sim_gpu_util_fraction": 1.5}, "sim_gpu_util_fraction is 1.5; give 0 to 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        MeterSettings(**settings)  # type: ignore[arg-type]


# The GPU's queue


class FakeCuda:
    """What the meter asks of torch.cuda; records for which GPUs it waits."""

    def __init__(self, *, is_initialized: bool = True, is_capturing: bool = False) -> None:
        self.is_initialized = lambda: is_initialized
        self.is_current_stream_capturing = lambda: is_capturing
        self.synchronized: list[int] = []

    def device_count(self) -> int:
        return 3

    def memory_reserved(self, index: int) -> int:
        return [512, 0, 1024][index]

    def synchronize(self, index: int) -> None:
        self.synchronized.append(index)


@pytest.mark.parametrize(
    ("cuda", "expected"),
    [
        (FakeCuda(), [0, 2]),  # GPU 1 holds nothing of this process
        (FakeCuda(is_initialized=False), []),
        (FakeCuda(is_capturing=True), []),
    ],
)
def test_gpus_that_this_process_uses_are_waited_for(cuda: FakeCuda, expected: list[int]) -> None:
    synchronize_gpu(SimpleNamespace(cuda=cuda))
    assert cuda.synchronized == expected


def test_gpu_is_waited_for_only_where_torch_is_whole() -> None:
    synchronize_gpu(None)
    synchronize_gpu(SimpleNamespace())  # half imported


def test_system_clock_counts_the_cpu_time_of_this_process_tree() -> None:
    clock = SystemClock()
    before_s = clock.process_tree_cpu_s()
    subprocess.run([sys.executable, "-c", "for _ in range(3_000_000): pass"], check=True)
    assert clock.process_tree_cpu_s() > before_s + 0.02
    assert clock.machine_cpu_s() > 0
