"""Every exception this package raises on purpose."""


class MlflowCarbonError(Exception):
    """Something the user can fix: the message says what happened, which value, and the fix."""


class InvalidInputError(MlflowCarbonError):
    """A value is outside what it may be (negative energy, PUE below 1, an unknown option)."""


class NoIntensityError(MlflowCarbonError):
    """No carbon intensity is known for the region and period asked for."""


class NoRunsError(MlflowCarbonError):
    """The tracking store has no run that carries what was asked for."""


class TrackingStoreError(MlflowCarbonError):
    """The tracking store or registry cannot be read."""


class BadRecordError(TrackingStoreError):
    """A run holds a figure that no run can have: not finite, negative, a PUE of 0.5, no number.

    Attributes:
        run_id: the run's.
        field: the metric or tag.
        reason: where it is, what it holds, and what it may.
    """

    def __init__(self, run_id: str, field: str, value: str, expected: str) -> None:
        self.run_id = run_id
        self.field = field
        self.reason = f"{field} of run {run_id} is {value}, not {expected}"
        super().__init__(f"{self.reason}. Correct or delete it.")


class MeterError(MlflowCarbonError):
    """The meter cannot measure; callers warn, tag the reason and carry on."""


class CarbonBudgetError(MlflowCarbonError):
    """The next window may exceed the run's carbon budget; raised in the user's loop before it."""
