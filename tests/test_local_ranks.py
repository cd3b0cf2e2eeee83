"""The leader of a node counts the CPU time and the GPUs of all its ranks, each once."""

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import psutil
import pytest

from mlflow_carbon.metering.devices import select_gpus
from mlflow_carbon.metering.local_ranks import (
    LocalRanks,
    _child_ids_on_linux,
    _children,
    merged_gpus,
)
from tests.test_meter_devices import four_gpus

LAUNCH = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "TORCHELASTIC_RUN_ID": f"test-{os.getpid()}",
}
# Works for 0.3 s of CPU time in a child of its own, says so, and waits.
WORK = """
import subprocess, sys
work = "import time\\nwhile time.process_time() < 0.3: pass"
subprocess.run([sys.executable, "-c", work])
print("done", flush=True)
input()
"""
# Says what the other ranks have used, while they are there and once they have ended.
LEADER = """
import os
from mlflow_carbon.metering.local_ranks import LocalRanks
ranks, alone = LocalRanks(os.environ), LocalRanks({})
for _ in range(2):
    print(ranks.cpu_s() - alone.cpu_s(), flush=True)
    input()
"""


def started(environment, script=WORK):
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_cpu_time_of_all_ranks_of_the_node_counts_once_and_stays():
    with ExitStack() as stack:
        sibling = stack.enter_context(started({**LAUNCH, "RANK": "1", "LOCAL_RANK": "1"}))
        other_node = stack.enter_context(started({**LAUNCH, "RANK": "2", "GROUP_RANK": "1"}))
        assert (sibling.stdout.readline(), other_node.stdout.readline()) == ("done\n", "done\n")
        leader = stack.enter_context(started(LAUNCH, LEADER))
        while_alive_s = float(leader.stdout.readline())
        sibling.communicate("\n")
        other_node.communicate("\n")
        after_s = float(leader.communicate("\n\n")[0])
    # 0.3 s of work, less the grain of a sum of clocks, and the start of two interpreters;
    # twice, or with the other node, above 0.6 s
    assert 0.29 < while_alive_s < 0.6
    assert after_s == pytest.approx(while_alive_s, abs=0.1)


@pytest.mark.parametrize(
    ("values", "merged"),
    [
        (["0,1", "0,1"], "0,1"),  # torchrun: the same for all
        (["0", "1", "2"], "0,1,2"),  # Slurm: each its own
        (["0", None], None),  # one may use all
        (["0,-1,3", ""], "0"),  # CUDA stops at -1; the other rank has none
        (["", ""], ""),
        (["GPU-a", "GPU-b"], "GPU-a,GPU-b"),
    ],
)
def test_gpus_of_the_ranks_are_merged(values, merged):
    assert merged_gpus(values) == merged


def test_gpus_of_a_sibling_are_measured_and_its_processes_are_no_strangers():
    own = {**LAUNCH, "CUDA_VISIBLE_DEVICES": "2"}
    with started({**own, "RANK": "1", "LOCAL_RANK": "1"}, "input()") as sibling:
        script = (
            "import os\n"
            "from mlflow_carbon.metering.local_ranks import LocalRanks\n"
            "os.environ['CUDA_VISIBLE_DEVICES'] = '7'\n"  # narrowed later: not the launcher's
            "print(LocalRanks(os.environ).merged(os.environ)['CUDA_VISIBLE_DEVICES'])\n"
            f"print({sibling.pid} in LocalRanks(os.environ).process_ids())\n"
        )
        with started({**own, "CUDA_VISIBLE_DEVICES": "1"}, script) as leader:
            shown, is_ours = leader.communicate()[0].split()
        sibling.communicate("\n")
    assert (set(shown.split(",")), is_ours) == ({"1", "2"}, "True")


def test_process_on_its_own_keeps_its_environment():
    environment = {"CUDA_VISIBLE_DEVICES": "3", "HOME": "/"}
    assert LocalRanks(environment).merged(environment) == environment


def test_gpus_that_slurm_hides_from_the_leader_are_told():
    slurm = {
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NTASKS": "8",
        "SLURM_STEP_GPUS": "0-7",
    }
    (problem,) = select_gpus(four_gpus(), {**slurm, "CUDA_VISIBLE_DEVICES": "0"}).problems
    assert "8 GPUs and shows 4" in problem
    assert select_gpus(four_gpus(), {**slurm, "SLURM_NTASKS": "1"}).problems == ()


def test_children_are_those_that_psutil_finds_among_all_processes():
    script = "sleep 60 & sleep 60; true"  # two grandchildren
    started = []
    ended = threading.Event()

    def start_in_a_thread():
        started.append(subprocess.Popen(["sleep", "60"]))
        ended.wait()  # children belong to the thread that started them, while it lives

    thread = threading.Thread(target=start_in_a_thread)
    thread.start()
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
        this = psutil.Process()
        while len(psutil.Process(shell.pid).children()) < 2 or not started:
            time.sleep(0.01)
        ours = {process.pid for process in _children(this)}
        theirs = {process.pid for process in this.children(recursive=True)}
        for process in _children(psutil.Process(shell.pid)):
            process.kill()
        shell.kill()
    ended.set()
    thread.join()
    started[0].kill()
    started[0].wait()
    assert ours == theirs
    assert len(ours) >= 4


def test_kernel_lists_no_children_of_a_process_that_has_ended():
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert _child_ids_on_linux(process.pid) is None
