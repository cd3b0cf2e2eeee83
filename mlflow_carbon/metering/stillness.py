"""Watches for counters that stand still while the device's power sensor shows a power."""

from dataclasses import dataclass, replace

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.readings import STILL_S, Device, EnergySource, Tally

# A counter that has moved within this time is between two steps, not still.
LOOK_AFTER_S = 0.5

# By this energy a device's counter must have moved; counters count mJ.
MIN_MISSED_JOULES = 1.0


@dataclass(frozen=True)
class Missed:
    """The energy of a device while its counter stood still, by its power sensor."""

    joules: float
    power_w: float
    time_s: float


class StillnessWatch:
    """Asks a device for its power while its counter stands still."""

    def __init__(self) -> None:
        self._missed: dict[Device, Missed] = {}

    def sampled(self, source: EnergySource, tally: Tally) -> Tally | None:
        """Returns the tally by the power sensor, once the counter is known to stand still.

        From then on the device is to be sampled.

        Args:
            source: a counter.
            tally: with its latest reading.
        """
        still_s = tally.last_s - tally.moved_s
        if source.read_power_w is None or still_s < LOOK_AFTER_S:
            self._missed.pop(source.device, None)
            return None
        power_w = source.read_power_w()
        if not source.can_draw(power_w):
            self._missed.pop(source.device, None)
            return None
        missed = self._added(source.device, tally, power_w)
        if still_s < STILL_S or missed.joules < MIN_MISSED_JOULES:
            return None
        return replace(
            tally,
            energy_joules=tally.energy_joules + missed.joules,
            observed_s=tally.observed_s + still_s,
            num_moves=tally.num_moves + 1,
            counter=None,
            power_w=power_w,
        )

    def knows_power(self, device: Device) -> bool:
        """Returns whether the power sensor of a device that stands still can be believed."""
        return device in self._missed

    def _added(self, device: Device, tally: Tally, power_w: float) -> Missed:
        before = self._missed.get(device)
        if before is None:
            joules = power_w * (tally.last_s - tally.moved_s)
        else:
            mean_w = (before.power_w + power_w) / 2
            joules = before.joules + mean_w * (tally.last_s - before.time_s)
        missed = self._missed[device] = Missed(joules, power_w, tally.last_s)
        return missed


def sampled_source(source: EnergySource) -> EnergySource:
    """Returns the power sensor of a device whose counter stands still."""
    assert source.read_power_w is not None
    return EnergySource(
        source.component,
        source.index,
        keys.METHOD_SAMPLED,
        source.read_power_w,
        is_power=True,
        max_power_w=source.max_power_w,
        draws_always=source.draws_always,
    )
