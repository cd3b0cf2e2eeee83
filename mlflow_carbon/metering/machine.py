"""What there is to measure on this machine: its GPUs and CPUs, each with its best source."""

import platform
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.accelerators import NVIDIA, find_accelerators
from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.counters import find_rapl, gpu_source
from mlflow_carbon.metering.cpu_power import (
    Cpu,
    ThreadPower,
    load_carbontracker_models,
    load_models,
    read_cpu,
    thread_power,
)
from mlflow_carbon.metering.devices import Gpu, foreign_process_ids, select_gpus
from mlflow_carbon.metering.estimated_cpu import EstimatedCpu
from mlflow_carbon.metering.local_ranks import LocalRanks
from mlflow_carbon.metering.meter_settings import ALL_COMPONENTS, MeterSettings
from mlflow_carbon.metering.readings import Device, EnergySource

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
    """What was found to measure, and how to let go of it.

    Attributes:
        unread: one name for each device that should be counted and cannot be read.
        cpu_idle_power_w: the part of an estimated CPU's power that it draws when it does nothing.
        releases: what lets go of the devices.
        find_more: what finds devices that this machine does not have yet.
    """

    sources: tuple[EnergySource, ...] = ()
    hardware: tuple[str, ...] = ()
    cpu_tdp_source: str | None = None
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    cpu_idle_power_w: float | None = None
    releases: tuple[Callable[[], None], ...] = field(default=(), repr=False)
    find_more: tuple[Callable[["Machine"], "Machine"], ...] = field(default=(), repr=False)

    @property
    def known(self) -> set[Device]:
        """The devices that are read."""
        return {source.device for source in self.sources}

    def method_by_component(self, settings: MeterSettings) -> dict[str, str]:
        """Returns the method of each component asked for; the weaker one where devices differ."""
        methods = dict.fromkeys(settings.measured_components, keys.METHOD_UNAVAILABLE)
        for source in self.sources:
            if methods.get(source.component) != keys.METHOD_SAMPLED:
                methods[source.component] = source.method
        return methods

    def with_source(self, source: EnergySource) -> "Machine":
        """Returns the machine with a device read in another way."""
        sources = [source if old.device == source.device else old for old in self.sources]
        return replace(self, sources=tuple(sources))

    def looked_at_again(self) -> "Machine":
        """Returns the machine with the devices that have appeared since."""
        machine = self
        for find in self.find_more:
            machine = find(machine)
        return machine


def find_machine(
    settings: MeterSettings,
    parts: CarbontrackerParts,
    *,
    clock: Clock,
    environment: Mapping[str, str],
    pci_dir: Path,
) -> Machine:
    """Returns every device to read. What cannot be read ends in ``problems``."""
    finders: dict[str, Callable[[], Machine]] = {
        "gpu": lambda: _find_gpus(settings, parts, environment, pci_dir),
        "cpu": lambda: _find_cpu(settings, parts, clock),
    }
    found = [_attempt(name, finders[name]) for name in settings.measured_components]
    return Machine(
        sources=tuple(source for machine in found for source in machine.sources),
        hardware=tuple(name for machine in found for name in machine.hardware),
        cpu_tdp_source=next((m.cpu_tdp_source for m in found if m.cpu_tdp_source), None),
        problems=tuple(problem for machine in found for problem in machine.problems),
        unread=tuple(name for machine in found for name in machine.unread),
        cpu_idle_power_w=next((m.cpu_idle_power_w for m in found if m.cpu_idle_power_w), None),
        releases=tuple(release for machine in found for release in machine.releases),
        find_more=tuple(find for machine in found for find in machine.find_more),
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
    settings: MeterSettings,
    parts: CarbontrackerParts,
    environment: Mapping[str, str],
    pci_dir: Path,
) -> Machine:
    if settings.sim_gpu_w is not None:
        handler = parts.simulated_gpu(
            SIMULATED_NAME, settings.sim_gpu_w, settings.sim_gpu_util_fraction
        )
        source = _handler_source("gpu", keys.METHOD_SIMULATED, handler)
        return Machine((source,), (f"1 × {SIMULATED_NAME} GPU",))
    if platform.system() == "Darwin":
        return _find_apple("gpu", parts.powermetrics.AppleSiliconGPU(pids=[], devices_by_pid=False))
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
    return hasattr(sys.modules.get("torch"), "compile")  # one of the last names that it defines


def _with_foreign_gpus(machine: Machine, environment: Mapping[str, str], pci_dir: Path) -> Machine:
    """Returns the machine with the GPUs that are there and that nothing reads."""
    is_nvml_there = bool(machine.releases)
    names = [
        gpu.name
        for gpu in find_accelerators(pci_dir, environment, sys.modules.get("torch"))
        if not (gpu.vendor == NVIDIA and is_nvml_there) and gpu.name not in machine.unread
    ]
    if not names:
        return machine
    reason = "only NVIDIA's GPUs can be read"
    if all(name.startswith(NVIDIA) for name in names):
        reason = "NVIDIA's driver does not answer"
    problem = f"Not measured: {', '.join(names)}; {reason}."
    return replace(machine, unread=(*machine.unread, *names), problems=(*machine.problems, problem))


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
    """Returns a machine with the GPUs that were not there when it was first looked at."""
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
    """Returns the hardware of a machine that is none of the GPUs that are there now."""
    models = {name.partition(" × ")[2] for name in now.hardware}
    return [name for name in machine.hardware if name.partition(" × ")[2] not in models]


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
    found = Machine(hardware=hardware)
    if parts.intel.IntelCPU(pids=[], devices_by_pid=False).available():
        rapl = find_rapl(Path(parts.intel.RAPL_DIR), is_shared=is_shared)
        found = Machine(rapl.sources, hardware, problems=rapl.problems, unread=rapl.unread)
        if any(source.component == "cpu" for source in rapl.sources):
            return found
        # The estimate stands for all packages.
        found = replace(found, unread=tuple(name for name in found.unread if "cpu" not in name))
    if platform.system() == "Darwin":
        handler = parts.powermetrics.AppleSiliconCPU(pids=[], devices_by_pid=False)
        found_apple = _find_apple("cpu", handler)
        if found_apple.sources:
            return found_apple
        found = replace(found, problems=found_apple.problems)
    return _with_estimated_cpu(found, settings, parts, clock, cpu=cpu)


def _with_estimated_cpu(
    found: Machine, settings: MeterSettings, parts: CarbontrackerParts, clock: Clock, *, cpu: Cpu
) -> Machine:
    """Returns what was found and the CPU by its load; without it where its power is unknown."""
    power, problems = _thread_power(settings, parts, cpu)
    found = replace(found, problems=(*found.problems, *problems), cpu_tdp_source=power.source)
    if power.watts_per_thread is None:
        problem = (
            f"The power of the CPU {cpu.name or 'without a name'} is unknown: look up its TDP and "
            "threads and give both, cpu_tdp_w= and cpu_threads= of MeterSettings."
        )
        return replace(found, problems=(*found.problems, problem), unread=(*found.unread, "cpu 0"))
    estimate = EstimatedCpu(
        power.watts_per_thread * cpu.num_threads, num_threads=cpu.num_threads, clock=clock
    )
    source = EnergySource(
        "cpu",
        0,
        keys.METHOD_TDP,
        estimate.read_joules,
        is_shared=settings.attribution == "process_share",
        max_power_w=float("inf"),
    )
    return replace(
        found,
        sources=(source, *found.sources),
        cpu_idle_power_w=estimate.idle_power_w,
    )


def _thread_power(
    settings: MeterSettings, parts: CarbontrackerParts, cpu: Cpu
) -> tuple[ThreadPower, tuple[str, ...]]:
    """Returns the power of a thread, and a sentence if what the user gave cannot be used."""
    tables = (load_models(), load_carbontracker_models(parts.cpu_table))
    try:
        power = thread_power(
            cpu, tdp_w=settings.cpu_tdp_w, threads=settings.cpu_threads, tables=tables
        )
    except InvalidInputError as error:
        return thread_power(cpu, tables=tables), (str(error),)
    return power, ()


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
