"""The CPU's power where nothing counts it: names, tables, threads."""

import csv
import statistics
from importlib.resources import files
from pathlib import Path

import pytest

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.cpu_power import (
    GENERIC_WATTS_PER_THREAD,
    Cpu,
    CpuModel,
    ThreadPower,
    load_carbontracker_models,
    load_generations,
    load_models,
    parse_cpuinfo,
    plain_name,
    thread_power,
)
from mlflow_carbon.metering.load_curve import tdp_fraction

CARBONTRACKER_TABLE = Path(str(files("carbontracker") / "data" / "cpu_power.csv"))

EPYC_7513 = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 7513 32-Core Processor
physical id\t: 0
siblings\t: 64
cpu cores\t: 32
flags\t\t: fpu vme sse2 ht

processor\t: 1
model name\t: AMD EPYC 7513 32-Core Processor
physical id\t: 1
siblings\t: 64
cpu cores\t: 32
flags\t\t: fpu vme sse2 ht
"""


def tables() -> tuple[dict[str, CpuModel], dict[str, CpuModel]]:
    return load_models(), load_carbontracker_models(CARBONTRACKER_TABLE)


def power_of(cpu: Cpu) -> ThreadPower:
    return thread_power(cpu, tables=tables())


@pytest.mark.parametrize(
    ("name", "source", "watts_per_thread"),
    [
        # TDP over hardware threads of a package
        ("AMD EPYC 7513 32-Core Processor", "AMD EPYC 7513 (200 W)", 200 / 64),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763 (280 W)", 280 / 128),
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654 (360 W)", 360 / 192),
        (
            "Intel(R) Xeon(R) Platinum 8358 CPU @ 2.60GHz",
            "Intel Xeon Platinum 8358 (250 W)",
            250 / 64,
        ),
        ("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", "Intel Xeon E5-2680 v4 (120 W)", 120 / 28),
        ("Intel(R) Xeon(R) Platinum 8480+", "Intel Xeon Platinum 8480+ (350 W)", 350 / 112),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "Intel Core i7-8700 (65 W)", 65 / 12),
        ("12th Gen Intel(R) Core(TM) i7-12700K", "Intel Core i7-12700K (125 W)", 125 / 20),
        ("AMD Ryzen 9 5950X 16-Core Processor", "AMD Ryzen 9 5950X (105 W)", 105 / 32),
        (
            "AMD Ryzen Threadripper 3970X 32-Core Processor",
            "AMD Ryzen Threadripper 3970X (280 W)",
            280 / 64,
        ),
    ],
)
def test_model_is_found_by_the_name_that_the_kernel_gives(
    name: str, source: str, watts_per_thread: float
) -> None:
    power = power_of(Cpu(name, num_threads=8, is_virtual=True))
    assert power == ThreadPower(pytest.approx(watts_per_thread), f"table: {source}")


@pytest.mark.parametrize(
    ("name", "source", "watts_per_thread"),
    [
        ("Apple M1", "table: Apple M1 (10 W)", 10 / 8),
        ("Apple M2 Pro", "table: Apple M2 Pro (35 W)", 35 / 8),  # not Apple M2
        ("Apple M1 Max", "unknown", None),  # not Apple M1
        ("Apple M9", "unknown", None),
    ],
)
def test_apple_model_is_matched_whole(
    name: str, source: str, watts_per_thread: float | None
) -> None:
    assert power_of(Cpu(name, num_threads=8)) == ThreadPower(watts_per_thread, source)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "AMD EPYC",
        "AMD EPYC Processor",
        "AMD EPYC-Milan Processor",
        "AMD EPYC-Rome Processor (with IBPB)",
        "AMD EPYC 7R13 Processor",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "Intel(R) Xeon(R) Processor @ 2.90GHz",
        "Intel Xeon Processor (Skylake, IBRS)",
        "QEMU Virtual CPU version 2.5+",
        "Common KVM processor",
        "DO-Regular",
        "Intel Core Processor (Haswell, IBRS)",  # QEMU's name of any CPU
        "AMD EPYC 77",
        "8358",
    ],
)
def test_name_without_a_known_model_matches_none(name: str) -> None:
    power = power_of(Cpu(name, num_threads=2, is_virtual=True))
    assert power == ThreadPower(GENERIC_WATTS_PER_THREAD, "generic")


@pytest.mark.parametrize(
    ("cpu", "what"),
    [
        (Cpu("Neoverse-N1", 2, is_virtual=True), "ARM in a cloud"),
        (Cpu("Intel(R) Core(TM) i7", 8), "a desktop or a laptop"),
        (Cpu("Intel(R) Core(TM) Ultra 7 999H", 22), "hybrid"),
        (Cpu("AMD Ryzen AI 9 HX 999 w/ Radeon 890M", 24), "mobile"),
        (Cpu("", 4), "no name and no hypervisor"),
        (Cpu("Intel(R) N100", 4, is_virtual=True), "a small desktop's guest"),
        (Cpu("AMD A10-7850K Radeon R7, 12 Compute Cores 4C+8G", 4, is_virtual=True), "an APU's"),
        (Cpu("AMD GX-412TC SOC", 4, is_virtual=True), "a board's guest"),
        (Cpu("VirtualApple @ 2.50GHz", 8, is_virtual=True), "Rosetta on a Mac"),
        (Cpu("Intel(R) Xeon(R) W-11955M CPU @ 2.60GHz", 16), "a laptop's Xeon"),
        (Cpu("Intel(R) Xeon Phi(TM) CPU 7250 @ 1.40GHz", 272, is_virtual=True), "1,020 W of 215"),
        (parse_cpuinfo("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n"), "a board"),
        (parse_cpuinfo("processor\t: 0\ncpu\t\t: POWER9, altivec supported\n"), "POWER"),
    ],
)
def test_what_is_no_server_has_no_servers_power(cpu: Cpu, what: str) -> None:
    assert power_of(cpu) == ThreadPower(None, "unknown"), what


def cpuinfo(family: int, model: int, *, vendor: str = "AuthenticAMD", stepping: int = 1) -> str:
    """Returns what a virtual machine shows whose CPU's name says no model."""
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\n"
        f"model name\t: {vendor}\nstepping\t: {stepping}\nflags\t\t: fpu hypervisor\n"
    )


@pytest.mark.parametrize(
    ("text", "source", "watts_per_thread"),
    [
        (cpuinfo(25, 17), "EPYC Genoa): as AMD EPYC 9654 (360 W, 192 threads)", 360 / 192),
        (cpuinfo(25, 1), "EPYC Milan): as AMD EPYC 7763 (280 W, 128 threads)", 280 / 128),
        (cpuinfo(23, 49), "EPYC Rome): as AMD EPYC 7742 (225 W, 128 threads)", 225 / 128),
        (cpuinfo(26, 17), "EPYC Turin Dense): as AMD EPYC 9965 (500 W, 384 threads)", 500 / 384),
        (
            cpuinfo(6, 143, vendor="GenuineIntel"),
            "Sapphire Rapids-X): as Intel Xeon Platinum 8480+ (350 W, 112 threads)",
            350 / 112,
        ),
        (
            cpuinfo(6, 85, vendor="GenuineIntel", stepping=7),
            "Cascade Lake-X): as Intel Xeon Platinum 8259CL (210 W, 48 threads)",
            210 / 48,
        ),
    ],
)
def test_family_and_model_number_decide_where_the_name_says_nothing(
    text: str, source: str, watts_per_thread: float
) -> None:
    power = power_of(parse_cpuinfo(text))
    assert power.watts_per_thread == pytest.approx(watts_per_thread)
    assert power.source.endswith(source)


def test_numbers_of_another_vendor_or_of_no_server_decide_nothing() -> None:
    assert power_of(parse_cpuinfo(cpuinfo(25, 17, vendor="GenuineIntel"))).source == "generic"
    assert power_of(parse_cpuinfo(cpuinfo(25, 33))).source == "generic"  # a Ryzen desktop


def test_desktop_with_a_servers_numbers_is_no_server() -> None:
    name = "Intel(R) Core(TM) i7-6900K CPU @ 3.20GHz"  # 140 W, of which Broadwell-X would make 54
    guest = Cpu(name, 16, is_virtual=True, vendor="GenuineIntel", family=6, model=79)
    assert power_of(guest) == ThreadPower(None, "unknown")


def test_siena_has_its_own_power_not_that_of_bergamo_of_the_same_number() -> None:
    cpu = Cpu("AMD EPYC 8324P 32-Core Processor", 64, vendor="AuthenticAMD", family=25, model=160)
    assert power_of(cpu).watts_per_thread == pytest.approx(180 / 64)


def test_every_generation_is_represented_by_a_server_of_known_threads() -> None:
    for generation in load_generations():
        model = load_models()[plain_name(generation.represented_by)]
        assert model.num_threads, generation.name


def test_generic_power_is_the_median_of_the_server_cpus() -> None:
    watts_per_thread = [
        model.tdp_w / model.num_threads
        for model in load_models().values()
        if model.num_threads and ("EPYC" in model.name or "Xeon" in model.name)
    ]
    assert statistics.median(watts_per_thread) == pytest.approx(GENERIC_WATTS_PER_THREAD, rel=0.02)


def test_bare_machine_at_full_load_draws_the_tdp_of_all_sockets() -> None:
    cpu = Cpu("AMD EPYC 7763 64-Core Processor", num_threads=256, num_sockets=2)
    assert power_of(cpu).watts_per_thread * cpu.num_threads == pytest.approx(560.0)  # 2 × 280 W


def test_guest_at_full_load_draws_its_threads_share() -> None:
    cpu = Cpu("AMD EPYC 7763 64-Core Processor", num_threads=4, num_sockets=4, is_virtual=True)
    # 280 W × 4 visible of 128 physical threads, though it sees a socket for each thread
    assert power_of(cpu).watts_per_thread * cpu.num_threads == pytest.approx(8.75)


def test_bare_machine_without_smt_draws_the_tdp_too() -> None:
    cpu = Cpu("AMD EPYC 7763 64-Core Processor", num_threads=64, has_smt=False)
    assert power_of(cpu).watts_per_thread * cpu.num_threads == pytest.approx(280.0)


def test_guest_on_a_model_of_unknown_size_is_generic() -> None:
    # Carbontracker's table knows the TDP, 150 W, but not of how many threads
    name = "Intel(R) Xeon(R) Gold 6240Y CPU @ 2.60GHz"
    assert power_of(Cpu(name, 4, is_virtual=True)).source == "generic"
    bare = power_of(Cpu(name, 72, num_sockets=2))
    assert bare == ThreadPower(150 / 36, "table: Intel Xeon Gold 6240Y (150 W)")


def test_users_tdp_overrides_the_table() -> None:
    cpu = Cpu("AMD EPYC 7513 32-Core Processor", num_threads=128, num_sockets=2)
    power = thread_power(cpu, tdp_w=160.0, tables=tables())
    assert power == ThreadPower(160 / 64, "user")
    unknown = thread_power(Cpu("My CPU", num_threads=8), tdp_w=160.0, tables=tables())
    assert unknown == ThreadPower(20.0, "user")  # 160 W over the 8 threads of one socket


def test_tdp_of_a_package_says_nothing_of_a_guest_without_the_packages_threads() -> None:
    guest = parse_cpuinfo(
        cpuinfo(25, 17) + cpuinfo(25, 17).replace("processor\t: 0", "processor\t: 1")
    )
    with pytest.raises(InvalidInputError, match="cpu_threads=192"):
        thread_power(guest, tdp_w=360.0, tables=tables())
    power = thread_power(guest, tdp_w=360.0, threads=192, tables=tables())
    # 2 of 192 threads at 360 W are 3.75 W, not 360 W
    assert power == ThreadPower(360 / 192, "user")
    assert 2 * 360 / 192 == 3.75


def test_threads_of_a_guests_package_are_taken_from_the_table_where_its_name_is_there() -> None:
    guest = Cpu("AMD EPYC 9654 96-Core Processor", num_threads=2, is_virtual=True)
    assert thread_power(guest, tdp_w=400.0, tables=tables()) == ThreadPower(400 / 192, "user")


def test_threads_that_are_given_make_a_table_without_them_useful() -> None:
    guest = Cpu("Intel(R) Xeon(R) Gold 6240Y CPU @ 2.60GHz", 4, is_virtual=True)
    power = thread_power(guest, threads=36, tables=tables())
    assert power == ThreadPower(150 / 36, "table: Intel Xeon Gold 6240Y (150 W)")


@pytest.mark.parametrize(
    ("load", "fraction"),
    # Teads: 0.12, 0.32, 0.75 and 1.02 of the TDP at 0, 10, 50 and 100 % load; between them lines
    [(0.0, 0.12), (0.05, 0.22), (0.1, 0.32), (0.5, 0.75), (0.75, 0.885), (1.0, 1.02), (1.3, 1.02)],
)
def test_load_curve_is_that_of_its_source(load: float, fraction: float) -> None:
    assert tdp_fraction(load) == pytest.approx(fraction)


def test_cpuinfo_of_two_sockets_is_read() -> None:
    assert parse_cpuinfo(EPYC_7513) == Cpu(
        "AMD EPYC 7513 32-Core Processor", num_threads=2, num_sockets=2, vendor="AuthenticAMD"
    )


def test_cpuinfo_of_a_guest_is_read() -> None:
    text = EPYC_7513.replace("sse2", "sse2 hypervisor").replace("siblings\t: 64", "siblings\t: 32")
    cpu = parse_cpuinfo(text)
    assert cpu.is_virtual
    assert not cpu.has_smt


def test_cpuinfo_of_arm_has_no_name() -> None:
    text = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\n"
    assert parse_cpuinfo(text) == Cpu("", num_threads=1, is_x86=False)


@pytest.mark.slow
def test_own_table_agrees_with_carbontracker_on_every_common_model() -> None:
    ours, theirs = tables()
    common = ours.keys() & theirs.keys()
    assert len(common) > 100
    differing = {name for name in common if ours[name].tdp_w != theirs[name].tdp_w}
    assert differing == set()


def test_every_row_of_the_table_has_a_source_and_a_name_that_is_found_again() -> None:
    text = (files("mlflow_carbon") / "data" / "cpu_tdp.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert all(row["source"].startswith("https://") for row in rows)
    assert len({plain_name(row["name"]) for row in rows}) == len(rows)


def test_carbontrackers_ranges_are_left_out() -> None:
    # a row such as "33.34.8" is no number of W
    assert all(0 < model.tdp_w < 1000 for model in tables()[1].values())
