"""Every exception that this package raises on purpose, in one tree.

::

    MlflowCarbonError             anything below; the user can fix it
    ├── InvalidInputError         a value is out of range               also a ValueError
    ├── NoIntensityError          no carbon intensity is known          also a ValueError
    ├── NoRunsError               the store holds no such run           also a LookupError
    ├── TrackingStoreError        the store or registry cannot be used  also a RuntimeError
    │   └── BadRecordError        a run holds a figure that cannot be
    ├── MeterError                the meter cannot measure              also a RuntimeError
    ├── CarbonBudgetError         the next window may cost too much     also a RuntimeError
    ├── PlotsMissingError         the extra [plots] is not installed    also an ImportError
    ├── ParquetMissingError       the extra [parquet] is not installed  also an ImportError
    └── ldm_project.errors.LdmProjectError, and what hangs below it

A message says what happened, which value, and the fix, in the names of Python's arguments. Where
an argument is at fault, or would help, the exception names it too, so that the command line can
add its own option.
"""

from collections.abc import Sequence


class MlflowCarbonError(Exception):
    """Something the user can fix: the message says what happened, which value, and the fix.

    Attributes:
        message: without the advice to give another argument.
        arguments: Python's names of the arguments whose values are at fault.
        instead: an argument that would help in their place, if there is one.
    """

    def __init__(
        self, message: str = "", *, arguments: Sequence[str] = (), instead: str | None = None
    ) -> None:
        advice = "" if instead is None else f" Or give {instead}."
        super().__init__(message + advice)
        self.message = message
        self.arguments = tuple(arguments)
        self.instead = instead


class InvalidInputError(MlflowCarbonError, ValueError):
    """A value is out of range (negative energy, PUE below 1, an unknown option)."""


class NoIntensityError(MlflowCarbonError, ValueError):
    """No carbon intensity is known for the region and period asked for."""


class NoRunsError(MlflowCarbonError, LookupError):
    """The tracking store has no run that carries what was asked for."""


class TrackingStoreError(MlflowCarbonError, RuntimeError):
    """The tracking store or registry cannot be read."""


class BadRecordError(TrackingStoreError):
    """A run holds a figure that no run can have: not finite, negative, a PUE of 0.5, no number.

    Attributes:
        run_id: the run's.
        field: the metric or tag.
        fault: what it holds, and what it may.
        reason: the same with the run.
    """

    def __init__(self, run_id: str, field: str, value: str, expected: str) -> None:
        self.run_id = run_id
        self.field = field
        self.fault = f"{field} is {value}, not {expected}"
        self.reason = f"{field} of run {run_id} is {value}, not {expected}"
        super().__init__(f"{self.reason}. Correct or delete it.")


class MeterError(MlflowCarbonError, RuntimeError):
    """The meter cannot measure; callers warn, tag the reason and carry on."""


class CarbonBudgetError(MlflowCarbonError, RuntimeError):
    """The next window may exceed the run's carbon budget; raised in the user's loop before it."""


class PlotsMissingError(MlflowCarbonError, ImportError):
    """A package of the extra ``[plots]`` is not installed."""


class ParquetMissingError(MlflowCarbonError, ImportError):
    """A package of the extra ``[parquet]`` is not installed."""
