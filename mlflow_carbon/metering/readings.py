"""Readings of energy sources, added up per device, and the energy of an interval of them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.measurement import DeviceEnergy, Reading
from mlflow_carbon.metering.counter_steps import (
    MAX_PACKAGE_POWER_W,
    Count,
    CounterState,
    StepKind,
    counter_step,
)
from mlflow_carbon.metering.other_load import Load, other_cpu_fraction
from mlflow_carbon.units import kwh_from_joules

# Only these methods observe; the other methods assume a power.
OBSERVING_METHODS = (keys.METHOD_COUNTER, keys.METHOD_SAMPLED)

# If a counter stands still for longer than this, the energy of that time stays unknown.
STILL_S = 2.0

Device = tuple[str, int]  # component and index


@dataclass(frozen=True)
class EnergySource:
    """One device's energy counter (J) or power sensor (W).

    Attributes:
        read: returns J of a counter, W of a sensor.
        wrap_joules: value at which the counter starts again at 0.
        is_shared: whether only this process tree's share, by CPU time, is counted.
        max_power_w: the device never draws more; a reading above it is not believed.
        read_power_w: reads the power sensor of a device with a counter, to check the counter.
        draws_always: whether a power of 0 W is a sensor's fault, as a device that answers draws.
    """

    component: str
    index: int
    method: str
    read: Callable[[], float]
    is_power: bool = False
    wrap_joules: float | None = None
    is_shared: bool = False
    max_power_w: float = MAX_PACKAGE_POWER_W
    read_power_w: Callable[[], float] | None = None
    draws_always: bool = False

    @property
    def device(self) -> Device:
        """The device that is read."""
        return self.component, self.index

    def can_draw(self, power_w: float) -> bool:
        """Returns whether the device can draw this power."""
        is_off = self.draws_always and power_w == 0
        return math.isfinite(power_w) and 0 <= power_w <= self.max_power_w and not is_off


@dataclass(frozen=True)
class Tally:
    """Readings of one source added up since the first.

    Attributes:
        last_s: time of the last believed reading, or of the reading a counter goes on from.
        energy_joules: the energy that is known.
        observed_s: how much of the time the source observed.
        num_moves: number of readings that added energy.
        num_gaps: number of readings that were not believed.
        counter: state of a counter; ``None`` for a sensor.
        power_w: last value of a sensor.
        is_doubtful: whether the sensor's last value was not believed.
        unshared_joules: energy whose share that is ours is not known yet.
    """

    first_s: float
    last_s: float
    energy_joules: float = 0.0
    observed_s: float = 0.0
    num_readings: int = 1
    num_moves: int = 0
    num_gaps: int = 0
    counter: CounterState | None = None
    power_w: float = 0.0
    is_doubtful: bool = False
    unshared_joules: float = 0.0

    @property
    def moved_s(self) -> float:
        """When the source last added energy."""
        return self.last_s if self.counter is None else self.counter.moved_s


@dataclass(frozen=True)
class Snapshot:
    """Every device's tally at one time; a device that was never read is not in it.

    Reading the devices takes time. A window opened by a snapshot begins when the reading is over.

    Attributes:
        time_s: when the reading was asked for.
        ended_s: when the reading was over; ``None`` if at ``time_s``.
        load: of the node, at that time or up to half a second before; ``None``: not known.
    """

    time_s: float
    tallies: Mapping[Device, Tally]
    ended_s: float | None = None
    load: Load | None = None

    @property
    def opens_s(self) -> float:
        """When a window opened by this snapshot begins."""
        return self.time_s if self.ended_s is None else self.ended_s


def add_reading(
    source: EnergySource,
    tally: Tally | None,
    *,
    time_s: float,
    value: float,
    max_gap_s: float,
    share_fraction: float | None = 1.0,
) -> Tally | None:
    """Returns the tally with one more reading; ``None`` if the first reading is not believed.

    Args:
        source: where the reading is from.
        tally: its readings so far.
        time_s: when it was read.
        value: J of a counter, W of a sensor.
        max_gap_s: a sensor silent for longer than this did not observe the gap.
        share_fraction: our share of the energy since the last share; ``None`` if not known yet.
    """
    if source.is_power:
        return _with_power(source, tally, time_s=time_s, power_w=value, max_gap_s=max_gap_s)
    now = Count(value, time_s)
    if tally is None or tally.counter is None:
        first = Tally(time_s, time_s) if tally is None else tally
        return replace(first, counter=CounterState(now, time_s))
    step = counter_step(
        tally.counter, now, max_power_w=source.max_power_w, wrap_joules=source.wrap_joules
    )
    is_observed = step.is_observed and source.method in OBSERVING_METHODS
    tally = replace(
        tally,
        last_s=time_s,
        counter=step.state,
        observed_s=tally.observed_s + (_observed_s(tally, time_s) if is_observed else 0.0),
        num_readings=tally.num_readings + 1,
        num_gaps=tally.num_gaps + (step.kind is StepKind.GAP),
        unshared_joules=tally.unshared_joules + step.joules,
    )
    return tally if share_fraction is None else _with_share(tally, share_fraction)


def _observed_s(tally: Tally, time_s: float) -> float:
    """Returns the time that a counter's move covers: since its last move, if that was recent."""
    still_s = time_s - tally.moved_s
    return still_s if still_s <= STILL_S else time_s - tally.last_s


def _with_share(tally: Tally, share_fraction: float) -> Tally:
    if tally.unshared_joules == 0:
        return tally
    return replace(
        tally,
        energy_joules=tally.energy_joules + tally.unshared_joules * share_fraction,
        num_moves=tally.num_moves + 1,
        unshared_joules=0.0,
    )


def _with_power(
    source: EnergySource, tally: Tally | None, *, time_s: float, power_w: float, max_gap_s: float
) -> Tally | None:
    """Returns the tally of a sensor with one more value; a straight line joins the values."""
    if not source.can_draw(power_w):
        if tally is None:
            return None
        return replace(tally, num_gaps=tally.num_gaps + 1, is_doubtful=True)
    if tally is None:
        return Tally(time_s, time_s, power_w=power_w)
    elapsed_s = time_s - tally.last_s
    is_observed = (
        elapsed_s <= max_gap_s and not tally.is_doubtful and source.method in OBSERVING_METHODS
    )
    return replace(
        tally,
        last_s=time_s,
        power_w=power_w,
        energy_joules=tally.energy_joules + (tally.power_w + power_w) / 2 * elapsed_s,
        observed_s=tally.observed_s + (elapsed_s if is_observed else 0.0),
        num_readings=tally.num_readings + 1,
        num_moves=tally.num_moves + 1,
        is_doubtful=False,
    )


def reading_between(
    opened: Snapshot,
    closed: Snapshot,
    methods: Mapping[Device, str],
    *,
    start_unix_s: float,
    num_unread: int = 0,
    num_threads: int = 1,
) -> Reading:
    """Returns the energy between two snapshots, in kWh per device.

    Where a device was not read exactly at an end of the interval, its energy is spread evenly
    over the time between its readings and cut to the interval.

    Args:
        opened: the snapshot at the start.
        closed: the snapshot at the end.
        methods: every device that is read, and how.
        start_unix_s: time of day at the start.
        num_unread: number of devices that should be read and cannot be.
        num_threads: hardware threads of the node.
    """
    duration_s = max(closed.time_s - opened.opens_s, 0.0)
    devices = []
    silent = []
    observed_s = 0.0
    num_readings = 0
    for device, method in methods.items():
        after = closed.tallies.get(device)
        if after is None:
            continue
        before = opened.tallies.get(device) or Tally(after.first_s, after.first_s)
        span_s = after.last_s - before.last_s
        overlap_s = min(after.last_s, closed.time_s) - max(before.last_s, opened.opens_s)
        if after.num_readings == before.num_readings or overlap_s < 0:
            continue
        if after.num_moves == before.num_moves:
            is_known_later = closed.time_s - after.moved_s < STILL_S
            if is_known_later and after.num_gaps == before.num_gaps:
                silent.append(device)
            continue
        inside_fraction = overlap_s / span_s if span_s > 0 else 1.0
        energy_joules = (after.energy_joules - before.energy_joules) * inside_fraction
        devices.append(DeviceEnergy(*device, kwh_from_joules(energy_joules), method))
        observed_s += (after.observed_s - before.observed_s) * inside_fraction
        num_readings = max(num_readings, after.num_readings - before.num_readings + 1)
    others = other_cpu_fraction(opened.load, closed.load, num_threads=num_threads)
    if not devices:
        return Reading(start_unix_s, duration_s, silent=tuple(silent), other_cpu_fraction=others)
    num_expected = len(methods) + num_unread
    return Reading(
        start_unix_s,
        duration_s,
        tuple(devices),
        coverage_fraction=_fraction(observed_s, duration_s * num_expected),
        num_readings=num_readings,
        silent=tuple(silent),
        other_cpu_fraction=others,
    )


def _fraction(part_s: float, whole_s: float) -> float:
    return min(part_s / whole_s, 1.0) if whole_s > 0 else 0.0
