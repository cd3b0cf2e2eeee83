"""GPUs of any vendor that the machine shows: named, and counted as missing."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mlflow_carbon.metering.accelerators import find_accelerators
from mlflow_carbon.metering.examination import examine
from mlflow_carbon.metering.meter import Meter, MeterSettings
from mlflow_carbon.recording.figures import description_tags
from tests.fakes.node import FakeNode, cpu_node, gpu_node
from tests.fakes.power import Constant

AMD, INTEL, NVIDIA = "0x1002", "0x8086", "0x10de"
VGA, DISPLAY_3D, DISPLAY, ACCELERATOR = "0x030000", "0x030200", "0x038000", "0x120000"


def put(pci_dir: Path, address: str, vendor: str, kind: str, **files: str) -> None:
    """Puts a device on a PCI bus, as the kernel shows it."""
    folder = pci_dir / address
    folder.mkdir(parents=True)
    for name, text in {"vendor": vendor, "class": kind, **files}.items():
        (folder / name).write_text(f"{text}\n")


def names(pci_dir: Path, torch: object = None, **environment: str) -> list[str]:
    return [found.name for found in find_accelerators(pci_dir, environment, torch)]


@pytest.mark.parametrize(
    ("vendor", "kind", "name"),
    [
        (AMD, DISPLAY, "AMD GPU 0000:c1:00.0"),  # MI250
        (AMD, ACCELERATOR, "AMD GPU 0000:c1:00.0"),  # MI300
        (AMD, VGA, "AMD GPU 0000:c1:00.0"),
        (INTEL, DISPLAY, "Intel GPU 0000:c1:00.0"),  # Data Center GPU Max
        (NVIDIA, DISPLAY_3D, "NVIDIA GPU 0000:c1:00.0"),
    ],
)
def test_gpu_on_the_bus_is_found(tmp_path: Path, vendor: str, kind: str, name: str) -> None:
    put(tmp_path, "0000:c1:00.0", vendor, kind)
    assert names(tmp_path) == [name]


def test_what_is_no_gpu_of_its_own_is_not(tmp_path: Path) -> None:
    put(tmp_path, "0000:00:02.0", INTEL, VGA)  # in the CPU's package
    put(tmp_path, "0000:04:00.0", AMD, VGA, mem_info_vram_total=str(512 * 1024**2))  # so is this
    put(tmp_path, "0000:05:00.0", "0x1a03", VGA)  # a server's own display
    put(tmp_path, "0000:06:00.0", INTEL, "0x020000")  # a network card
    put(tmp_path, "0000:07:00.1", AMD, DISPLAY, physfn="")  # a part of another
    assert names(tmp_path) == []
    assert names(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("driver", "device", "is_ours"),
    [
        ("amdgpu", "dri", True),
        ("amdgpu", "null", False),  # a container that was not given the GPUs
        ("nvidia", "nvidiactl", True),
        ("nvidia", "null", False),
        ("nouveau", "null", True),  # a machine without NVIDIA's driver
        ("vfio-pci", "dri", False),  # a guest's
    ],
)
def test_gpu_is_expected_where_this_machine_can_reach_it(
    tmp_path: Path, driver: str, device: str, is_ours: bool
) -> None:
    put(tmp_path / "pci", "0000:c1:00.0", AMD, DISPLAY)
    (tmp_path / "drivers" / driver).mkdir(parents=True)
    (tmp_path / "pci" / "0000:c1:00.0" / "driver").symlink_to(tmp_path / "drivers" / driver)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / device).touch()
    found = find_accelerators(tmp_path / "pci", {}, None, dev_dir=tmp_path / "dev")
    assert bool(found) == is_ours


def test_gpus_that_the_environment_hides_are_not_expected(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path, f"0000:c{number}:00.0", AMD, DISPLAY)
    assert len(names(tmp_path, ROCR_VISIBLE_DEVICES="1,3")) == 2
    assert names(tmp_path, HIP_VISIBLE_DEVICES="") == []


def test_gpus_that_only_torch_sees_are_found(tmp_path: Path) -> None:
    torch = SimpleNamespace(
        version=SimpleNamespace(hip="6.2"), cuda=SimpleNamespace(device_count=lambda: 2)
    )
    assert names(tmp_path, torch) == ["AMD GPU 0 of torch", "AMD GPU 1 of torch"]
    assert names(tmp_path, SimpleNamespace()) == []  # half imported


def look(node: FakeNode, settings: MeterSettings):
    meter = Meter(settings, clock=node.clock, pci_dir=node.pci_dir)
    with node:
        return examine(meter, duration_s=10.0, sleep=lambda s: node.run(meter, s))


def test_gpu_of_another_vendor_is_named_and_lowers_the_coverage(tmp_path: Path) -> None:
    node = gpu_node(tmp_path, Constant(300.0))
    put(node.pci_dir, "0000:c1:00.0", AMD, DISPLAY)
    found = look(node, MeterSettings(components="gpu"))
    assert found.reading.coverage_fraction == pytest.approx(0.5)
    assert found.verdict == "partly measured"
    assert description_tags(found.description)["carbon.unread_devices"] == "AMD GPU 0000:c1:00.0"


def test_nvidias_driver_is_advised_for_nvidias_gpus_only(tmp_path: Path) -> None:
    node = cpu_node(tmp_path / "amd")
    put(node.pci_dir, "0000:c1:00.0", AMD, DISPLAY)
    (sentence,) = [it for it in look(node, MeterSettings()).missed if it.startswith("GPU")]
    assert "AMD GPU 0000:c1:00.0" in sentence
    assert "driver" not in sentence
    node = cpu_node(tmp_path / "nvidia")
    put(node.pci_dir, "0000:c1:00.0", NVIDIA, DISPLAY_3D)
    (sentence,) = [it for it in look(node, MeterSettings()).missed if it.startswith("GPU")]
    assert "install NVIDIA's driver" in sentence


def test_nvidias_gpus_that_nvml_hides_are_not_ours(tmp_path: Path) -> None:
    node = gpu_node(tmp_path, Constant(300.0))  # a container shows the bus of the whole node
    for number in range(8):
        put(node.pci_dir, f"0000:c{number}:00.0", NVIDIA, DISPLAY_3D)
    found = look(node, MeterSettings(components="gpu"))
    assert found.reading.coverage_fraction == pytest.approx(1.0)
    assert found.description.unread == ()
