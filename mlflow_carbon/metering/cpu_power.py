"""The power of a CPU that has no counter: its model's TDP, spread over its hardware threads."""

import csv
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.shipped_tables import shipped_rows

# Used where neither name nor family identifies the server: the median of TDP over threads of the
# server CPUs in data/cpu_tdp.csv (a test checks the figure).
GENERIC_WATTS_PER_THREAD = 3.75

GENERIC = "generic"
USER = "user"
UNKNOWN = "unknown"

# Names of virtual machines and large sockets. Other names without a model belong to laptops,
# boards and other machines, which no server's figure fits.
_SERVER_NAMES = re.compile(r"\b(epyc|xeon|opteron)\b", re.IGNORECASE)
_OTHER_NAMES = re.compile(
    r"\b(core|ryzen|athlon|celeron|pentium|atom|apple|neoverse|cortex|arm\w*|aarch64|ampere|"
    r"graviton\d*|kunpeng|snapdragon|raspberry|power\d*|ppc\w*|risc-?v|loongson\S*|"
    r"n\d{2,3}|u\d{3}|fx|a\d{1,2}-\w+|e[12]-\d+|phenom|sempron|turion|gx-\w+|apu|bc-\d+|"
    r"virtualapple|via|zhaoxin|kaixian|genuine intel|eng sample)\b",
    re.IGNORECASE,
)
_DESKTOP_NAMES = re.compile(r"\b(ryzen|core\W*(\(TM\))?\s*(i\d|ultra))\b", re.IGNORECASE)
# Xeons of no server: those of laptops (E-2176M, E3-1505M, W-11955M), and Phi.
_OTHER_XEONS = re.compile(r"\bphi\b|\b(e|e3|w)-\d{4,5}M\w*\b", re.IGNORECASE)


@dataclass(frozen=True)
class Cpu:
    """The CPU as this machine reports it.

    Attributes:
        vendor: as the kernel names it, GenuineIntel or AuthenticAMD; empty on other machines.
        family: of an x86 CPU, as ``model`` and ``stepping``.
        is_x86: whether the kernel describes the CPU as x86.
    """

    name: str
    num_threads: int
    num_sockets: int = 1
    has_smt: bool = True
    is_virtual: bool = False
    vendor: str = ""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    is_x86: bool = True


@dataclass(frozen=True)
class CpuModel:
    """One package of a CPU model, as its vendor sells it."""

    name: str
    tdp_w: float
    num_cores: int | None = None  # None: not known
    num_threads: int | None = None


@dataclass(frozen=True)
class ThreadPower:
    """Power of one hardware thread at its package's TDP, with the source of the figure.

    Attributes:
        watts_per_thread: ``None`` if it is unknown.
        source: ``table: …``, ``family …``, ``generic``, ``user`` or ``unknown``.
    """

    watts_per_thread: float | None
    source: str


def read_cpu(cpuinfo_path: Path = Path("/proc/cpuinfo")) -> Cpu:
    """Returns this machine's CPU; runs no program, except ``sysctl`` on macOS."""
    if cpuinfo_path.exists():
        return parse_cpuinfo(cpuinfo_path.read_text())
    name = _macos_name() if platform.system() == "Darwin" else platform.processor()
    is_x86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
    return Cpu(name, os.cpu_count() or 1, is_x86=is_x86)


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
        # POWER calls it "cpu"; boards name themselves as a whole.
        name=first.get("model name") or first.get("cpu") or first.get("Model") or "",
        num_threads=sum(key == "processor" for key, _ in fields) or 1,
        num_sockets=len(sockets) or 1,
        has_smt=first.get("siblings", "2") != first.get("cpu cores", "1"),
        is_virtual="hypervisor" in first.get("flags", "").split(),
        vendor=first.get("vendor_id", ""),
        family=_number(first.get("cpu family")),
        model=_number(first.get("model")),
        stepping=_number(first.get("stepping")),
        is_x86="CPU implementer" not in first and "cpu" not in first,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def thread_power(
    cpu: Cpu,
    *,
    tdp_w: float | None = None,
    threads: int | None = None,
    tables: Iterable[Mapping[str, CpuModel]],
) -> ThreadPower:
    """Returns the power of one hardware thread: TDP of a package over its threads.

    The model is found by the CPU's name, else by its family and model number. A virtual machine
    that has neither counts as a typical server.

    Args:
        cpu: the machine's CPU.
        tdp_w: TDP of one package; overrides the tables.
        threads: hardware threads of one package; overrides the tables and the machine.
        tables: CPU models by plain name; the first table with the model wins.

    Raises:
        InvalidInputError: ``tdp_w`` is given for a virtual machine, which sees only a part of the
            package's threads, and the number of all of them is not known.
    """
    plain = plain_name(cpu.name)
    model = next((table[plain] for table in tables if plain in table), None)
    num_threads = threads or _threads_per_package(cpu, model)
    if tdp_w is not None:
        if num_threads is None:
            raise InvalidInputError(
                f"cpu_tdp_w is {tdp_w:g} W of a whole package, of which this virtual machine sees "
                f"{cpu.num_threads} threads: give the package's too, cpu_threads="
                f"{_example_threads(cpu)}."
            )
        return ThreadPower(tdp_w / num_threads, USER)
    if model is not None and num_threads is not None:
        source = f"table: {model.name} ({model.tdp_w:g} W)"
        return ThreadPower(model.tdp_w / num_threads, source)
    if not _is_desktop(cpu) and (family := _by_family(cpu)) is not None:
        return family
    return _without_model(cpu)


def _without_model(cpu: Cpu) -> ThreadPower:
    """Returns a typical server's figure for a CPU that may be a server's, else no figure."""
    is_server = _SERVER_NAMES.search(cpu.name) is not None
    if not _is_no_server(cpu) and (is_server or cpu.is_virtual):
        return ThreadPower(GENERIC_WATTS_PER_THREAD, GENERIC)
    return ThreadPower(None, UNKNOWN)


def _is_desktop(cpu: Cpu) -> bool:
    """Returns whether the name is a desktop's, whose family number may be a server's."""
    return _DESKTOP_NAMES.search(cpu.name) is not None and "Processor (" not in cpu.name


def _is_no_server(cpu: Cpu) -> bool:
    """Returns whether a CPU's name, or its kind, is of a machine that no server's figure fits."""
    name = re.sub(r"\((R|TM)\)", " ", cpu.name, flags=re.IGNORECASE)
    if _SERVER_NAMES.search(name) is not None:
        return not cpu.is_x86 or _OTHER_XEONS.search(name) is not None
    is_emulated = "Processor (" in name  # QEMU's names: Intel Core Processor (Haswell, IBRS)
    return not cpu.is_x86 or (_OTHER_NAMES.search(name) is not None and not is_emulated)


def _by_family(cpu: Cpu) -> ThreadPower | None:
    """Returns the power by the CPU's family and model number; ``None`` if not a server's."""
    generation = next((known for known in load_generations() if known.has(cpu)), None)
    if generation is None:
        return None
    model = load_models()[plain_name(generation.represented_by)]
    assert model.num_threads is not None
    source = (
        f"family {cpu.family} model {cpu.model} ({generation.name}): as {model.name} "
        f"({model.tdp_w:g} W, {model.num_threads} threads)"
    )
    return ThreadPower(model.tdp_w / model.num_threads, source)


def _example_threads(cpu: Cpu) -> int:
    generation = next((known for known in load_generations() if known.has(cpu)), None)
    name = "AMD EPYC 9654" if generation is None else generation.represented_by
    return load_models()[plain_name(name)].num_threads or 1


def _threads_per_package(cpu: Cpu, model: CpuModel | None) -> float | None:
    """Returns the number of visible threads in one package; ``None`` if it is unknown."""
    if model is None or model.num_threads is None or model.num_cores is None:
        # A guest sees a part of a package.
        return None if cpu.is_virtual else cpu.num_threads / cpu.num_sockets
    # A guest's threads are hardware threads, whatever its host reports of cores.
    is_smt_off = not cpu.is_virtual and not cpu.has_smt
    return model.num_cores if is_smt_off else model.num_threads


def plain_name(name: str) -> str:
    """Returns a CPU's name without trademark signs, clock rates and words that name no model."""
    plain = name.split("@")[0]
    plain = re.sub(r"\((R|TM)\)", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\b\d+-Cores?\b|\b\d+(st|nd|rd|th) Gen\b", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\bwith Radeon.*$|\bw/ Radeon.*$", " ", plain, flags=re.IGNORECASE)
    plain = re.sub(r"\b(CPU|Processor)\b", " ", plain, flags=re.IGNORECASE)
    return " ".join(plain.split()).casefold()


@dataclass(frozen=True)
class Generation:
    """Server CPUs of one family and model number, and the CPU that stands for them all.

    The figure is that of a CPU with many cores, which clouds buy.
    """

    vendor: str
    family: int
    models: range
    steppings: range | None  # None: any
    name: str
    represented_by: str

    def has(self, cpu: Cpu) -> bool:
        """Returns whether a CPU is of this generation."""
        return (
            (cpu.vendor, cpu.family) == (self.vendor, self.family)
            and cpu.model in self.models
            and (self.steppings is None or cpu.stepping in self.steppings)
        )


@cache
def load_generations() -> tuple[Generation, ...]:
    """Returns the package's own table of server generations."""
    return tuple(
        Generation(
            vendor=row["vendor"],
            family=int(row["family"]),
            models=range(int(row["model"]), int(row["last_model"]) + 1),
            steppings=range(int(row["stepping"]), int(row["last_stepping"]) + 1)
            if row["stepping"]
            else None,
            name=row["generation"],
            represented_by=row["represented_by"],
        )
        for row in shipped_rows("cpu_families.csv")
    )


@cache
def load_models() -> dict[str, CpuModel]:
    """Returns the package's own table of CPU models by plain name."""
    models = {}
    for row in shipped_rows("cpu_tdp.csv"):
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

    Rows that give a range instead of one TDP (written ``33.34.8``) are left out.
    """
    models = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["TDP"].count(".") < 2:
                models[row["Name"].casefold()] = CpuModel(row["Name"], float(row["TDP"]))
    return models
