"""Whatever happens in a tracked block, the user's run ends as it would, and keeps its figures."""

import threading
import time

import mlflow
import psutil
import pytest

import mlflow_carbon
from mlflow_carbon import MeterSettings
from mlflow_carbon.testing.node import cpu_node, gpu_node
from mlflow_carbon.testing.power import Constant
from tests.fakes.recorded import recorded, windows_of
from tests.fakes.user_scripts import UserFolder, energy_joules

SIMULATED = MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, sim_cpu_util_fraction=1.0)
GPU = MeterSettings(components="gpu")

HEAD = """
import os, signal, sys, threading, time
import mlflow, mlflow_carbon
from mlflow_carbon import MeterSettings
settings = MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, sim_cpu_util_fraction=1.0)
"""
BLOCK = """
with mlflow.start_run(), mlflow_carbon.track(unit="sample", region="SE", settings=settings) as run:
    with run.window(2):
        time.sleep(0.2)
    print("result 42")
"""


@pytest.fixture
def user(tmp_path, empty_store):
    return UserFolder(tmp_path, empty_store)


def run_script(user: UserFolder, script: str, *, exit_code: int = 0):
    """Returns what the script printed to stdout and stderr."""
    done = user.run(HEAD + script, environment={}, exit_code=exit_code)
    return done.stdout, done.stderr


def warnings(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if "WARNING mlflow.carbon" in line]


# Ends

# A program that was started in the background ignores the signal unless told otherwise.
INTERRUPT = """\
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGINT)
"""
ENDS = {
    "exception": ("    raise RuntimeError('mine')", 1, "FAILED", "RuntimeError: mine"),
    "sys.exit": ("    sys.exit(3)", 3, "FAILED", ""),
    "ctrl-c": (INTERRUPT, -2, "FAILED", "KeyboardInterrupt"),
    "end of script": ("", 0, "FINISHED", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize(("end", "exit_code", "status", "error"), ENDS.values(), ids=ENDS)
def test_block_ends_as_the_user_has_it_end(user, end, exit_code, status, error):
    stdout, stderr = run_script(user, BLOCK + end, exit_code=exit_code)
    assert stdout == "result 42\n"
    assert stderr.strip().endswith(error)
    assert warnings(stderr) == []
    run = user.only_run()
    assert run.info.status == status
    assert recorded(run)["energy_kwh_per_sample"] > 0
    # 100 W for 0.2 s and a little
    assert energy_joules(run) > 20.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "script",
    [
        "mlflow.start_run()\n"
        "block = mlflow_carbon.track(region='SE', settings=settings)\n"
        "with block.__enter__().window():\n    time.sleep(0.2)\n"
        "print('result 42')",
        "def work():\n"
        "    with mlflow.start_run(), mlflow_carbon.track(settings=settings) as run:\n"
        "        with run.window():\n            time.sleep(0.2)\n"
        "        print('result 42', flush=True)\n"
        "        is_done.set()\n"
        "        time.sleep(60)\n"
        "is_done = threading.Event()\n"
        "threading.Thread(target=work, daemon=True).start()\n"
        "is_done.wait()",
    ],
    ids=["entered by hand", "daemon thread"],
)
def test_interpreter_ends_with_a_block_open(user, script):
    stdout, _ = run_script(user, script)
    assert stdout == "result 42\n"
    assert energy_joules(user.only_run()) >= 20.0


@pytest.mark.slow
def test_signal_handlers_are_the_users(user):
    script = (
        "before = [signal.getsignal(it) for it in signal.valid_signals()]\n"
        + BLOCK
        + "    assert [signal.getsignal(it) for it in signal.valid_signals()] == before\n"
    )
    run_script(user, script)


# Processes


@pytest.mark.slow
@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_child_processes_add_nothing_and_repeat_nothing(user, way):
    script = f"""
import multiprocessing

def work(run):
    if run is not None:
        with run.window(5):
            pass

def main():
    context = multiprocessing.get_context("{way}")
    track = mlflow_carbon.track(unit="sample", region="SE", settings=settings)
    with mlflow.start_run(), track as run:
        with run.window(2):
            child = context.Process(target=work, args=(run if "{way}" == "fork" else None,))
            child.start()
            child.join()
            assert child.exitcode == 0
        print("result 42")

if __name__ == "__main__":
    main()
"""
    stdout, stderr = run_script(user, script)
    assert stdout == "result 42\n"
    assert warnings(stderr) == []
    run = user.only_run()
    assert (run.data.tags["carbon.num_windows"], run.data.tags["carbon.num_units"]) == ("1", "2")
    assert energy_joules(run) == pytest.approx(100 * recorded(run)["duration_s"], rel=0.01)


@pytest.mark.slow
def test_no_socket_is_opened_for_a_store_on_disk(user):
    forbid = """
def forbid(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        print("opened", event, arguments)
        os._exit(9)
sys.addaudithook(forbid)
"""
    stdout, _ = run_script(user, forbid + BLOCK)
    assert stdout == "result 42\n"


# Runs side by side


def test_units_of_a_users_threads_are_all_kept_and_their_energy_counts_once(store):
    with mlflow.start_run() as run, mlflow_carbon.track(settings=SIMULATED) as tracker:

        def work() -> None:
            with tracker.window():
                time.sleep(0.05)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    data = mlflow.get_run(run.info.run_id).data
    assert data.tags["carbon.num_units"] == "4"
    # the threads work at one time, so what they took together is no more than the whole
    in_windows_kwh = 4 * recorded(data)["energy_kwh_per_iteration"]
    assert in_windows_kwh <= recorded(data)["energy_kwh"]


def test_runs_at_once_are_each_measured(store):
    run_ids: list[str] = []

    def work() -> None:
        with mlflow.start_run() as run, mlflow_carbon.track(settings=SIMULATED) as tracker:
            for _ in tracker.windows(range(2)):
                time.sleep(0.05)
            run_ids.append(run.info.run_id)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(run_ids)) == 2
    for run_id in run_ids:
        metrics = recorded(mlflow.get_run(run_id).data)
        # the whole node's 100 W for each, as long as it went on
        joules = metrics["energy_kwh"] * 3.6e6
        assert joules == pytest.approx(100 * metrics["duration_s"], rel=0.01)


@pytest.mark.slow
def test_hundred_runs_leave_no_thread_and_no_file_open(store):
    def run_once() -> None:
        with mlflow.start_run(), mlflow_carbon.track(settings=SIMULATED) as tracker:
            with tracker.window():
                pass

    for _ in range(3):  # MLflow and SQLAlchemy open theirs
        run_once()
    process = psutil.Process()
    before = threading.active_count(), process.num_fds()
    for _ in range(100):
        run_once()
    assert (threading.active_count(), process.num_fds()) <= before


# Devices that fail


def test_nothing_to_measure_is_one_warning_and_a_reason(store, tmp_path, caplog):
    with cpu_node(tmp_path), mlflow.start_run() as run, mlflow_carbon.track(settings=GPU):
        result = sum(range(10))
    assert result == 45
    data = mlflow.get_run(run.info.run_id).data
    assert "energy_kwh" not in recorded(data)
    assert data.tags["carbon.method.gpu"] == "unavailable"
    assert "No GPU can be measured" in data.tags["carbon.error"]
    warned = [record.name for record in caplog.records if record.levelname == "WARNING"]
    assert warned.count("mlflow.carbon") == 1


def test_driver_that_dies_in_the_run_leaves_what_was_measured(store, tmp_path):
    def die() -> None:
        raise node.nvml.NVMLError(15)  # NVML_ERROR_GPU_IS_LOST

    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(GPU)  # the GPU's energy and the meter's time are of one clock
        with mlflow.start_run() as run, mlflow_carbon.track(meter=meter) as tracker:
            with tracker.window():
                node.clock.advance(10.0)
            node.nvml.fails = die
            with tracker.window():
                node.clock.advance(10.0)
        meter.stop()
    data = mlflow.get_run(run.info.run_id).data
    windows = windows_of(run.info.run_id).values()
    assert [round(window.energy_kwh * 3.6e6) for window in windows] == [3000]  # 300 W for 10 s
    assert "gpu 0 stopped answering" in data.tags["carbon.error"]


@pytest.mark.slow
def test_driver_that_hangs_lets_the_run_end(store, tmp_path):
    is_over = threading.Event()
    with gpu_node(tmp_path, Constant(300.0)) as node:
        with mlflow.start_run() as run, mlflow_carbon.track(settings=GPU):
            node.clock.advance(10.0)
            node.nvml.fails = lambda: is_over.wait(60.0)
            start_s = time.monotonic()
        waited_s = time.monotonic() - start_s
    is_over.set()
    assert waited_s < 20.0  # 2 s on a quiet machine, and not the driver's 60
    data = mlflow.get_run(run.info.run_id).data
    assert "did not answer" in data.tags["carbon.error"]
