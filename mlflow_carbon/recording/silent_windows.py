"""Holds windows that end before a counter has moved, to report them with the following ones."""

from dataclasses import dataclass

from mlflow_carbon.contract.measurement import Reading, joined


@dataclass(frozen=True)
class Work:
    """One window, or several that were too short for a counter: energy and units together."""

    reading: Reading
    num_units: float


class SilentWindows:
    """Merges windows that are shorter than a counter's step until every counter has moved."""

    def __init__(self) -> None:
        self._unit: str | None = None
        self._waiting: list[Work] = []

    def add(self, reading: Reading, num_units: float, unit: str) -> Work | None:
        """Adds a window and returns the merged work; ``None`` while a device has no energy yet.

        Args:
            reading: of the newest window.
            num_units: units that the window did.
            unit: what the window counts; windows of different units are not merged.
        """
        if unit != self._unit:
            self._unit, self._waiting = unit, []
        self._waiting.append(Work(reading, num_units))
        if reading.silent:
            return None
        waiting, self._waiting = self._waiting, []
        if reading.energy_kwh is None:  # lost, with the energy of the windows before
            return None
        return Work(
            joined([work.reading for work in waiting]), sum(work.num_units for work in waiting)
        )
