"""A meter whose every figure the test decides."""

from collections.abc import Sequence

from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription, Reading
from mlflow_carbon.units import joules_from_kwh, kwh_from_joules

DESCRIPTION = MeterDescription(
    components=("cpu", "gpu"),
    method_by_component={"cpu": "tdp", "gpu": "counter"},
    cpu_tdp_source="user",
    attribution="whole_node",
    hardware="1x fake GPU, 8 CPU threads",
    tracker="carbontracker 2.4.7",
    problems=(),
)


def reading(*, cpu_joules: float = 0.0, gpu_joules: Sequence[float] = (), duration_s: float = 1.0):
    """Returns what an interval with these energies reads; no energy at all reads nothing."""
    devices = [
        DeviceEnergy("gpu", index, kwh_from_joules(joules), "counter")
        for index, joules in enumerate(gpu_joules)
    ]
    if cpu_joules:
        devices.append(DeviceEnergy("cpu", 0, kwh_from_joules(cpu_joules), "tdp"))
    return Reading(
        start_unix_s=1_700_000_000.0,
        duration_s=duration_s,
        devices=tuple(devices),
        coverage_fraction=0.5 if devices else None,
        num_readings=2,
    )


class FakeMeter:
    """Answers each closed window with the next scripted reading, in the order they close."""

    def __init__(self, readings: Sequence[Reading], description: MeterDescription = DESCRIPTION):
        self.scripted = list(readings)
        self.description = description
        self._closed: list[Reading] = []
        self.num_opened = 0
        self._minute_listeners = []

    def open_window(self) -> int:
        """Returns a token."""
        self.num_opened += 1
        return self.num_opened

    def every(self, duration_s: float, use):
        """Lets the test say by ``on_minute`` when a minute is over."""
        assert duration_s == 60
        self._minute_listeners.append(use)
        return lambda: self._minute_listeners.remove(use)

    @property
    def on_minute(self):
        """What a minute's reading is to be given to; None where nobody listens."""
        return self._tell_minute if self._minute_listeners else None

    def _tell_minute(self, minute: Reading) -> None:
        for use in list(self._minute_listeners):
            use(minute)

    def close_window(self, window: int) -> Reading:
        """Returns the next reading."""
        assert window <= self.num_opened
        self._closed.append(self.scripted.pop(0))
        return self._closed[-1]

    def reading_so_far(self, _window: int) -> Reading:
        """Returns the energy of all closed windows, as if there were nothing between them."""
        energy_kwh = sum(closed.energy_kwh or 0.0 for closed in self._closed)
        return reading(cpu_joules=joules_from_kwh(energy_kwh))
