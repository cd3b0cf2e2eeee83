"""The power of a CPU that has no counter: its model's TDP, spread over its hardware threads."""

import csv
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

# Used where the CPU's name says no model, as on most cloud machines: the median of TDP over
# threads of the server CPUs in data/cpu_tdp.csv (a test holds it).
GENERIC_WATTS_PER_THREAD = 3.75

GENERIC = "generic"
USER = "user"


@dataclass(frozen=True)
class Cpu:
    """The CPU as this machine sees it."""

    name: str
    num_threads: int
    num_sockets: int = 1
    has_smt: bool = True
    is_virtual: bool = False


@dataclass(frozen=True)
class CpuModel:
    """One package of a CPU model, as its vendor sells it."""

    name: str
    tdp_w: float
    num_cores: int | None = None  # None: not known
    num_threads: int | None = None


@dataclass(frozen=True)
class ThreadPower:
    """Power of one busy hardware thread, and where the figure comes from."""

    watts_per_thread: float
    source: str


def read_cpu(cpuinfo_path: Path = Path("/proc/cpuinfo")) -> Cpu:
    """Returns this machine's CPU without running any program, but for ``sysctl`` on macOS."""
    if cpuinfo_path.exists():
        return parse_cpuinfo(cpuinfo_path.read_text())
    name = _macos_name() if platform.system() == "Darwin" else platform.processor()
    return Cpu(name, os.cpu_count() or 1)


def _macos_name() -> str:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()


def parse_cpuinfo(text: str) -> Cpu:
    """Returns the CPU that the text of Linux's /proc/cpuinfo describes."""
    fields: list[tuple[str, str]] = []
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.append((key.strip(), value.strip()))
    first: dict[str, str] = dict(reversed(fields))
    sockets = {value for key, value in fields if key == "physical id"}
    return Cpu(
        name=first.get("model name", ""),
        num_threads=sum(key == "processor" for key, _ in fields) or 1,
        num_sockets=len(sockets) or 1,
        has_smt=first.get("siblings", "2") != first.get("cpu cores", "1"),
        is_virtual="hypervisor" in first.get("flags", "").split(),
    )


def thread_power(
    cpu: Cpu, *, tdp_w: float | None = None, tables: Iterable[Mapping[str, CpuModel]]
) -> ThreadPower:
    """Returns the power of one busy hardware thread: TDP of a package over its threads.

    Busy threads × this power = TDP × utilisation × visible threads over physical threads.

    Args:
        cpu: the machine's CPU.
        tdp_w: TDP of one package, overrides the tables.
        tables: CPU models by plain name, the first that has the model wins.
    """
    plain = plain_name(cpu.name)
    model = next((table[plain] for table in tables if plain in table), None)
    if tdp_w is not None:
        return ThreadPower(tdp_w / _threads_per_package(cpu, model), USER)
    # A guest sees a part of a package: without its size, the TDP says nothing about the part.
    if model is None or (cpu.is_virtual and model.num_threads is None):
        return ThreadPower(GENERIC_WATTS_PER_THREAD, GENERIC)
    source = f"table: {model.name} ({model.tdp_w:g} W)"
    return ThreadPower(model.tdp_w / _threads_per_package(cpu, model), source)


def _threads_per_package(cpu: Cpu, model: CpuModel | None) -> float:
    """Returns how many of the threads that the machine sees make a package."""
    if model is None or model.num_threads is None or model.num_cores is None:
        return cpu.num_threads / cpu.num_sockets
    # A guest's threads are threads, whatever its host tells it of cores.
    is_smt_off = not cpu.is_virtual and not cpu.has_smt
    return model.num_cores if is_smt_off else model.num_threads


def plain_name(name: str) -> str:
    """Returns a CPU's name without marks, clock rates and words that name no model."""
    plain = name.split("@")[0]
    plain = re.sub(r"\((R|TM)\)", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\b\d+-Core\b|\b\d+(st|nd|rd|th) Gen\b", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\bwith Radeon.*$|\bw/ Radeon.*$", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\b(CPU|Processor)\b", " ", plain, flags=re.IGNORECASE)
    return " ".join(plain.split()).casefold()


@cache
def load_models() -> dict[str, CpuModel]:
    """Returns the package's own table of CPU models by plain name."""
    text = (files("mlflow_carbon") / "data" / "cpu_tdp.csv").read_text(encoding="utf-8")
    models = {}
    for row in csv.DictReader(text.splitlines()):
        models[plain_name(row["name"])] = CpuModel(
            name=row["name"],
            tdp_w=float(row["tdp_w"]),
            num_cores=int(row["num_cores"]) if row["num_cores"] else None,
            num_threads=int(row["num_threads"]) if row["num_threads"] else None,
        )
    return models


@cache
def load_carbontracker_models(path: Path) -> dict[str, CpuModel]:
    """Returns Carbontracker's table of CPU models by plain name; it knows no thread counts.

    Its rows whose TDP is no single number (a range written ``33.34.8``) are left out.
    """
    models = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["TDP"].count(".") < 2:
                models[row["Name"].casefold()] = CpuModel(row["Name"], float(row["TDP"]))
    return models
