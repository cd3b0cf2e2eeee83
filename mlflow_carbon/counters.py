"""Energy counters of the hardware: RAPL zones in a powercap tree, and NVML's GPU counters."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_carbon import schema
from mlflow_carbon.devices import Gpu
from mlflow_carbon.readings import EnergySource

MICROJOULES_PER_JOULE = 1e6
MILLIJOULES_PER_JOULE = 1e3

# intel-rapl:<package> and intel-rapl:<package>:<part>; AMD's zones have these names too.
# intel-rapl-mmio:* shows the same package a second time.
_ZONE = re.compile(r"intel-rapl:(\d+)(?::(\d+))?")


@dataclass(frozen=True)
class Zone:
    """A RAPL zone that is not part of another one we count."""

    component: str  # cpu (a whole package) or dram
    index: int  # socket
    path: Path


@dataclass(frozen=True)
class FoundSources:
    """Sources of one kind, and one sentence for each thing that cannot be read."""

    sources: tuple[EnergySource, ...] = ()
    problems: tuple[str, ...] = ()


def find_rapl(powercap_dir: Path, *, is_shared: bool) -> FoundSources:
    """Returns the readable package and DRAM counters; none where no package can be read.

    Args:
        powercap_dir: where the kernel shows its powercap zones.
        is_shared: whether only this process tree's share is to be counted.
    """
    zones, problems = find_zones(powercap_dir)
    sources = []
    unreadable = []
    for zone in zones:
        try:
            sources.append(_rapl_source(zone, is_shared=is_shared))
        except PermissionError:
            unreadable.append(zone.path / "energy_uj")
        except (OSError, ValueError) as error:
            problems.append(f"RAPL zone {zone.path} cannot be read: {error}.")
    if unreadable:
        problems.append(
            f"RAPL may not be read by this user ({len(unreadable)} counters): "
            f"sudo chmod a+r {' '.join(str(path) for path in unreadable)}"
        )
    if not any(source.component == "cpu" for source in sources):
        return FoundSources((), tuple(problems))
    return FoundSources(tuple(sources), tuple(problems))


def find_zones(powercap_dir: Path) -> tuple[list[Zone], list[str]]:
    """Returns package and DRAM zones by socket, and a sentence for each broken one.

    Left out are core and uncore, which are parts of the package, and psys, which contains it.
    """
    packages: list[tuple[int, Path]] = []
    drams: list[tuple[int, Path]] = []
    problems = []
    for path in sorted(powercap_dir.iterdir()):
        match = _ZONE.fullmatch(path.name)
        if match is None:
            continue
        try:
            name = (path / "name").read_text().strip()
        except OSError as error:  # a dangling link, as containers have them
            problems.append(f"RAPL zone {path} cannot be read: {error.strerror}.")
            continue
        if name.startswith("package"):
            packages.append((int(match[1]), path))
        elif name == "dram":
            drams.append((int(match[1]), path))
    socket_by_number = {number: socket for socket, (number, _) in enumerate(sorted(packages))}
    zones = [Zone("cpu", socket_by_number[number], path) for number, path in sorted(packages)]
    zones += [
        Zone("dram", socket_by_number[number], path)
        for number, path in sorted(drams)
        if number in socket_by_number
    ]
    return zones, problems


def _rapl_source(zone: Zone, *, is_shared: bool) -> EnergySource:
    """Returns the zone's counter, read once to see that it can be."""
    energy_path = zone.path / "energy_uj"
    wrap_joules = _read_int(zone.path / "max_energy_range_uj") / MICROJOULES_PER_JOULE

    def read_joules() -> float:
        return _read_int(energy_path) / MICROJOULES_PER_JOULE

    read_joules()
    return EnergySource(
        component=zone.component,
        index=zone.index,
        method=schema.METHOD_COUNTER,
        read=read_joules,
        wrap_joules=wrap_joules,
        is_shared=is_shared,
    )


def _read_int(path: Path) -> int:
    return int(path.read_text())


def gpu_source(nvml: Any, gpu: Gpu, *, sampled_power_w: Callable[[], float]) -> EnergySource:
    """Returns a GPU's energy counter, or its power sensor where it has none.

    Args:
        nvml: the initialised pynvml module.
        gpu: the GPU.
        sampled_power_w: reads its power.

    Raises:
        Exception: neither can be read; whatever ``sampled_power_w`` raises.
    """

    def read_joules() -> float:
        millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)
        return float(millijoules) / MILLIJOULES_PER_JOULE

    try:
        read_joules()
    except nvml.NVMLError:  # older than Volta
        sampled_power_w()
        return EnergySource("gpu", gpu.index, schema.METHOD_SAMPLED, sampled_power_w, is_power=True)
    return EnergySource("gpu", gpu.index, schema.METHOD_COUNTER, read_joules)
