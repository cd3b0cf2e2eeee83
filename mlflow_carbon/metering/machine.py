"""What there is to measure on this machine: its GPUs and CPUs, each with its best source."""

import platform
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.counters import find_rapl, gpu_source
from mlflow_carbon.metering.cpu_power import (
    Cpu,
    load_carbontracker_models,
    load_models,
    read_cpu,
    thread_power,
)
from mlflow_carbon.metering.devices import Gpu, foreign_process_ids, select_gpus
from mlflow_carbon.metering.local_ranks import LocalRanks
from mlflow_carbon.metering.meter_settings import ALL_COMPONENTS, MeterSettings
from mlflow_carbon.metering.readings import EnergySource

SIMULATED_NAME = "simulated"


@dataclass(frozen=True)
class CarbontrackerParts:
    """The pieces of Carbontracker that know the hardware; ``meter.py`` imports them."""

    nvidia: Any  # the module, and its pynvml
    intel: Any  # the module, and its RAPL_DIR
    powermetrics: Any  # the module of Apple's handlers
    simulated_cpu: Callable[[str, float, float], Any]
    simulated_gpu: Callable[[str, float, float], Any]
    cpu_table: Path


@dataclass(frozen=True)
class Machine:
    """What was found to measure, and how to let go of it."""

    sources: tuple[EnergySource, ...] = ()
    hardware: tuple[str, ...] = ()
    cpu_tdp_source: str | None = None
    problems: tuple[str, ...] = ()
    releases: tuple[Callable[[], None], ...] = field(default=(), repr=False)

    def method_by_component(self, settings: MeterSettings) -> dict[str, str]:
        """Returns the method of each component asked for; the weaker one where devices differ."""
        methods = dict.fromkeys(settings.measured_components, keys.METHOD_UNAVAILABLE)
        for source in self.sources:
            if methods.get(source.component) != keys.METHOD_SAMPLED:
                methods[source.component] = source.method
        return methods


def find_machine(
    settings: MeterSettings,
    parts: CarbontrackerParts,
    *,
    clock: Clock,
    environment: Mapping[str, str],
) -> Machine:
    """Returns every device to read. What cannot be read ends in ``problems``."""
    finders: dict[str, Callable[[], Machine]] = {
        "gpu": lambda: _find_gpus(settings, parts, environment),
        "cpu": lambda: _find_cpu(settings, parts, clock),
    }
    found = [_attempt(name, finders[name]) for name in settings.measured_components]
    return Machine(
        sources=tuple(source for machine in found for source in machine.sources),
        hardware=tuple(name for machine in found for name in machine.hardware),
        cpu_tdp_source=next((m.cpu_tdp_source for m in found if m.cpu_tdp_source), None),
        problems=tuple(problem for machine in found for problem in machine.problems),
        releases=tuple(release for machine in found for release in machine.releases),
    )


def _attempt(component: str, find: Callable[[], Machine]) -> Machine:
    try:
        return find()
    except Exception as error:  # a driver may raise anything; the other components are read
        return Machine(problems=(f"No {component} can be measured: {error!r}.",))


def _handler_source(component: str, method: str, handler: Any) -> EnergySource:
    """Returns a source that asks one of Carbontracker's handlers for its power, all in one."""
    return EnergySource(component, 0, method, lambda: sum(handler.power_usage()), is_power=True)


# GPUs


def _find_gpus(
    settings: MeterSettings, parts: CarbontrackerParts, environment: Mapping[str, str]
) -> Machine:
    if settings.sim_gpu_w is not None:
        handler = parts.simulated_gpu(
            SIMULATED_NAME, settings.sim_gpu_w, settings.sim_gpu_util_fraction
        )
        source = _handler_source("gpu", keys.METHOD_SIMULATED, handler)
        return Machine((source,), (f"1 × {SIMULATED_NAME} GPU",))
    if platform.system() == "Darwin":
        return _find_apple("gpu", parts.powermetrics.AppleSiliconGPU(pids=[], devices_by_pid=False))
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
    nvml = nvidia.pynvml
    ranks = LocalRanks(environment)
    selection = select_gpus(nvml, ranks.merged(environment))
    problems = list(selection.problems)
    sources = []
    for gpu in selection.gpus:
        try:
            source = gpu_source(nvml, gpu, sampled_power_w=_nvidia_power_w(nvidia, gpu))
        except Exception as error:  # NVML's kinds and Carbontracker's
            problems.append(f"GPU {gpu.index} ({gpu.name}) shows no energy or power: {error!r}.")
            continue
        sources.append(source)
        if num_others := len(foreign_process_ids(nvml, gpu, ranks)):
            problems.append(
                f"GPU {gpu.index} is shared with {num_others} other process(es): "
                "its whole energy is counted."
            )
    if not selection.gpus and settings.components != ALL_COMPONENTS:
        problems.append("No GPU is visible to this process.")
    counts = Counter(gpu.name for gpu in selection.gpus)
    return Machine(
        sources=tuple(sources),
        hardware=tuple(f"{count} × {name}" for name, count in counts.items()),
        problems=tuple(problems),
        releases=(nvml.nvmlShutdown,),
    )


def _nvidia_power_w(nvidia: Any, gpu: Gpu) -> Callable[[], float]:
    """Returns a reading of one GPU's power by a handler of Carbontracker's own."""
    handler = nvidia.NvidiaGPU(pids=[], devices_by_pid=False)
    handler._handles = [gpu.handle]  # its own choice of GPUs knows indices only
    return lambda: float(handler.power_usage()[0])


# CPUs


def _find_cpu(settings: MeterSettings, parts: CarbontrackerParts, clock: Clock) -> Machine:
    if settings.sim_cpu_tdp_w is not None:
        handler = parts.simulated_cpu(
            SIMULATED_NAME, settings.sim_cpu_tdp_w, settings.sim_cpu_util_fraction
        )
        source = _handler_source("cpu", keys.METHOD_SIMULATED, handler)
        return Machine((source,), (f"1 × {SIMULATED_NAME} CPU",))
    cpu = read_cpu()
    hardware = (f"{cpu.num_sockets} × {cpu.name or 'unnamed CPU'} ({cpu.num_threads} threads)",)
    is_shared = settings.attribution == "process_share"
    problems: tuple[str, ...] = ()
    if parts.intel.IntelCPU(pids=[], devices_by_pid=False).available():
        found = find_rapl(Path(parts.intel.RAPL_DIR), is_shared=is_shared)
        if found.sources:
            return Machine(found.sources, hardware, problems=found.problems)
        problems = found.problems
    if platform.system() == "Darwin":
        handler = parts.powermetrics.AppleSiliconCPU(pids=[], devices_by_pid=False)
        found_apple = _find_apple("cpu", handler)
        if found_apple.sources:
            return found_apple
        problems = found_apple.problems
    return _estimated_cpu(settings, parts, clock, cpu=cpu, hardware=hardware, problems=problems)


def _estimated_cpu(
    settings: MeterSettings,
    parts: CarbontrackerParts,
    clock: Clock,
    *,
    cpu: Cpu,
    hardware: tuple[str, ...],
    problems: tuple[str, ...],
) -> Machine:
    """Returns the CPU as a counter of busy threads' time, each at its share of the TDP."""
    tables = (load_models(), load_carbontracker_models(parts.cpu_table))
    power = thread_power(cpu, tdp_w=settings.cpu_tdp_w, tables=tables)
    is_shared = settings.attribution == "process_share"
    cpu_s = clock.process_tree_cpu_s if is_shared else clock.machine_cpu_s
    source = EnergySource("cpu", 0, keys.METHOD_TDP, lambda: power.watts_per_thread * cpu_s())
    return Machine((source,), hardware, cpu_tdp_source=power.source, problems=problems)


def _find_apple(component: str, handler: Any) -> Machine:
    """Returns Apple's figure, if powermetrics may run without asking for a password."""
    command = ["sudo", "-n", "powermetrics", "--help"]
    if shutil.which("sudo") is None or subprocess.run(command, capture_output=True).returncode:
        return Machine(
            problems=(
                f"Power of the {component} needs powermetrics: "
                "allow `sudo -n powermetrics` for this user.",
            )
        )
    handler.init()
    source = _handler_source(component, keys.METHOD_SAMPLED, handler)
    return Machine((source,), (f"{platform.machine()} {component}",))
