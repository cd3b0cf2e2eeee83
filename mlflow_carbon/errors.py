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


class MeterError(MlflowCarbonError):
    """The meter cannot measure; callers warn, tag the reason and carry on."""


class CarbonBudgetError(MlflowCarbonError):
    """The next window may exceed the run's carbon budget; raised in the user's loop before it."""
