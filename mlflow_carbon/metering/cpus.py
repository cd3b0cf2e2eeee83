"""The CPUs and the memory of a machine: by their counters, else by load and TDP."""

import platform
from dataclasses import replace
from pathlib import Path

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.counters import find_rapl
from mlflow_carbon.metering.cpu_power import (
    Cpu,
    ThreadPower,
    load_carbontracker_models,
    load_models,
    read_cpu,
    thread_power,
)
from mlflow_carbon.metering.estimated_cpu import EstimatedCpu
from mlflow_carbon.metering.machine import (
    SIMULATED_NAME,
    CarbontrackerParts,
    Machine,
    find_apple,
    handler_source,
)
from mlflow_carbon.metering.meter_settings import AUTO, MeterSettings
from mlflow_carbon.metering.readings import EnergySource


def find_cpu(settings: MeterSettings, parts: CarbontrackerParts, clock: Clock) -> Machine:
    """Returns the CPUs and memory to read, or the CPU estimated by its load."""
    if settings.sim_cpu_tdp_w is not None:
        handler = parts.simulated_cpu(
            SIMULATED_NAME, settings.sim_cpu_tdp_w, settings.sim_cpu_util_fraction
        )
        source = handler_source("cpu", keys.METHOD_SIMULATED, handler)
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
        # The estimate covers all packages.
        found = replace(found, unread=tuple(name for name in found.unread if "cpu" not in name))
    if platform.system() == "Darwin":
        handler = parts.powermetrics.AppleSiliconCPU(pids=[], devices_by_pid=False)
        found_apple = find_apple("cpu", handler)
        if found_apple.sources:
            return found_apple
        found = replace(found, problems=found_apple.problems)
    return _with_estimated_cpu(found, settings, parts, clock, cpu=cpu)


def _with_estimated_cpu(
    found: Machine, settings: MeterSettings, parts: CarbontrackerParts, clock: Clock, *, cpu: Cpu
) -> Machine:
    """Returns the machine with its CPU estimated by load, or without if the power is unknown."""
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
        is_shared=settings.attribution in ("process_share", AUTO),
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
    """Returns the power of a thread, and a sentence if the user's figures cannot be used."""
    tables = (load_models(), load_carbontracker_models(parts.cpu_table))
    try:
        power = thread_power(
            cpu, tdp_w=settings.cpu_tdp_w, threads=settings.cpu_threads, tables=tables
        )
    except InvalidInputError as error:
        return thread_power(cpu, tables=tables), (str(error),)
    return power, ()
