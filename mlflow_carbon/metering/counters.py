"""Energy counters of the hardware: RAPL zones in a powercap tree, and NVML's GPU counters."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.devices import Gpu
from mlflow_carbon.metering.readings import EnergySource

MICROJOULES_PER_JOULE = 1e6
MILLIJOULES_PER_JOULE = 1e3

# intel-rapl:<package> and intel-rapl:<package>:<part>; AMD's zones have these names too.
# intel-rapl-mmio:* shows the same package a second time.
_ZONE = re.compile(r"intel-rapl:(\d+)(?::(\d+))?")


# Two counters of one package that agree to this are the same counter, read moments apart.
# Source: https://github.com/mlco2/codecarbon/issues/1274
SAME_COUNTER_JOULES = 1.0


@dataclass(frozen=True)
class Zone:
    """A RAPL zone that is not part of another one we count."""

    component: str  # cpu (a whole package) or dram
    index: int  # socket
    name: str  # package-0, package-0-die-1, dram
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
    sources: list[EnergySource] = []
    refused: list[Path] = []
    seen: list[tuple[Zone, float]] = []
    for zone in zones:
        source = _rapl_source(zone, is_shared=is_shared)
        try:
            joules = source.read()
        except PermissionError:
            refused.append(zone.path / "energy_uj")
            continue
        except (OSError, ValueError) as error:
            problems.append(f"RAPL zone {zone.path} cannot be read: {error}.")
            continue
        if any(_is_mirror(zone, joules, *other) for other in seen):
            problems.append(f"RAPL zone {zone.path} is another die's counter again: left out.")
            continue
        seen.append((zone, joules))
        sources.append(source)
    if refused:
        problems.append(
            f"RAPL may not be read by this user ({len(refused)} counters): "
            f"sudo chmod a+r {' '.join(str(path) for path in refused)}"
        )
    if not any(source.component == "cpu" for source in sources):
        sources = []  # DRAM alone; the CPU is estimated instead
    return FoundSources(tuple(sources), tuple(problems))


def _is_mirror(zone: Zone, joules: float, other_zone: Zone, other_joules: float) -> bool:
    """Returns whether two dies of one package show one counter."""
    packages = {zone.name.split("-die-")[0], other_zone.name.split("-die-")[0]}
    is_one_package = len(packages) == 1 and _is_package(zone.name)
    return is_one_package and joules > 0 and abs(joules - other_joules) < SAME_COUNTER_JOULES


def find_zones(powercap_dir: Path) -> tuple[list[Zone], list[str]]:
    """Returns package and DRAM zones by socket, and a sentence for each broken one.

    Left out are core and uncore, which are parts of the package, and psys, which contains it.
    """
    names: dict[tuple[int, int], tuple[str, Path]] = {}  # by number of the package and the part
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
        names[int(match[1]), int(match[2] or -1)] = name, path
    packages = [number for (number, _), (name, _) in sorted(names.items()) if _is_package(name)]
    zones = [
        Zone("cpu" if _is_package(name) else "dram", packages.index(number), name, path)
        for (number, _), (name, path) in sorted(names.items())
        if number in packages and (_is_package(name) or name == "dram")
    ]
    return zones, problems


def _is_package(name: str) -> bool:
    return name.startswith("package")


def _rapl_source(zone: Zone, *, is_shared: bool) -> EnergySource:
    energy_path = zone.path / "energy_uj"
    try:
        wrap_joules = _read_joules(zone.path / "max_energy_range_uj")
    except (OSError, ValueError):  # then a counter that falls back is a gap
        wrap_joules = None
    return EnergySource(
        component=zone.component,
        index=zone.index,
        method=keys.METHOD_COUNTER,
        read=lambda: _read_joules(energy_path),
        wrap_joules=wrap_joules,
        is_shared=is_shared,
    )


def _read_joules(path: Path) -> float:
    return int(path.read_text()) / MICROJOULES_PER_JOULE


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
        return EnergySource("gpu", gpu.index, keys.METHOD_SAMPLED, sampled_power_w, is_power=True)
    return EnergySource("gpu", gpu.index, keys.METHOD_COUNTER, read_joules)
