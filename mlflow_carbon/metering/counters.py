"""Energy counters of the hardware: RAPL zones in a powercap tree, and NVML's GPU counters."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.counter_steps import (
    LIMIT_FACTOR,
    MAX_GPU_POWER_W,
    MAX_PACKAGE_POWER_W,
)
from mlflow_carbon.metering.devices import Gpu
from mlflow_carbon.metering.readings import EnergySource

MICROJOULES_PER_JOULE = 1e6
MILLIJOULES_PER_JOULE = 1e3
MICROWATTS_PER_WATT = 1e6
MILLIWATTS_PER_WATT = 1e3

# intel-rapl:<package> and intel-rapl:<package>:<part>; AMD's zones have these names too.
# intel-rapl-mmio:<package> shows the same package by another register.
_ZONE = re.compile(r"intel-rapl(-mmio)?:(\d+)(?::(\d+))?")

# Two counters of one package that agree to this are the same counter, read moments apart.
# Source: https://github.com/mlco2/codecarbon/issues/1274
SAME_COUNTER_JOULES = 1.0

# A limit below this, such as 0, is none: the smallest packages with a counter take a few watts.
MIN_LIMIT_W = 1.0

_LIMIT_FILE = re.compile(r"constraint_\d+_(power_limit|max_power)_uw")


@dataclass(frozen=True)
class Zone:
    """A RAPL zone that is not part of another counted zone."""

    component: str  # cpu (a whole package) or dram
    index: int  # socket
    name: str  # package-0, package-0-die-1, dram
    path: Path
    package_name: str  # the zone's package, or the zone itself if it is one


@dataclass(frozen=True)
class FoundSources:
    """Sources of one kind, a sentence for each problem, and the devices that cannot be read."""

    sources: tuple[EnergySource, ...] = ()
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def find_rapl(powercap_dir: Path, *, is_shared: bool) -> FoundSources:
    """Returns the readable package and DRAM counters.

    Args:
        powercap_dir: where the kernel shows its powercap zones.
        is_shared: whether only this process tree's share is to be counted.
    """
    zones, problems = find_zones(powercap_dir)
    sources: list[EnergySource] = []
    refused: list[Path] = []
    unread: list[str] = []
    seen: list[tuple[Zone, float]] = []
    for zone in zones:
        source = _rapl_source(zone, is_shared=is_shared)
        try:
            joules = source.read()
        except PermissionError:
            refused.append(zone.path / "energy_uj")
            unread.append(f"{zone.component} {zone.index}")
            continue
        except (OSError, ValueError, OverflowError) as error:
            problems.append(f"RAPL zone {zone.path} cannot be read: {error}.")
            unread.append(f"{zone.component} {zone.index}")
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
    return FoundSources(tuple(sources), tuple(problems), tuple(unread))


def _is_mirror(zone: Zone, joules: float, other_zone: Zone, other_joules: float) -> bool:
    """Returns whether two zones of one package show the same counter."""
    is_one_package = (
        zone.component == other_zone.component
        and zone.path.name.split(":")[1] != other_zone.path.name.split(":")[1]
        and "-die-" in zone.package_name
        and zone.package_name.split("-die-")[0] == other_zone.package_name.split("-die-")[0]
    )
    return is_one_package and joules > 0 and abs(joules - other_joules) < SAME_COUNTER_JOULES


def find_zones(powercap_dir: Path) -> tuple[list[Zone], list[str]]:
    """Returns package and DRAM zones by socket, and a sentence for each unusable zone.

    Core and uncore, which are parts of the package, and psys, which contains it, are left out.
    """
    names, problems = _zone_names(powercap_dir)
    by_msr = {place[1:]: found for place, found in names.items() if not place[0]}
    by_mmio = {place[1:]: found for place, found in names.items() if place[0]}
    zones = _counted_zones(by_msr)
    has_package = any(zone.component == "cpu" for zone in zones)
    if not has_package and (packages := _counted_zones(by_mmio)):
        zones += [zone for zone in packages if zone.component == "cpu"]
        has_package = bool(packages)
    if names and not has_package:
        shown = ", ".join(f"{path.name} ({name})" for name, path in names.values())
        problems.append(f"RAPL shows no package, only {shown}: that is not the CPU's energy.")
    return zones, problems


# A zone's place: whether it is read by MMIO, the package's number and the part's.
_Names = dict[tuple[bool, int, int], tuple[str, Path]]


def _zone_names(powercap_dir: Path) -> tuple[_Names, list[str]]:
    """Returns each zone's name and folder, and a sentence for each broken one."""
    names: _Names = {}
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
        names[match[1] is not None, int(match[2]), int(match[3] or -1)] = name, path
    return names, problems


def _counted_zones(names: Mapping[tuple[int, int], tuple[str, Path]]) -> list[Zone]:
    """Returns the packages and their DRAM, numbered through by socket."""
    package_names = {
        number: name for (number, _), (name, _) in sorted(names.items()) if _is_package(name)
    }
    numbers = list(package_names)
    return [
        Zone(
            "cpu" if _is_package(name) else "dram",
            numbers.index(number),
            name,
            path,
            package_names[number],
        )
        for (number, _), (name, path) in sorted(names.items())
        if number in numbers and (_is_package(name) or name == "dram")
    ]


def _is_package(name: str) -> bool:
    return name.startswith("package")


def _rapl_source(zone: Zone, *, is_shared: bool) -> EnergySource:
    energy_path = zone.path / "energy_uj"
    return EnergySource(
        component=zone.component,
        index=zone.index,
        method=keys.METHOD_COUNTER,
        read=lambda: _read_joules(energy_path),
        wrap_joules=_range_joules(zone.path),
        is_shared=is_shared,
        max_power_w=_package_limit_w(zone.path) if zone.component == "cpu" else MAX_PACKAGE_POWER_W,
    )


def _range_joules(path: Path) -> float | None:
    """Returns the value at which a zone's counter starts again; ``None`` if it tells none.

    Then a counter that falls back is a gap. A range of 0, or one that the counter has passed
    already, tells none.
    """
    try:
        range_joules = _read_joules(path / "max_energy_range_uj")
        return range_joules if range_joules > _read_joules(path / "energy_uj") else None
    except (OSError, ValueError, OverflowError):
        return None


def _package_limit_w(path: Path) -> float:
    """Returns a power that a package never exceeds, by its own limits where it tells them."""
    limits_w = [0.0]
    for file in path.iterdir():
        if _LIMIT_FILE.fullmatch(file.name):
            try:
                limits_w.append(int(file.read_text()) / MICROWATTS_PER_WATT)
            except (OSError, ValueError, OverflowError):  # not told
                continue
    return _bound_w(max(limits_w), MAX_PACKAGE_POWER_W)


def _bound_w(limit_w: float, highest_w: float) -> float:
    """Returns a power that a device never exceeds: by its own limit, if that is one."""
    return min(LIMIT_FACTOR * limit_w, highest_w) if limit_w >= MIN_LIMIT_W else highest_w


def _read_joules(path: Path) -> float:
    return int(path.read_text()) / MICROJOULES_PER_JOULE


def gpu_source(nvml: Any, gpu: Gpu, *, sampled_power_w: Callable[[], float]) -> EnergySource:
    """Returns a GPU's energy counter, or its power sensor where it has none.

    Args:
        nvml: the initialised pynvml module.
        gpu: the GPU.
        sampled_power_w: reads its power.

    Raises:
        Exception: neither can be read; any that ``sampled_power_w`` raises.
    """

    def read_joules() -> float:
        millijoules = nvml.nvmlDeviceGetTotalEnergyConsumption(gpu.handle)
        return float(millijoules) / MILLIJOULES_PER_JOULE

    max_power_w = _gpu_limit_w(nvml, gpu)
    try:
        read_joules()
    except nvml.NVMLError:  # older than Volta
        sampled_power_w()
        return EnergySource(
            "gpu",
            gpu.index,
            keys.METHOD_SAMPLED,
            sampled_power_w,
            is_power=True,
            max_power_w=max_power_w,
            draws_always=True,
        )
    return EnergySource(
        "gpu",
        gpu.index,
        keys.METHOD_COUNTER,
        read_joules,
        max_power_w=max_power_w,
        read_power_w=sampled_power_w,
        draws_always=True,
    )


def _gpu_limit_w(nvml: Any, gpu: Gpu) -> float:
    """Returns a power that a GPU never exceeds, by its own limit where it tells one."""
    try:
        _, limit_milliwatts = nvml.nvmlDeviceGetPowerManagementLimitConstraints(gpu.handle)
        limit_w = float(limit_milliwatts) / MILLIWATTS_PER_WATT
    except Exception:  # a fake, an old driver or a GPU without a limit: any may be missing
        return MAX_GPU_POWER_W
    return _bound_w(limit_w, MAX_GPU_POWER_W)
