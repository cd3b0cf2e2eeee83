"""Users' scripts under the real torchrun: ranks, nodes, one that dies, processes started anew."""

import signal
import subprocess
import sys

import pytest

from tests.fakes.recorded import recorded
from tests.fakes.user_scripts import UserFolder, energy_joules, free_port

pytestmark = pytest.mark.slow

# A CPU of 100 W at half its power: 50 W on each node, whatever the machine does.
SCRIPT = """
import os, signal, time
import mlflow_carbon
half = mlflow_carbon.MeterSettings(components="cpu", sim_cpu_tdp_w=100.0, interval_s=0.2)
with mlflow_carbon.track(unit="epoch", region="SE", pue=1.2, settings=half) as tracker:
    for epoch in tracker.windows(range(3)):
        time.sleep(0.3)
        DURING
"""
GLOO = """
import torch, torch.distributed
torch.distributed.init_process_group("gloo")
total = torch.ones(1)
torch.distributed.all_reduce(total)
assert total == int(os.environ["WORLD_SIZE"])
torch.distributed.destroy_process_group()
"""
POWER_W = 50.0


@pytest.fixture
def user(empty_store, tmp_path):
    return UserFolder(tmp_path, empty_store)


def torchrun(*options):
    return [sys.executable, "-m", "torch.distributed.run", *options, "script.py"]


def run_nodes(user, script, *, num_nodes=2, options=()):
    """Runs a script on nodes of two ranks each, all on this machine; returns their exit codes."""
    (user.path / "script.py").write_text(script)
    address = ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    nodes = ["--nnodes", str(num_nodes), "--nproc-per-node", "2", *address, *options]
    launchers = [
        subprocess.Popen(
            torchrun(*nodes, "--node-rank", str(index)),
            cwd=user.path,
            env=user.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(num_nodes)
    ]
    outputs = [launcher.communicate(timeout=120)[0] for launcher in launchers]
    return [launcher.returncode for launcher in launchers], outputs


def duration_joules(run, prefix=""):
    """Returns what a node of known power used in the time that it was measured."""
    return recorded(run)[f"{prefix}duration_s"] * POWER_W


@pytest.mark.parametrize(("num_ranks", "ends_with"), [(2, GLOO), (4, "")])
def test_ranks_of_one_node_count_once(user, num_ranks, ends_with):
    script = SCRIPT.replace("DURING", "") + ends_with
    (user.path / "script.py").write_text(script)
    user.command(*torchrun("--nproc-per-node", str(num_ranks)), environment={})
    run = user.only_run()
    assert energy_joules(run) == pytest.approx(duration_joules(run), rel=1e-6)
    assert (run.info.status, run.data.tags["carbon.num_windows"]) == ("FINISHED", "3")
    assert recorded(run)["duration_s"] < 3  # 0.9 s of work


def test_two_nodes_are_twice_one_node(user):
    codes, outputs = run_nodes(user, SCRIPT.replace("DURING", ""))
    assert codes == [0, 0], outputs
    run = user.only_run()
    parts_joules = [duration_joules(run, f"node/{index}/") for index in (0, 1)]
    assert energy_joules(run) == pytest.approx(sum(parts_joules), rel=1e-6)
    assert min(parts_joules) >= 0.9 * POWER_W
    assert "carbon.missing_nodes" not in run.data.tags


def test_node_that_is_killed_is_missed(user):
    # torchrun's other launcher would wait for the dead one for minutes: ranks alone, as by Slurm
    kill = 'os.environ["GROUP_RANK"] == "1" and epoch == 1 and os.kill(os.getpid(), signal.SIGKILL)'
    (user.path / "script.py").write_text(SCRIPT.replace("DURING", kill))
    job = {"WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_PORT": "1"}
    leaders = [
        subprocess.Popen(
            [sys.executable, "script.py"],
            cwd=user.path,
            env={**user.environment(), **job, "RANK": index, "GROUP_RANK": index},
        )
        for index in ("0", "1")
    ]
    assert [leader.wait(120) for leader in leaders] == [0, -signal.SIGKILL]
    run = user.only_run()
    assert run.data.tags["carbon.missing_nodes"] == "1"
    assert energy_joules(run) == pytest.approx(duration_joules(run, "node/0/"), rel=1e-6)


def test_processes_that_are_started_anew_measure_on_in_their_run(user):
    # rank 0 ends its first attempt by an error in its last epoch, after two whole windows
    fail = (
        'if epoch == 2 and os.environ["RANK"] + os.environ["TORCHELASTIC_RESTART_COUNT"] == "00":\n'
        "            1 / 0"
    )
    (user.path / "script.py").write_text(SCRIPT.replace("DURING", fail))
    user.command(*torchrun("--nproc-per-node", "2", "--max-restarts", "1"), environment={})
    run = user.only_run()
    assert run.info.status == "FINISHED"
    assert run.data.tags["carbon.num_windows"] in ("5", "6")
    assert recorded(run)["duration_s"] > 1.8  # 0.9 s twice
    assert energy_joules(run) == pytest.approx(duration_joules(run), rel=1e-6)
