"""Every exception this project raises on purpose.

MlflowCarbonError              of the plugin
└── LdmProjectError            something the user can fix
    ├── InvalidInputError      a parameter; also a ValueError
    ├── DataError              the CT data
    ├── CheckpointError        a trained model, or the state of a training
    └── CacheError             the folder of what can be made again
"""

try:
    from mlflow_carbon.errors import MlflowCarbonError
except ModuleNotFoundError:  # a registered model contains this package's code without the plugin
    MlflowCarbonError = Exception  # type: ignore[misc,assignment]


class LdmProjectError(MlflowCarbonError):
    """Something the user can fix: the message says what happened, which value, and the fix."""


class InvalidInputError(LdmProjectError, ValueError):
    """A parameter has a value that is not allowed, or two parameters contradict each other."""


class DataError(LdmProjectError):
    """The CT data cannot be read, or is not what the parameters ask for."""


class CheckpointError(LdmProjectError):
    """A checkpoint is missing, truncated, or of another size than asked for."""


class CacheError(LdmProjectError):
    """The folder of what the project can make again cannot be written."""
