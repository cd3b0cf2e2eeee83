"""Accelerators of any vendor in the machine, whether or not their energy can be read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PCI_DIR = Path("/sys/bus/pci/devices")
DEV_DIR = Path("/dev")

NVIDIA = "NVIDIA"
AMD = "AMD"
INTEL = "Intel"

# Source: https://pci-ids.ucw.cz
VENDORS = {"0x10de": NVIDIA, "0x1002": AMD, "0x8086": INTEL, "0x1da3": INTEL}  # 1da3: Habana

# Display controllers (VGA, 3D, other) and processing accelerators. Source: PCI Code and ID
# Assignment Specification 1.11, section 1.4 and 1.19.
_CLASSES = ("0x0300", "0x0302", "0x0380", "0x1200")

# Graphics inside a CPU's package has no memory of its own but at most this much of the machine's.
_INTEGRATED_BYTES = 3 * 1024**3

# The device file by which a process reaches a driver's GPUs. A container without the file still
# shows the PCI bus.
_DEVICE_OF_DRIVER = {"nvidia": "nvidiactl", "amdgpu": "dri", "i915": "dri", "xe": "dri"}
_OF_A_GUEST = "vfio-pci"  # given to a virtual machine

# Variables that hide a vendor's GPUs from a process; the first that is set counts.
_VISIBLE = {
    AMD: ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
    INTEL: ("ZE_AFFINITY_MASK",),
    NVIDIA: ("CUDA_VISIBLE_DEVICES",),
}


@dataclass(frozen=True)
class Accelerator:
    """A GPU or similar accelerator in the machine."""

    vendor: str
    name: str  # Intel GPU 0000:29:00.0


def find_accelerators(
    pci_dir: Path, environment: Mapping[str, str], torch: Any, *, dev_dir: Path = DEV_DIR
) -> tuple[Accelerator, ...]:
    """Returns the GPUs on the PCI bus and those that torch sees, without graphics of CPUs.

    Args:
        pci_dir: where the kernel shows its PCI devices.
        environment: the process's environment variables, which may hide some.
        torch: the torch module, or ``None`` where it is not loaded.
        dev_dir: where the kernel shows the devices that a process may use.
    """
    found = []
    on_bus = _on_bus(pci_dir, dev_dir)
    for vendor in dict.fromkeys(VENDORS.values()):
        addresses = on_bus.get(vendor, [])
        num_seen = _num_in_torch(torch, vendor)
        names = [f"{vendor} GPU {address}" for address in addresses]
        names += [f"{vendor} GPU {index} of torch" for index in range(len(addresses), num_seen)]
        num_visible = _num_visible(vendor, environment)
        found += [Accelerator(vendor, name) for name in names[:num_visible]]
    return tuple(found)


def _on_bus(pci_dir: Path, dev_dir: Path) -> dict[str, list[str]]:
    addresses: dict[str, list[str]] = {}
    paths = sorted(pci_dir.iterdir()) if pci_dir.is_dir() else []
    for path in paths:
        vendor = VENDORS.get(_text(path / "vendor"))
        is_accelerator = _text(path / "class").startswith(_CLASSES)
        if vendor is None or not is_accelerator or _is_part(path, vendor):
            continue
        if _is_in_reach(path, dev_dir):
            addresses.setdefault(vendor, []).append(path.name)
    return addresses


def _is_part(path: Path, vendor: str) -> bool:
    """Returns whether a device is part of another: of a CPU's package, or of a GPU shared out."""
    if (path / "physfn").exists():  # a virtual function
        return True
    if vendor == INTEL:
        return re.fullmatch(r"(?:[0-9a-f]{4}:)?00:.*", path.name) is not None
    memory_bytes = _text(path / "mem_info_vram_total")
    return vendor == AMD and memory_bytes.isdecimal() and int(memory_bytes) < _INTEGRATED_BYTES


def _is_in_reach(path: Path, dev_dir: Path) -> bool:
    """Returns whether this machine or container may use a device; yes for one without a driver."""
    driver = (path / "driver").resolve().name if (path / "driver").exists() else ""
    needed = _DEVICE_OF_DRIVER.get(driver)
    return driver != _OF_A_GUEST and (needed is None or (dev_dir / needed).exists())


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _num_in_torch(torch: Any, vendor: str) -> int:
    """Returns the number of AMD or Intel GPUs that a loaded torch can use."""
    try:
        if vendor == AMD and getattr(torch.version, "hip", None):
            return int(torch.cuda.device_count())
        if vendor == INTEL and getattr(torch.version, "xpu", None):
            return int(torch.xpu.device_count())
    except Exception:  # half imported, or its driver fails
        return 0
    return 0


def _num_visible(vendor: str, environment: Mapping[str, str]) -> int | None:
    """Returns the number of GPUs that the environment leaves visible; ``None`` for all."""
    values = [environment[name] for name in _VISIBLE[vendor] if name in environment]
    if not values:
        return None
    return len([part for part in values[0].split(",") if part.strip() not in ("", "-1")])
