"""One look at a machine: what can be measured, how well, and what no figure will hold."""

import json
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from mlflow_carbon.cli import cli
from mlflow_carbon.contract.measurement import Reading
from mlflow_carbon.metering.cpu_power import read_cpu
from mlflow_carbon.metering.examination import examine, missed_parts
from mlflow_carbon.metering.meter import Meter, MeterDescription, MeterSettings
from mlflow_carbon.testing.node import FakeNode, cpu_node, gpu_node
from mlflow_carbon.testing.power import Constant
from mlflow_carbon.testing.powercap import two_sockets
from mlflow_carbon.units import watts_from_kwh
from tests.fakes.ordinary_user import as_nobody


def look(node: FakeNode, settings: MeterSettings, duration_s: float = 10.0):
    """Examines the machine; its clock moves on while the meter measures."""
    meter = Meter(settings, clock=node.clock)
    with node:
        return examine(meter, duration_s=duration_s, sleep=lambda s: node.run(meter, s))


def test_examination_of_counters_says_measured(tmp_path):
    node = gpu_node(tmp_path, Constant(300.0))
    node.powercap = two_sockets(tmp_path / "tree", node.clock, Constant(100.0), Constant(10.0))
    examination = look(node, MeterSettings())
    assert examination.verdict == "measured"
    assert examination.missed == ("Disks, network, fans and power supplies: never measured.",)


def test_examination_of_a_counted_gpu_and_an_estimated_cpu_says_partly(tmp_path):
    examination = look(gpu_node(tmp_path, Constant(300.0)), MeterSettings())
    assert examination.verdict == "partly measured"
    assert any(sentence.startswith("CPU: no energy counter") for sentence in examination.missed)


def test_examination_measures_the_power_of_each_device(tmp_path):
    node = gpu_node(tmp_path, Constant(100.0), Constant(250.0))
    reading = look(node, MeterSettings(components="gpu")).reading
    powers_w = [watts_from_kwh(it.energy_kwh, reading.duration_s) for it in reading.devices]
    assert powers_w == pytest.approx([100.0, 250.0])


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        (MeterSettings(components="cpu"), "estimated"),
        (MeterSettings(sim_cpu_tdp_w=100.0), "simulated"),
        (MeterSettings(components="gpu"), "not measurable"),
    ],
)
def test_examination_names_what_is_no_measurement(tmp_path, settings, verdict):
    assert look(cpu_node(tmp_path), settings).verdict == verdict


def test_missed_parts_ask_for_the_tdp_only_where_it_is_a_typical_one():
    def sentences(tdp_source: str) -> str:
        return " ".join(
            missed_parts(
                MeterDescription(("cpu",), {"cpu": "tdp"}, tdp_source, "whole_node", "", "", ()),
                Reading(0.0, 1.0),
            )
        )

    assert "--cpu-tdp-w" in sentences("generic")
    assert "--cpu-tdp-w" not in sentences("table: AMD EPYC 7513 (200 W)")


def doctor(node: FakeNode, *arguments: str):
    with node:
        return CliRunner().invoke(cli, ["doctor", *arguments])


def test_doctor_exits_with_one_where_nothing_can_be_measured(tmp_path):
    result = doctor(cpu_node(tmp_path), "--components", "gpu")
    assert result.exit_code == 1
    assert "Energy on this machine: not measurable" in result.stdout
    assert "No GPU can be measured: NVML says NVML Shared Library Not Found." in result.stdout


def test_doctor_prints_the_command_that_lets_rapl_be_read():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        node = cpu_node(Path(folder))
        counter = node.powercap.add_zone("0", "package-0", Constant(50.0)) / "energy_uj"
        counter.chmod(0o400)  # as kernels since 5.10 have it
        (printed,) = as_nobody(lambda: [doctor(node, "--components", "cpu").stdout])
    assert f"sudo chmod a+r {counter}" in " ".join(str(printed).split())


def test_doctor_fits_a_screen(tmp_path):
    lines = doctor(cpu_node(tmp_path)).stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


@pytest.mark.slow
def test_doctor_prints_watts_only_when_it_probes(tmp_path):
    assert "power (W)" not in doctor(gpu_node(tmp_path / "a", Constant(300.0))).stdout
    probed = doctor(gpu_node(tmp_path / "b", Constant(300.0)), "--probe", "1").stdout
    assert "power (W)" in probed


def test_doctor_json_holds_devices_and_where_the_price_is_from(tmp_path):
    node = gpu_node(tmp_path, Constant(300.0))
    found = json.loads(
        doctor(node, "--format", "json", "--region", "Sweden", "--pue", "1.2").stdout
    )
    assert found["devices"] == [
        {"component": "gpu", "index": 0, "method": "counter"},
        {"component": "cpu", "index": 0, "method": "tdp"},
    ]
    assert (found["region"], found["pue"], found["defaulted"]) == ("SE", 1.2, ["intensity_set"])
    assert found["intensity_source"].startswith("Ember")


def test_doctor_refuses_a_component_that_is_none():
    result = CliRunner().invoke(cli, ["doctor", "--components", "tpu"])
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: components is 'tpu': 'tpu' is unknown; use all, gpu, cpu or gpu,cpu.\n"
    )


def test_doctor_asks_for_the_threads_of_a_package_whose_tdp_is_given(tmp_path):
    cpu = read_cpu()
    if not cpu.is_virtual:
        pytest.skip("a bare machine sees the whole package")
    text = " ".join(doctor(cpu_node(tmp_path / "a"), "--cpu-tdp-w", "360").stdout.split())
    assert "give the package's too, cpu_threads=" in text
    given = doctor(cpu_node(tmp_path / "b"), "--cpu-tdp-w", "360", "--cpu-threads", "192").stdout
    assert "CPU's TDP    user" in given
    assert f"idle CPU     {0.12 * 360 * cpu.num_threads / 192:.2f} W" in given
