"""Looks for every device of this machine, one component after the other."""

from collections.abc import Callable, Mapping
from pathlib import Path

from mlflow_carbon.metering.clock import Clock
from mlflow_carbon.metering.cpus import find_cpu
from mlflow_carbon.metering.gpus import find_gpus
from mlflow_carbon.metering.machine import CarbontrackerParts, Machine
from mlflow_carbon.metering.meter_settings import MeterSettings


def find_machine(
    settings: MeterSettings,
    parts: CarbontrackerParts,
    *,
    clock: Clock,
    environment: Mapping[str, str],
    pci_dir: Path,
) -> Machine:
    """Returns every device to read, with a sentence in ``problems`` for each unreadable one."""
    finders: dict[str, Callable[[], Machine]] = {
        "gpu": lambda: find_gpus(settings, parts, environment, pci_dir),
        "cpu": lambda: find_cpu(settings, parts, clock),
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
