"""The energy of one interval, device by device, and a meter's description of its methods."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys

# These methods count in steps: a counter's steps of energy, the kernel clock's of busy time.
COUNTING_METHODS = (keys.METHOD_COUNTER, keys.METHOD_TDP)


@dataclass(frozen=True, slots=True)
class DeviceEnergy:
    """Energy of one device in one interval."""

    component: str  # gpu, cpu, dram
    index: int  # GPU: NVML's index; CPU and DRAM: socket
    energy_kwh: float
    method: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Energy of one interval, per device.

    Attributes:
        devices: empty if nothing could be measured, never zeros.
        coverage_fraction: share of the time that counters or samples observed, averaged over the
            devices that should be there; a device that cannot be read, or whose power is
            assumed, counts 0. ``None`` if ``devices`` is empty.
        num_readings: readings of the device that was read most often, both ends included.
        silent: component and index of the devices whose energy will be known only later; these
            are not in ``devices``.
        other_cpu_fraction: share of the node's CPU that other processes used meanwhile; ``None``
            where the interval is too short to tell.
    """

    start_unix_s: float
    duration_s: float
    devices: tuple[DeviceEnergy, ...] = ()
    coverage_fraction: float | None = None
    num_readings: int = 0
    silent: tuple[tuple[str, int], ...] = ()
    other_cpu_fraction: float | None = None

    @property
    def energy_kwh(self) -> float | None:
        """Energy of all devices together."""
        if not self.devices:
            return None
        return sum(device.energy_kwh for device in self.devices)

    def without_silent(self) -> "Reading":
        """Returns the reading without the counters that did not move in it.

        The interval was shorter than their step, so their energy is not 0 but unknown. In a
        series of windows it is less so: many short windows add up to what was counted.
        """
        counted = tuple(
            device
            for device in self.devices
            if device.energy_kwh > 0 or device.method not in COUNTING_METHODS
        )
        coverage_fraction = self.coverage_fraction if counted else None
        return replace(self, devices=counted, coverage_fraction=coverage_fraction)

    def energy_kwh_by_component(self) -> dict[str, float]:
        """Returns the energy of each component, all its devices together."""
        by_component: dict[str, float] = {}
        for device in self.devices:
            energy_kwh = by_component.get(device.component, 0.0) + device.energy_kwh
            by_component[device.component] = energy_kwh
        return by_component


def joined(readings: Iterable[Reading]) -> Reading:
    """Returns the readings of consecutive intervals as one, which starts where the first starts.

    Raises:
        ValueError: there is no reading.
    """
    first, *others = readings
    for other in others:
        first = _sum(first, other)
    return first


def _sum(first: Reading, second: Reading) -> Reading:
    by_device = {(device.component, device.index): device for device in first.devices}
    for device in second.devices:
        place = (device.component, device.index)
        before_kwh = by_device[place].energy_kwh if place in by_device else 0.0
        by_device[place] = DeviceEnergy(*place, before_kwh + device.energy_kwh, device.method)
    duration_s = first.duration_s + second.duration_s
    coverages = [
        (reading.coverage_fraction, reading.duration_s)
        for reading in (first, second)
        if reading.coverage_fraction is not None
    ]
    observed_s = sum(fraction * seconds for fraction, seconds in coverages)
    return Reading(
        start_unix_s=first.start_unix_s,
        duration_s=duration_s,
        devices=tuple(by_device.values()),
        coverage_fraction=observed_s / duration_s if coverages and duration_s > 0 else None,
        num_readings=first.num_readings + second.num_readings,
    )


@dataclass(frozen=True)
class MeterDescription:
    """What a meter measures on this machine, how, and what it cannot measure.

    Attributes:
        components: those that are measured.
        method_by_component: every component asked for; ``unavailable`` if it cannot be measured.
        cpu_tdp_source: source of an assumed CPU power: ``table: …``, ``generic``, ``family …``,
            ``user``, ``unknown``; ``None`` if the power is not assumed.
        attribution: as in the settings.
        hardware: counts and models.
        tracker: name and version.
        problems: one sentence for each thing that is missing or not as it should be.
        unread: one name for each device that should be counted and cannot be read.
        cpu_idle_power_w: the part of an estimated CPU's power that it draws when it does nothing.
    """

    components: tuple[str, ...]
    method_by_component: dict[str, str]
    cpu_tdp_source: str | None
    attribution: str
    hardware: str
    tracker: str
    problems: tuple[str, ...]
    unread: tuple[str, ...] = ()
    cpu_idle_power_w: float | None = None

    def tags(self) -> dict[str, str]:
        """Returns the run tags of the tracker, its methods, the hardware and what was missed."""
        tags = {
            keys.TAG_COMPONENTS: ",".join(self.components),
            keys.TAG_ATTRIBUTION: self.attribution,
            keys.TAG_HARDWARE: self.hardware,
            keys.TAG_TRACKER: self.tracker,
        }
        for component, method in self.method_by_component.items():
            tags[keys.method_tag(component)] = method
        if self.cpu_tdp_source is not None:
            tags[keys.TAG_CPU_TDP_SOURCE] = self.cpu_tdp_source
        if self.cpu_idle_power_w is not None:
            tags[keys.TAG_CPU_IDLE_POWER_W] = f"{self.cpu_idle_power_w:.6g}"
        if self.unread:
            tags[keys.TAG_UNREAD_DEVICES] = ", ".join(self.unread)
        if self.problems:
            tags[keys.TAG_ERROR] = " ".join(self.problems)
        return tags

    @classmethod
    def read(cls, tags: Mapping[str, str]) -> "MeterDescription | None":
        """Returns the description that ``tags`` wrote, its problems as one sentence.

        ``None`` if the tags name neither a tracker nor a method.
        """
        prefix = keys.method_tag("")
        methods = {key.removeprefix(prefix): tags[key] for key in tags if key.startswith(prefix)}
        tracker = tags.get(keys.TAG_TRACKER)
        if tracker is None and not methods:
            return None
        components, error = tags.get(keys.TAG_COMPONENTS), tags.get(keys.TAG_ERROR)
        unread, idle_w = tags.get(keys.TAG_UNREAD_DEVICES), tags.get(keys.TAG_CPU_IDLE_POWER_W)
        return cls(
            components=tuple(components.split(",")) if components else (),
            method_by_component=methods,
            cpu_tdp_source=tags.get(keys.TAG_CPU_TDP_SOURCE),
            attribution=tags.get(keys.TAG_ATTRIBUTION, ""),
            hardware=tags.get(keys.TAG_HARDWARE, ""),
            tracker=tracker or "",
            problems=(error,) if error else (),
            unread=tuple(unread.split(", ")) if unread else (),
            cpu_idle_power_w=_power_w(idle_w),
        )


def _power_w(text: str | None) -> float | None:
    """Returns the power in a tag; ``None`` without a tag or if the power is impossible."""
    try:
        power_w = math.nan if text is None else float(text)
    except ValueError:
        return None
    return power_w if 0 <= power_w < math.inf else None
