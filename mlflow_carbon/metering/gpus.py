"""The GPUs of a machine: NVIDIA's are read, other vendors' are only named."""

import platform
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.accelerators import NVIDIA, find_accelerators
from mlflow_carbon.metering.counters import gpu_source
from mlflow_carbon.metering.devices import Gpu, foreign_process_ids, select_gpus
from mlflow_carbon.metering.local_ranks import LocalRanks
from mlflow_carbon.metering.machine import (
    SIMULATED_NAME,
    CarbontrackerParts,
    Machine,
    find_apple,
    handler_source,
)
from mlflow_carbon.metering.meter_settings import ALL_COMPONENTS, MeterSettings


def find_gpus(
    settings: MeterSettings,
    parts: CarbontrackerParts,
    environment: Mapping[str, str],
    pci_dir: Path,
) -> Machine:
    """Returns the GPUs to read, and the names of the GPUs that cannot be read."""
    if settings.sim_gpu_w is not None:
        handler = parts.simulated_gpu(
            SIMULATED_NAME, settings.sim_gpu_w, settings.sim_gpu_util_fraction
        )
        source = handler_source("gpu", keys.METHOD_SIMULATED, handler)
        return Machine((source,), (f"1 × {SIMULATED_NAME} GPU",))
    if platform.system() == "Darwin":
        return find_apple("gpu", parts.powermetrics.AppleSiliconGPU(pids=[], devices_by_pid=False))
    machine = _with_foreign_gpus(_find_nvidia(settings, parts, environment), environment, pci_dir)
    is_torch_known = _is_torch_loaded()

    def when_torch_is_loaded(machine: Machine) -> Machine:
        nonlocal is_torch_known
        if is_torch_known or not _is_torch_loaded():
            return machine
        is_torch_known = True
        return _with_foreign_gpus(machine, environment, pci_dir)

    return replace(machine, find_more=(*machine.find_more, when_torch_is_loaded))


def _is_torch_loaded() -> bool:
    return hasattr(sys.modules.get("torch"), "compile")  # one of the last names that torch defines


def _with_foreign_gpus(machine: Machine, environment: Mapping[str, str], pci_dir: Path) -> Machine:
    """Returns the machine with the names of its GPUs that cannot be read."""
    is_nvml_there = bool(machine.releases)
    names = [
        gpu.name
        for gpu in find_accelerators(pci_dir, environment, sys.modules.get("torch"))
        if not (gpu.vendor == NVIDIA and is_nvml_there) and gpu.name not in machine.unread
    ]
    if not names:
        return machine
    nvidias = [name for name in names if name.startswith(NVIDIA)]
    others = [name for name in names if name not in nvidias]
    problems = list(machine.problems)
    if nvidias:
        problems.append(f"Not measured: {', '.join(nvidias)}; NVIDIA's driver does not answer.")
    if others:
        problems.append(f"Not measured: {', '.join(others)}; only NVIDIA's GPUs can be read.")
    return replace(machine, unread=(*machine.unread, *names), problems=tuple(problems))


def _find_nvidia(
    settings: MeterSettings, parts: CarbontrackerParts, environment: Mapping[str, str]
) -> Machine:
    nvml = parts.nvidia.pynvml
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        if error.value in absent and settings.components == ALL_COMPONENTS:
            return Machine()  # an ordinary machine without a GPU
        return Machine(problems=(f"No GPU can be measured: NVML says {error}.",))
    try:
        return _nvidia_machine(settings, parts.nvidia, environment)
    except Exception:
        nvml.nvmlShutdown()
        raise


def _nvidia_machine(
    settings: MeterSettings, nvidia: Any, environment: Mapping[str, str]
) -> Machine:
    num_gpus = nvidia.pynvml.nvmlDeviceGetCount()
    machine = _visible_gpus(nvidia, environment)
    if not machine.sources and not machine.unread and settings.components != ALL_COMPONENTS:
        machine = replace(
            machine, problems=(*machine.problems, "No GPU is visible to this process.")
        )

    def find_more(machine: Machine) -> Machine:
        nonlocal num_gpus
        num_now = nvidia.pynvml.nvmlDeviceGetCount()
        if num_now == num_gpus:
            return machine
        num_gpus = num_now
        return _with_later_gpus(machine, _visible_gpus(nvidia, environment))

    return replace(machine, releases=(nvidia.pynvml.nvmlShutdown,), find_more=(find_more,))


def _visible_gpus(nvidia: Any, environment: Mapping[str, str]) -> Machine:
    """Returns the GPUs that this process and the other ranks of its node may use."""
    nvml = nvidia.pynvml
    ranks = LocalRanks(environment)
    selection = select_gpus(nvml, ranks.merged(environment))
    problems = list(selection.problems)
    sources = []
    unread = []
    for gpu in selection.gpus:
        try:
            source = gpu_source(nvml, gpu, sampled_power_w=_nvidia_power_w(nvidia, gpu))
        except Exception as error:  # NVML's kinds and Carbontracker's
            problems.append(f"GPU {gpu.index} ({gpu.name}) shows no energy or power: {error!r}.")
            unread.append(f"{NVIDIA} GPU {gpu.index}")
            continue
        sources.append(source)
        if num_others := len(foreign_process_ids(nvml, gpu, ranks)):
            problems.append(
                f"GPU {gpu.index} is shared with {num_others} other process(es): "
                "its whole energy is counted."
            )
    counts = Counter(gpu.name for gpu in selection.gpus)
    return Machine(
        sources=tuple(sources),
        hardware=tuple(f"{count} × {name}" for name, count in counts.items()),
        problems=tuple(problems),
        unread=tuple(unread),
    )


def _with_later_gpus(machine: Machine, now: Machine) -> Machine:
    """Returns a machine with the GPUs that have appeared since the first look."""
    sources = [source for source in now.sources if source.device not in machine.known]
    unread = [name for name in now.unread if name not in machine.unread]
    problems = [
        f"GPU {source.index} appeared later: its energy before that is not known."
        for source in sources
    ]
    problems += [problem for problem in now.problems if problem not in machine.problems]
    return replace(
        machine,
        sources=(*machine.sources, *sources),
        hardware=tuple(dict.fromkeys((*now.hardware, *_other_hardware(machine, now)))),
        problems=(*machine.problems, *problems),
        unread=(*machine.unread, *unread),
    )


def _other_hardware(machine: Machine, now: Machine) -> list[str]:
    """Returns a machine's hardware without the GPU models, which are listed anew."""
    models = {name.partition(" × ")[2] for name in now.hardware}
    return [name for name in machine.hardware if name.partition(" × ")[2] not in models]


def _nvidia_power_w(nvidia: Any, gpu: Gpu) -> Callable[[], float]:
    """Returns a function that reads one GPU's power by Carbontracker's handler."""
    handler = nvidia.NvidiaGPU(pids=[], devices_by_pid=False)
    handler._handles = [gpu.handle]  # the handler itself selects by index only
    return lambda: float(handler.power_usage()[0])
