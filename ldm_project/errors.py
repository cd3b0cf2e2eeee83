"""Every exception that this project raises on purpose; they hang below those of the plugin."""

from mlflow_carbon.errors import MlflowCarbonError


class LdmProjectError(MlflowCarbonError):
    """Something the user can fix: the message says what happened, which value, and the fix."""


class InvalidInputError(LdmProjectError, ValueError):
    """A parameter is outside what it may be, or two parameters contradict each other."""


class DataError(LdmProjectError):
    """The CT data cannot be read, or is not what the parameters ask for."""


class CheckpointError(LdmProjectError):
    """A checkpoint is missing, truncated, or of another size than asked for."""


class CacheError(LdmProjectError):
    """The folder of what the project can make again cannot be written."""
