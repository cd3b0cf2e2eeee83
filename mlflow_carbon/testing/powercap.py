"""A powercap tree on disk, as the kernel shows it, whose counters follow a fake clock."""

from dataclasses import dataclass
from pathlib import Path

from mlflow_carbon.testing.clock import FakeClock
from mlflow_carbon.testing.power import Power

# What Skylake servers have: 2^32 units of 2^-14 J.
WRAP_MICROJOULES = 262_143_328_850


@dataclass(frozen=True)
class _Counter:
    path: Path
    power: Power
    start_microjoules: int
    wrap_microjoules: int


class FakePowercap:
    """Builds zones and keeps their counters where a power over time puts them."""

    def __init__(self, root: Path, clock: FakeClock) -> None:
        self.root = root
        self._counters: list[_Counter] = []
        (root / "intel-rapl").mkdir(parents=True)  # the control type, no zone
        clock.on_advance.append(self._follow)

    def add_zone(
        self,
        number: str,
        name: str,
        power: Power,
        *,
        start_microjoules: int = 1_000_000,
        wrap_microjoules: int = WRAP_MICROJOULES,
        prefix: str = "intel-rapl",
    ) -> Path:
        """Adds a zone such as ``0`` (a package) or ``0:1`` (a part of it); returns its folder."""
        path = self.root / f"{prefix}:{number}"
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{wrap_microjoules}\n")
        # Counters of real machines never agree to the joule; neither do these.
        start_microjoules += 7_000_000 * len(self._counters)
        self._counters.append(_Counter(path, power, start_microjoules, wrap_microjoules))
        self._follow(0.0)
        return path

    def add_dangling_zone(self, number: str) -> None:
        """Adds a link that leads nowhere, as containers show them."""
        (self.root / f"intel-rapl:{number}").symlink_to(self.root / "devices" / "gone")

    def add_mirror(self, number: str, name: str, *, of: str) -> None:
        """Adds a zone that shows another zone's counter."""
        path = self.root / f"intel-rapl:{number}"
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        for file_name in ("energy_uj", "max_energy_range_uj"):
            (path / file_name).symlink_to(self.root / f"intel-rapl:{of}" / file_name)

    def _follow(self, now_s: float) -> None:
        for counter in self._counters:
            microjoules = round(counter.power.energy_joules(now_s) * 1e6)
            value = (counter.start_microjoules + microjoules) % counter.wrap_microjoules
            replacement = counter.path / "energy_uj.new"
            replacement.write_text(f"{value}\n")
            replacement.replace(counter.path / "energy_uj")  # never half a number


def two_sockets(root: Path, clock: FakeClock, package: Power, dram: Power) -> FakePowercap:
    """Returns a server's tree: two packages with core and DRAM, and psys around them."""
    tree = FakePowercap(root, clock)
    for socket in range(2):
        tree.add_zone(f"{socket}", f"package-{socket}", package)
        tree.add_zone(f"{socket}:0", "core", package)
        tree.add_zone(f"{socket}:1", "dram", dram)
    tree.add_zone("2", "psys", package)
    tree.add_zone("0", "package-0", package, prefix="intel-rapl-mmio")
    return tree
