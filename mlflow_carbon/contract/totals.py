"""The energy of a run, or of one of its nodes, over the whole metered interval."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import Figures, worded
from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.contract.windows import UnitEnergy, Window
from mlflow_carbon.units import SECONDS_PER_MINUTE, watts_from_kwh

RUNNING, ENDED = "running", "ended"  # the states of a node

MAX_COVERAGE_FRACTION = 1.01  # the excess over 1 is rounding
# Names in the tags, beside those of components and units.
ENERGY, DURATION, COVERAGE = "energy_kwh", "duration_s", "coverage_fraction"
STD = "_std"  # after a unit
_PER = "per_"  # before a unit
_NO_DEVICES = (ENERGY, DURATION, COVERAGE, *(f"{_PER}{unit}" for unit in keys.UNITS))
_UNIT_BY_KEY = {keys.energy_kwh_per_unit(unit): unit for unit in keys.UNITS}
_NO_COMPONENTS = ("window", "forecast", "node")


@dataclass(frozen=True)
class Total:
    """Energy of an interval, in the terms of the contract.

    Attributes:
        duration_s: of the interval; ``None`` where not recorded.
        energy_kwh: of all components; ``None`` where nothing was measured.
        coverage_fraction: share of the time that counters or samples observed, where known.
        energy_kwh_by_component: all devices of each component together.
        devices: the devices of the components that tell them apart; empty for a sum over nodes
            or over windows, which have components only.
    """

    duration_s: float | None
    energy_kwh: float | None = None
    coverage_fraction: float | None = None
    energy_kwh_by_component: Mapping[str, float] = field(default_factory=dict)
    devices: tuple[DeviceEnergy, ...] = ()

    @classmethod
    def of(cls, reading: Reading) -> "Total":
        """Returns the total of a meter's reading."""
        return cls(
            duration_s=reading.duration_s,
            energy_kwh=reading.energy_kwh,
            coverage_fraction=reading.coverage_fraction,
            energy_kwh_by_component=reading.energy_kwh_by_component(),
            devices=reading.devices,
        )

    @classmethod
    def of_windows(cls, windows: Iterable[Window]) -> "Total":
        """Returns the sum of windows that do not overlap; its coverage is not known."""
        total = cls(0.0)
        for window in windows:
            parts_kwh = window.energy_kwh_by_component
            total = total.plus(cls(window.duration_s, window.energy_kwh, None, parts_kwh))
        return total

    @classmethod
    def read(cls, figures: Figures, node_index: int | None = None) -> "Total | None":
        """Returns the total of a run, or of one of its nodes; ``None`` if not written yet."""
        prefix = keys.node_metric("carbon/", node_index) if node_index is not None else "carbon/"
        duration_s = figures.amount(f"{prefix}duration_s")
        energy_kwh = figures.amount(f"{prefix}{ENERGY}")
        if duration_s is None and energy_kwh is None:
            return None
        by_component: dict[str, float] = {}
        devices = []
        for key in figures.metrics:
            if not (key.endswith(ENERGY) and key.startswith(prefix)):
                continue
            component, *rest = key[len(prefix) :].split("/")
            value = None if component in _NO_COMPONENTS else figures.amount(key)
            match rest:
                case ["energy_kwh"] if value is not None:
                    by_component[component] = value
                case [index, "energy_kwh"] if value is not None and index.isdecimal():
                    method = figures.tags.get(keys.method_tag(component), keys.METHOD_UNAVAILABLE)
                    devices.append(DeviceEnergy(component, int(index), value, method))
        coverage_fraction = figures.amount(
            f"{prefix}coverage_fraction", highest=MAX_COVERAGE_FRACTION
        )
        return cls(duration_s, energy_kwh, coverage_fraction, by_component, tuple(devices))

    def plus(self, other: "Total") -> "Total":
        """Returns this interval and a following one, joined.

        Unmeasured energy adds nothing, and time of unknown coverage counts as not observed.
        """
        energies_kwh = [kwh for kwh in (self.energy_kwh, other.energy_kwh) if kwh is not None]
        duration_s = (self.duration_s or 0.0) + (other.duration_s or 0.0)
        coverages = [
            total.coverage_fraction * (total.duration_s or 0.0)
            for total in (self, other)
            if total.coverage_fraction is not None
        ]
        return Total(
            duration_s=duration_s,
            energy_kwh=sum(energies_kwh) if energies_kwh else None,
            coverage_fraction=sum(coverages) / duration_s if coverages and duration_s else None,
            energy_kwh_by_component=added_by_component((self, other)),
            devices=tuple(_added_devices(self, other)),
        )

    def words(self) -> dict[str, float]:
        """Returns the figures by the names in a tag: ``energy_kwh``, ``gpu``, ``gpu/0`` …

        Energy in kWh, duration in s.
        """
        values = {} if self.energy_kwh is None else {ENERGY: self.energy_kwh}
        if self.duration_s is not None:
            values[DURATION] = self.duration_s
        if self.coverage_fraction is not None:
            values[COVERAGE] = self.coverage_fraction
        for component, energy_kwh in sorted(self.energy_kwh_by_component.items()):
            values[component] = energy_kwh
        for device in sorted(self.devices, key=lambda one: (one.component, one.index)):
            values[f"{device.component}/{device.index}"] = device.energy_kwh
        return values

    @classmethod
    def of_words(cls, figures: Figures, key: str, words: Mapping[str, float]) -> "Total":
        """Returns the total that ``words`` wrote into a tag.

        Args:
            figures: of the run, whose tags name the methods.
            key: the tag, for the error.
            words: the figures by name.
        """
        by_component: dict[str, float] = {}
        devices = []
        for name, value in words.items():
            component, *rest = name.split("/")
            match rest:
                case [] if name not in _NO_DEVICES:
                    by_component[component] = value
                case [index]:
                    method = figures.tags.get(keys.method_tag(component), keys.METHOD_UNAVAILABLE)
                    number = figures.count_in(key, index)
                    devices.append(DeviceEnergy(component, number, value, method))
        coverage_fraction = words.get(COVERAGE)
        if coverage_fraction is not None:
            coverage_fraction = figures.within(
                f"{COVERAGE} in {key}", coverage_fraction, 0.0, MAX_COVERAGE_FRACTION
            )
        duration_s, energy_kwh = words.get(DURATION), words.get(ENERGY)
        return cls(duration_s, energy_kwh, coverage_fraction, by_component, tuple(devices))

    def as_window(self, end_unix_s: float) -> Window:
        """Returns a measured run without marked windows as one window in minutes."""
        assert self.energy_kwh is not None
        assert self.duration_s is not None
        return Window(
            end_unix_s=end_unix_s,
            duration_s=self.duration_s,
            energy_kwh=self.energy_kwh,
            energy_kwh_by_component=self.energy_kwh_by_component,
            num_units=self.duration_s / SECONDS_PER_MINUTE,
            unit=keys.UNIT_MINUTE,
        )

    @property
    def power_w(self) -> float | None:
        """Mean power; ``None`` where energy or duration is not known."""
        if self.energy_kwh is None or not self.duration_s:
            return None
        return watts_from_kwh(self.energy_kwh, self.duration_s)


@dataclass(frozen=True)
class NodePart:
    """What one node of several has measured so far, and until when.

    Attributes:
        total: the node's own; ``None`` if it has not written one yet.
        energy_per_unit: the run values of its own windows, by unit, in kWh.
        end_ms: time stamp of the total.
        has_ended: whether the node measures no more.
    """

    total: Total | None
    energy_per_unit: Mapping[str, float]
    end_ms: int
    has_ended: bool

    @classmethod
    def read(cls, figures: Figures, node_index: int) -> "NodePart | None":
        """Returns the figures that a node has written; ``None`` if it has written nothing."""
        key = keys.node_tag(keys.TAG_NODE_STATE, node_index)
        if key not in figures.tags:
            return None
        state, _, rest = figures.tags[key].partition(" ")
        end_ms, _, text = rest.partition(" ")
        if text:
            words = figures.words(key, text)
            of_units = {unit: words.get(f"{_PER}{unit}") for unit in keys.UNITS}
            has_total = any(not name.startswith(_PER) for name in words)
            return cls(
                total=Total.of_words(figures, key, words) if has_total else None,
                energy_per_unit={unit: kwh for unit, kwh in of_units.items() if kwh is not None},
                end_ms=figures.time_ms(key, end_ms),
                has_ended=state == ENDED,
            )
        per_unit = {
            unit: figures.amount(keys.node_metric(keys.energy_kwh_per_unit(unit), node_index))
            for unit in keys.UNITS
        }
        return cls(
            total=Total.read(figures, node_index),
            energy_per_unit={unit: kwh for unit, kwh in per_unit.items() if kwh is not None},
            end_ms=figures.time_ms(key, end_ms),
            has_ended=state == ENDED,
        )

    def tags(self, node_index: int) -> dict[str, str]:
        """Returns the tag with the node's state, the time stamp of its total, and its figures."""
        state = ENDED if self.has_ended else RUNNING
        words = {} if self.total is None else self.total.words()
        words |= {f"{_PER}{unit}": kwh for unit, kwh in self.energy_per_unit.items()}
        text = f"{state} {self.end_ms} {worded(words)}".rstrip()
        return {keys.node_tag(keys.TAG_NODE_STATE, node_index): text}


def read_parts(figures: Figures) -> dict[int, NodePart]:
    """Returns the figures that each node of a run has written, by its index."""
    parts = {}
    for key in figures.tags:
        if not key.startswith("carbon.node."):
            continue
        match key.split("."):
            case ["carbon", "node", text, "state"]:
                index = figures.count_in(key, text)
                part = NodePart.read(figures, index)
                if part is not None:
                    parts[index] = part
    return parts


def read_energy_per_unit(figures: Figures) -> dict[str, UnitEnergy]:
    """Returns the run values of energy per unit, by unit, with their spread within the run."""
    text = figures.tags.get(keys.TAG_ENERGY_KWH_PER_UNIT)
    if text is not None:
        words = figures.words(keys.TAG_ENERGY_KWH_PER_UNIT, text)
        return {
            unit: UnitEnergy(kwh, words.get(f"{unit}{STD}"))
            for unit, kwh in words.items()
            if not unit.endswith(STD)
        }
    found = {}
    named = figures.tags.get(keys.TAG_UNIT)
    others = {} if named is None else {keys.energy_kwh_per_unit(named): named}
    for key, unit in (_UNIT_BY_KEY | others).items():
        energy_kwh = figures.amount(key)
        if energy_kwh is not None:
            found[unit] = UnitEnergy(energy_kwh, figures.amount(keys.std_of(key)))
    return found


def energy_per_unit_tags(energies: Mapping[str, UnitEnergy]) -> dict[str, str]:
    """Returns the tag that ``read_energy_per_unit`` reads; empty without any."""
    words = {}
    for unit, energy in energies.items():
        words[unit] = energy.energy_kwh
        if energy.std_kwh is not None:
            words[f"{unit}{STD}"] = energy.std_kwh
    return {keys.TAG_ENERGY_KWH_PER_UNIT: worded(words)} if words else {}


def added_by_component(totals: Iterable[Total]) -> dict[str, float]:
    """Returns the energy of each component over all the totals, in kWh."""
    by_component: dict[str, float] = {}
    for total in totals:
        for component, energy_kwh in total.energy_kwh_by_component.items():
            by_component[component] = by_component.get(component, 0.0) + energy_kwh
    return by_component


def _added_devices(first: Total, second: Total) -> Iterator[DeviceEnergy]:
    """Yields the devices of both totals, their energies added.

    Where one total has a component's energy but not its devices', a single device gets all of
    it; among several devices the split is not known, and none is yielded.
    """
    for component in added_by_component((first, second)):
        by_part = [_devices_of(first, component), _devices_of(second, component)]
        indices = {device.index for devices in by_part if devices for device in devices}
        if None in by_part and len(indices) != 1:
            continue
        method = next(d.method for devices in reversed(by_part) for d in reversed(devices or []))
        for index in sorted(indices):
            known = [
                device
                for devices in by_part
                if devices
                for device in devices
                if device.index == index
            ]
            whole_kwh = [
                total.energy_kwh_by_component[component]
                for total, devices in zip((first, second), by_part, strict=True)
                if devices is None
            ]
            energy_kwh = sum(device.energy_kwh for device in known) + sum(whole_kwh)
            yield DeviceEnergy(component, index, energy_kwh, method)


def _devices_of(total: Total, component: str) -> list[DeviceEnergy] | None:
    """Returns a component's devices; ``None`` if only the component's sum is known."""
    devices = [device for device in total.devices if device.component == component]
    return None if not devices and component in total.energy_kwh_by_component else devices
