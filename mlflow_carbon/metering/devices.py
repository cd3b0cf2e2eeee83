"""Which of the node's GPUs this process may use, by CUDA's and Slurm's environment variables."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from mlflow_carbon.metering.launch import find_place
from mlflow_carbon.metering.local_ranks import CUDA_VARIABLE, NO_GPU, LocalRanks

SLURM_VARIABLES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")


@dataclass(frozen=True)
class Gpu:
    """A GPU that this process may use, whole or in part."""

    index: int  # NVML's
    handle: Any
    name: str


@dataclass(frozen=True)
class GpuSelection:
    """The GPUs to measure, and sentences that explain the choice."""

    gpus: tuple[Gpu, ...]
    problems: tuple[str, ...] = ()


def select_gpus(nvml: Any, environment: Mapping[str, str]) -> GpuSelection:
    """Returns the GPUs that CUDA shows to this process.

    Args:
        nvml: the initialised pynvml module.
        environment: the process's environment variables.
    """
    gpus = [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    names = {gpu.name for gpu in gpus}
    cuda_value = environment.get(CUDA_VARIABLE)
    problems = _hidden_gpus(len(gpus), environment)
    if cuda_value is None:
        return GpuSelection(_slurm_gpus(gpus, environment), tuple(problems))
    chosen: list[Gpu] = []
    for identifier in (part.strip() for part in cuda_value.split(",")):
        gpu = _find(nvml, gpus, identifier)
        if gpu is None:  # CUDA ignores this entry and all that follow
            if identifier not in NO_GPU:
                problems.append(f"{CUDA_VARIABLE} names {identifier!r}, which NVML does not know.")
            break
        if identifier.startswith("MIG-"):
            problems.append(
                f"{identifier} is a part of GPU {gpu.index}: the whole GPU's energy is counted."
            )
        if identifier.isdecimal() and len(names) > 1 and not _is_in_pci_order(environment):
            problems.append(
                f"{CUDA_VARIABLE} gives an index and the GPUs differ: "
                "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or GPU 0 may be another one for NVML."
            )
        if gpu not in chosen:
            chosen.append(gpu)
    return GpuSelection(tuple(chosen), tuple(dict.fromkeys(problems)))


def foreign_process_ids(nvml: Any, gpu: Gpu, ranks: LocalRanks) -> set[int]:
    """Returns the compute processes on a GPU that belong to no rank of this node.

    Processes of other containers are left out: their ids mean nothing here.
    """
    try:
        processes = nvml.nvmlDeviceGetComputeRunningProcesses(gpu.handle)
    except nvml.NVMLError:  # this user may not know
        return set()
    foreign_ids = {process.pid for process in processes} - ranks.process_ids()
    return {process_id for process_id in foreign_ids if psutil.pid_exists(process_id)}


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(index, handle, _text(nvml.nvmlDeviceGetName(handle)))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _is_in_pci_order(environment: Mapping[str, str]) -> bool:
    return environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


def _find(nvml: Any, gpus: list[Gpu], identifier: str) -> Gpu | None:
    """Returns the GPU that one entry of CUDA_VISIBLE_DEVICES names; ``None`` if it names none."""
    if identifier.isdecimal():
        index = int(identifier)
        return gpus[index] if index < len(gpus) else None
    old_mig = re.fullmatch(r"MIG-(GPU-[^/]+)/\d+/\d+", identifier)
    if old_mig:
        identifier = old_mig[1]
    if identifier.startswith("MIG-"):
        return next((gpu for gpu in gpus if _has_mig_device(nvml, gpu, identifier)), None)
    if identifier.startswith("GPU-"):  # CUDA takes any beginning that only one GPU has
        matches = [
            gpu for gpu in gpus if _text(nvml.nvmlDeviceGetUUID(gpu.handle)).startswith(identifier)
        ]
        return matches[0] if len(matches) == 1 else None
    return None


def _has_mig_device(nvml: Any, gpu: Gpu, mig_uuid: str) -> bool:
    try:
        num_slots = nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)
    except nvml.NVMLError:  # not a GPU that can be split
        return False
    for slot in range(num_slots):
        try:
            mig_handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, slot)
        except nvml.NVMLError:  # an empty slot
            continue
        if _text(nvml.nvmlDeviceGetUUID(mig_handle)) == mig_uuid:
            return True
    return False


def _slurm_gpus(gpus: list[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Returns the job's GPUs, or all where Slurm names none.

    Slurm names the GPUs by their place on the node. If it also hides the other GPUs from the job,
    NVML counts only the job's own, and all of these are returned.
    """
    for variable in SLURM_VARIABLES:
        indices = _indices(environment.get(variable, ""))
        if not indices or len(gpus) <= len(indices):
            continue
        return tuple(gpu for gpu in gpus if gpu.index in indices) or tuple(gpus)
    return tuple(gpus)


def _hidden_gpus(num_shown: int, environment: Mapping[str, str]) -> list[str]:
    """Returns a sentence if Slurm shows each rank only its own GPU, as one rank measures all."""
    num_given = len(_indices(environment.get("SLURM_STEP_GPUS", "")))
    if num_given <= num_shown or find_place(environment).num_ranks == 1:
        return []
    return [
        f"Slurm gave the ranks of this node {num_given} GPUs and shows {num_shown} to the one that "
        "measures: add --gpu-bind=none, so that it can measure all."
    ]


def _indices(text: str) -> set[int]:
    """Returns the numbers of a Slurm list such as ``0,2-3``; an empty set for other text."""
    indices: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            return set()
        indices.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return indices
