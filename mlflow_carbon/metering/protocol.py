"""The interface of a meter to the rest of the package; a test may bring its own meter."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mlflow_carbon.contract.measurement import MeterDescription, Reading
from mlflow_carbon.metering.readings import Snapshot


@dataclass(frozen=True, eq=False)
class OpenWindow:
    """An open window; hand it to ``close_window`` once."""

    opened: Snapshot
    start_unix_s: float


class EnergyMeter(Protocol):
    """A started meter: the energy of any number of windows, which may overlap."""

    @property
    def description(self) -> MeterDescription:
        """What is measured here, and how."""
        ...

    def open_window(self) -> OpenWindow:
        """Starts a window; any thread may."""
        ...

    def close_window(self, window: OpenWindow) -> Reading:
        """Returns the energy since the window was opened; a window is closed once."""
        ...

    def reading_so_far(self, window: OpenWindow) -> Reading:
        """Returns the energy from the window's opening to the latest reading; leaves it open."""
        ...

    def every(self, duration_s: float, use: Callable[[Reading], None]) -> Callable[[], None]:
        """Hands the energy of each ``duration_s``, from the latest reading on, to ``use``.

        Returns:
            A function that ends this.
        """
        ...
