"""Which GPUs are ours: CUDA's and Slurm's variables, over a fake NVML."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_carbon.metering.devices import GpuSelection, foreign_process_ids, select_gpus
from mlflow_carbon.metering.local_ranks import LocalRanks
from mlflow_carbon.metering.meter import MeterSettings
from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.node import gpu_node
from mlflow_carbon.testing.nvml import FakeGpu, FakeNvml
from mlflow_carbon.testing.power import Constant

UUIDS = ("GPU-11aa0000-x", "GPU-11bb0000-x", "GPU-22cc0000-x", "GPU-33dd0000-x")
MIG_PARTS = ("MIG-5a5a-1", "MIG-5a5a-2")


def four_gpus() -> FakeNvml:
    """Returns NVML with four GPUs, the last of them split into two MIG parts."""
    gpus = [FakeGpu(Constant(100.0), uuid=uuid) for uuid in UUIDS]
    gpus[3].mig_uuids = MIG_PARTS
    return FakeNvml(FakeClock(), gpus)


def indices(selection: GpuSelection) -> list[int]:
    return [gpu.index for gpu in selection.gpus]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", [0]),
        ("2,0", [2, 0]),
        ("3, 1", [3, 1]),
        ("0,0", [0]),  # the same twice
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),  # Slurm's word for a job without GPUs
        ("0,-1,2", [0]),  # CUDA stops at the first that it does not know
        ("1,9,2", [1]),
        ("GPU-22cc0000-x", [2]),
        ("GPU-22cc", [2]),  # a beginning is enough
        ("GPU-11", []),  # of two GPUs it is not
        ("GPU-33dd0000-x,GPU-11aa0000-x", [3, 0]),
        ("GPU-ffff", []),
        ("MIG-5a5a-2", [3]),
        ("MIG-5a5a-1,MIG-5a5a-2", [3]),  # two parts of one GPU
        ("MIG-GPU-11bb0000-x/1/0", [1]),  # how drivers before 470 name a part
        ("MIG-9999", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str, expected: list[int]) -> None:
    selection = select_gpus(four_gpus(), {"CUDA_VISIBLE_DEVICES": value})
    assert indices(selection) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, [0, 1, 2, 3]),
        ({"SLURM_JOB_GPUS": "1,3"}, [1, 3]),
        ({"SLURM_JOB_GPUS": "1-3"}, [1, 2, 3]),
        ({"SLURM_STEP_GPUS": "2", "SLURM_JOB_GPUS": "1,2"}, [2]),
        ({"SLURM_JOB_GPUS": "1,3", "CUDA_VISIBLE_DEVICES": "0"}, [0]),
        ({"SLURM_JOB_GPUS": "4,5,6,7"}, [0, 1, 2, 3]),  # of 8, the others hidden from the job
        ({"SLURM_JOB_GPUS": "gpu:a100"}, [0, 1, 2, 3]),
    ],
)
def test_slurm_variables_choose_gpus(environment: dict[str, str], expected: list[int]) -> None:
    assert indices(select_gpus(four_gpus(), environment)) == expected


def test_slurm_that_hides_other_gpus_leaves_all_that_nvml_shows() -> None:
    nvml = FakeNvml(FakeClock(), [FakeGpu(Constant(100.0)), FakeGpu(Constant(100.0))])
    selection = select_gpus(nvml, {"SLURM_JOB_GPUS": "1,2"})  # their places on the node
    assert indices(selection) == [0, 1]


def test_unknown_identifier_is_named_as_a_problem() -> None:
    selection = select_gpus(four_gpus(), {"CUDA_VISIBLE_DEVICES": "0,GPU-ffff"})
    assert selection.problems == (
        "CUDA_VISIBLE_DEVICES names 'GPU-ffff', which NVML does not know.",
    )


def test_mig_part_says_that_the_whole_gpu_is_counted() -> None:
    selection = select_gpus(four_gpus(), {"CUDA_VISIBLE_DEVICES": "MIG-5a5a-1"})
    assert selection.problems == (
        "MIG-5a5a-1 is a part of GPU 3: the whole GPU's energy is counted.",
    )


def test_index_among_different_gpus_asks_for_the_pci_order() -> None:
    nvml = four_gpus()
    nvml.gpus[1].name = "NVIDIA T4"
    by_index = select_gpus(nvml, {"CUDA_VISIBLE_DEVICES": "1"})
    in_pci_order = select_gpus(
        nvml, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    )
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in by_index.problems[0]
    assert in_pci_order.problems == ()


def test_foreign_processes_are_those_outside_our_tree() -> None:
    nvml = four_gpus()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = 2**22 + 1  # above any process id of Linux: of another container
    nvml.gpus[0].process_ids = (os.getpid(), child.pid, os.getppid(), gone)
    gpu = select_gpus(nvml, {}).gpus[0]
    try:
        assert foreign_process_ids(nvml, gpu, LocalRanks({})) == {os.getppid()}
    finally:
        child.communicate(b"\n")


def test_shared_gpu_is_counted_whole_and_said(tmp_path: Path) -> None:
    with gpu_node(tmp_path, Constant(300.0), Constant(200.0)) as node:
        node.nvml.gpus[0].process_ids = (os.getpid(), os.getppid())
        meter = node.started_meter(MeterSettings(components="gpu"))
        meter.stop()
    assert meter.description.problems == (
        "GPU 0 is shared with 1 other process(es): its whole energy is counted.",
    )


def test_devices_keep_the_index_of_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
    with gpu_node(tmp_path, *[Constant(watts) for watts in (1.0, 20.0, 300.0)]) as node:
        meter = node.started_meter(MeterSettings(components="gpu"))
        node.run(meter, 10.0)
        total = meter.stop()
    joules = {device.index: device.energy_kwh * 3.6e6 for device in total.devices}
    assert joules == pytest.approx({2: 3_000.0, 1: 200.0})  # W × 10 s; GPU 0 is not ours
    assert meter.description.hardware == "2 × NVIDIA A100-SXM4-80GB"


def test_no_visible_gpu_is_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with gpu_node(tmp_path, Constant(300.0)) as node:
        meter = node.started_meter(MeterSettings(components="gpu"))
        node.run(meter, 10.0)
        total = meter.stop()
    assert total.energy_kwh is None
    assert total.coverage_fraction is None
    assert meter.description.method_by_component == {"gpu": "unavailable"}
    assert meter.description.problems == ("No GPU is visible to this process.",)
