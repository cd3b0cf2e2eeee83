"""Readings of energy sources, added up per device, and what an interval of them yields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.units import kwh_from_joules

# Share of the time counts as observed by these methods only; the others assume a power.
OBSERVING_METHODS = (keys.METHOD_COUNTER, keys.METHOD_SAMPLED)

# No CPU package draws more, so a RAPL counter cannot wrap faster than range / this power.
MAX_PACKAGE_POWER_W = 1000.0

Device = tuple[str, int]  # component and index


@dataclass(frozen=True)
class EnergySource:
    """One device's energy counter (J) or power sensor (W)."""

    component: str
    index: int
    method: str
    read: Callable[[], float]
    is_power: bool = False
    wrap_joules: float | None = None  # where the counter starts again at 0
    is_shared: bool = False  # only this process tree's share of CPU time is counted

    @property
    def device(self) -> Device:
        """The device that is read."""
        return self.component, self.index


@dataclass(frozen=True)
class Tally:
    """Readings of one source added up since the first."""

    first_s: float
    last_s: float
    last_value: float  # J of a counter, W of a sensor
    energy_joules: float = 0.0
    observed_s: float = 0.0
    num_readings: int = 1


@dataclass(frozen=True)
class Snapshot:
    """Every device's tally at one time; a device that was never read is not in it."""

    time_s: float
    tallies: Mapping[Device, Tally]


def add_reading(
    source: EnergySource,
    tally: Tally | None,
    *,
    time_s: float,
    value: float,
    max_gap_s: float,
    share_fraction: float = 1.0,
) -> Tally:
    """Returns the tally with one more reading.

    Args:
        source: where the reading is from.
        tally: its readings so far.
        time_s: when it was read.
        value: J of a counter, W of a sensor.
        max_gap_s: a sensor silent for longer than this did not observe the gap.
        share_fraction: share of the energy since the last reading that is ours.
    """
    if tally is None:
        return Tally(first_s=time_s, last_s=time_s, last_value=value)
    elapsed_s = time_s - tally.last_s
    if source.is_power:
        energy_joules = (tally.last_value + value) / 2 * elapsed_s
        is_observed = elapsed_s <= max_gap_s
    else:
        energy_joules, is_observed = _counted_joules(source, tally.last_value, value, elapsed_s)
    if source.method not in OBSERVING_METHODS:
        is_observed = False
    return replace(
        tally,
        last_s=time_s,
        last_value=value,
        energy_joules=tally.energy_joules + energy_joules * share_fraction,
        observed_s=tally.observed_s + (elapsed_s if is_observed else 0.0),
        num_readings=tally.num_readings + 1,
    )


def _counted_joules(
    source: EnergySource, before_joules: float, after_joules: float, elapsed_s: float
) -> tuple[float, bool]:
    """Returns what a counter counted, and whether it can have missed nothing."""
    if source.wrap_joules is not None:
        may_hide_a_wrap = elapsed_s > source.wrap_joules / MAX_PACKAGE_POWER_W
        return (after_joules - before_joules) % source.wrap_joules, not may_hide_a_wrap
    if after_joules < before_joules:  # reset, by a driver that was loaded anew
        return 0.0, False
    return after_joules - before_joules, True


def reading_between(
    opened: Snapshot, closed: Snapshot, methods: Mapping[Device, str], *, start_unix_s: float
) -> Reading:
    """Returns the energy between two snapshots, in kWh per device.

    Where a device was not read at an end of the interval, its energy is spread evenly over the
    time between its readings and cut to the interval.

    Args:
        opened: the snapshot at the start.
        closed: the snapshot at the end.
        methods: every device that should have been read, and how.
        start_unix_s: time of day at the start.
    """
    duration_s = closed.time_s - opened.time_s
    devices = []
    observed_s = 0.0
    num_readings = 0
    for device, method in methods.items():
        after = closed.tallies.get(device)
        if after is None:
            continue
        before = opened.tallies.get(device)
        if before is None:
            before = Tally(first_s=after.first_s, last_s=after.first_s, last_value=0.0)
        span_s = after.last_s - before.last_s
        overlap_s = min(after.last_s, closed.time_s) - max(before.last_s, opened.time_s)
        if after.num_readings == before.num_readings or overlap_s < 0:
            continue
        inside_fraction = overlap_s / span_s if span_s > 0 else 1.0
        energy_joules = (after.energy_joules - before.energy_joules) * inside_fraction
        devices.append(DeviceEnergy(*device, kwh_from_joules(energy_joules), method))
        observed_s += (after.observed_s - before.observed_s) * inside_fraction
        num_readings = max(num_readings, after.num_readings - before.num_readings + 1)
    if not devices:
        return Reading(start_unix_s, duration_s)
    coverage_fraction = observed_s / (duration_s * len(methods)) if duration_s > 0 else 0.0
    return Reading(start_unix_s, duration_s, tuple(devices), coverage_fraction, num_readings)
