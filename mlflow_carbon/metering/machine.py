"""The devices to measure on a machine, and how to release them."""

import math
import platform
import shutil
import subprocess
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.counter_steps import MAX_PACKAGE_POWER_W
from mlflow_carbon.metering.meter_settings import AUTO, MeterSettings
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
    """The devices found on a machine, and how to release them.

    Attributes:
        unread: one name for each device that should be counted and cannot be read.
        cpu_idle_power_w: the part of an estimated CPU's power that it draws when it does nothing.
        releases: functions that release the devices.
        find_more: functions that look for devices not found yet.
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
        """Returns the method of each component asked for; if devices differ, the weaker method."""
        methods = dict.fromkeys(settings.measured_components, keys.METHOD_UNAVAILABLE)
        for source in self.sources:
            if methods.get(source.component) != keys.METHOD_SAMPLED:
                methods[source.component] = source.method
        return methods

    def attribution(self, settings: MeterSettings) -> str:
        """Returns the attribution on a shared node; ``auto`` is decided by the devices."""
        if settings.attribution != AUTO:
            return settings.attribution
        is_shared = any(source.is_shared for source in self.sources)
        return "process_share" if is_shared else "whole_node"

    def with_source(self, source: EnergySource) -> "Machine":
        """Returns the machine with a device read in another way."""
        sources = [source if old.device == source.device else old for old in self.sources]
        return replace(self, sources=tuple(sources))

    def without(self, devices: Collection[Device]) -> "Machine":
        """Returns the machine without the readings of some devices."""
        sources = [source for source in self.sources if source.device not in devices]
        return replace(self, sources=tuple(sources))

    def looked_at_again(self) -> "Machine":
        """Returns the machine with the devices that have appeared since the last look."""
        machine = self
        for find in self.find_more:
            machine = find(machine)
        return machine


def handler_source(component: str, method: str, handler: Any) -> EnergySource:
    """Returns a source of the total power of one of Carbontracker's handlers."""
    return EnergySource(
        component,
        0,
        method,
        lambda: sum(handler.power_usage()),
        is_power=True,
        max_power_w=math.inf if method == keys.METHOD_SIMULATED else MAX_PACKAGE_POWER_W,
    )


def find_apple(component: str, handler: Any) -> Machine:
    """Returns Apple's power figure, if powermetrics may run without asking for a password."""
    command = ["sudo", "-n", "powermetrics", "--help"]
    if shutil.which("sudo") is None or subprocess.run(command, capture_output=True).returncode:
        return Machine(
            problems=(
                f"Power of the {component} needs powermetrics: "
                "allow `sudo -n powermetrics` for this user.",
            )
        )
    handler.init()
    source = handler_source(component, keys.METHOD_SAMPLED, handler)
    return Machine((source,), (f"{platform.machine()} {component}",))
