"""A meter whose every figure the test decides."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mlflow_carbon.contract.measurement import DeviceEnergy, MeterDescription, Reading, joined
from mlflow_carbon.errors import MeterError
from mlflow_carbon.metering.protocol import EnergyMeter, OpenWindow
from mlflow_carbon.metering.readings import Snapshot
from mlflow_carbon.testing.clock import START_UNIX_S
from mlflow_carbon.tracking.process_metering import process_metering
from mlflow_carbon.units import SECONDS_PER_MINUTE, kwh_from_joules

DESCRIPTION = MeterDescription(
    components=("cpu", "gpu"),
    method_by_component={"cpu": "tdp", "gpu": "counter"},
    cpu_tdp_source="user",
    attribution="whole_node",
    hardware="1x fake GPU, 8 CPU threads",
    tracker="carbontracker 2.4.7",
    problems=(),
)


def reading(
    *,
    cpu_joules: float = 0.0,
    gpu_joules: Sequence[float] = (),
    duration_s: float = 1.0,
    start_unix_s: float = START_UNIX_S,
) -> Reading:
    """Makes the reading of an interval with these energies; without energies it holds no device.

    Args:
        cpu_joules: estimated from the CPU's design power.
        gpu_joules: counted, one for each GPU.
        duration_s: of the interval.
        start_unix_s: when it began.
    """
    devices = [
        DeviceEnergy("gpu", index, kwh_from_joules(joules), "counter")
        for index, joules in enumerate(gpu_joules)
    ]
    if cpu_joules:
        devices.append(DeviceEnergy("cpu", 0, kwh_from_joules(cpu_joules), "tdp"))
    return Reading(
        start_unix_s=start_unix_s,
        duration_s=duration_s,
        devices=tuple(devices),
        coverage_fraction=0.5 if devices else None,
        num_readings=2,
    )


class FakeMeter:
    """Answers each closed window with the next reading that it was given.

    The run's own interval is a window too: it opens first and closes last.

    Attributes:
        scripted: the readings that are left.
        description: the meter's description of itself.
        num_opened: windows so far.
    """

    def __init__(
        self, readings: Sequence[Reading], description: MeterDescription = DESCRIPTION
    ) -> None:
        self.scripted = list(readings)
        self.description = description
        self.num_opened = 0
        self._closed: list[Reading] = []
        self._minute_listeners: list[Callable[[Reading], None]] = []

    def open_window(self) -> OpenWindow:
        """Starts a window."""
        self.num_opened += 1
        return OpenWindow(Snapshot(float(self.num_opened), {}), START_UNIX_S)

    def close_window(self, window: OpenWindow) -> Reading:  # noqa: ARG002  # whichever it is
        """Returns the next reading.

        Raises:
            MeterError: there is no reading left.
        """
        if not self.scripted:
            raise MeterError(
                f"The fake meter has no reading for window {len(self._closed) + 1}; give it one "
                "for each window in the order in which they close, the run's own last."
            )
        self._closed.append(self.scripted.pop(0))
        return self._closed[-1]

    def reading_so_far(self, window: OpenWindow) -> Reading:  # noqa: ARG002  # whichever it is
        """Returns the sum of all closed windows, as if there were nothing between them."""
        return joined(self._closed) if self._closed else reading()

    def every(self, duration_s: float, use: Callable[[Reading], None]) -> Callable[[], None]:
        """Lets the test say by ``on_minute`` when a minute is over.

        Raises:
            MeterError: ``duration_s`` is not a minute.
        """
        if duration_s != SECONDS_PER_MINUTE:
            raise MeterError(f"The fake meter knows minutes only, not {duration_s:g} s.")
        self._minute_listeners.append(use)
        return lambda: self._minute_listeners.remove(use)

    @property
    def on_minute(self) -> Callable[[Reading], None] | None:
        """The function to call with a minute's reading; ``None`` if nothing is registered."""
        return self._tell_minute if self._minute_listeners else None

    def _tell_minute(self, minute: Reading) -> None:
        for use in list(self._minute_listeners):
            use(minute)


@contextmanager
def meter_process_by(meter: EnergyMeter) -> Iterator[None]:
    """Meters every run that starts in the block by this meter, unless the run names another.

    So autologged code, which takes no ``meter=``, is tested without hardware.
    """
    with process_metering().lent(meter):
        yield
