"""Reads a run's metrics and tags, and refuses a figure that no run can have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlflow_carbon.errors import BadRecordError

if TYPE_CHECKING:
    from mlflow.entities import Metric

# No run can reach this amount in any unit of the contract. Databases keep infinity as 1.8e308.
MAX_AMOUNT = 1e18
MAX_COUNT = 2**31 - 1
MAX_TIME_MS = 7_258_118_400_000  # the year 2200
MAX_SHOWN = 40  # characters of a value in an error

Histories = Mapping[str, Sequence["Metric"]]


@dataclass(frozen=True)
class Figures:
    """The metrics and tags that a store holds of one run, or of one of its nodes.

    Every method raises ``BadRecordError`` for an impossible value.
    """

    run_id: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]

    def amount(self, key: str, lowest: float = 0.0, highest: float = MAX_AMOUNT) -> float | None:
        """Returns a metric's value; ``None`` if the run has no such metric."""
        value = self.metrics.get(key)
        return None if value is None else self.within(key, value, lowest, highest)

    def tagged_amount(
        self, key: str, lowest: float = 0.0, highest: float = MAX_AMOUNT
    ) -> float | None:
        """Returns the number in a tag; ``None`` if the run has no such tag."""
        text = self.tags.get(key)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self._error(key, text, "a number") from None
        return self.within(key, value, lowest, highest)

    def tagged_count(self, key: str) -> int | None:
        """Returns the whole number in a tag, 0 or more; ``None`` if the run has no such tag."""
        text = self.tags.get(key)
        return None if text is None else self.count_in(key, text)

    def count_in(self, key: str, text: str) -> int:
        """Returns a text as a whole number, 0 or more; ``key`` is for the error."""
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_COUNT))
        if not is_number or int(text) > MAX_COUNT:
            raise self._error(key, text, f"a whole number from 0 to {MAX_COUNT}")
        return int(text)

    def time_ms(self, key: str, value: int | str) -> int:
        """Returns a time stamp in ms; ``key`` is for the error."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_TIME_MS))):
            raise self._error(key, text, "a time between 1970 and 2200")
        return int(self.within(key, int(text), 0, MAX_TIME_MS, "a time between 1970 and 2200"))

    def points(
        self, key: str, histories: Histories, lowest: float = 0.0
    ) -> dict[int, tuple[float, int]]:
        """Returns a series as value and time stamp in ms, by step; empty if it is not given."""
        return {
            point.step: (
                self.within(f"{key} at step {point.step}", point.value, lowest, MAX_AMOUNT),
                self.time_ms(f"time of {key} at step {point.step}", point.timestamp),
            )
            for point in histories.get(key, ())
        }

    def words(self, key: str, text: str) -> dict[str, float]:
        """Returns the amounts in a text of words such as ``cpu=0.5``; ``key`` is for the error."""
        found = {}
        for word in text.split():
            name, _, number = word.rpartition("=")
            try:
                value = float(number)
            except ValueError:
                raise self._error(key, word, "a name, '=' and a number") from None
            found[name] = self.within(f"{name} in {key}", value, 0.0, MAX_AMOUNT)
        return found

    def in_order(self, key: str, histories: Histories) -> list[tuple[int, int, float]]:
        """Returns a curve as step, time stamp in ms and value, in MLflow's order."""
        return sorted(
            (
                point.step,
                self.time_ms(f"time of {key} at step {point.step}", point.timestamp),
                self.within(f"{key} at step {point.step}", point.value, 0.0, MAX_AMOUNT),
            )
            for point in histories.get(key, ())
        )

    def within(
        self, key: str, value: float, lowest: float, highest: float, expected: str | None = None
    ) -> float:
        """Returns a value that is in its range; ``key`` is for the error."""
        is_number = not isinstance(value, str | bytes)  # sqlite keeps text among numbers
        if is_number and math.isfinite(value) and lowest <= value <= highest:
            return value
        raise self._error(key, value, expected or f"from {lowest:g} to {highest:g}")

    def _error(self, key: str, value: object, expected: str) -> BadRecordError:
        return BadRecordError(self.run_id, key, repr(value)[:MAX_SHOWN], expected)


def worded(amounts: Mapping[str, float]) -> str:
    """Returns amounts as ``Figures.words`` reads them, in full precision."""
    return " ".join(f"{name}={float(value)!r}" for name, value in amounts.items())
