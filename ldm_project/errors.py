"""Every exception this project raises on purpose.

    Exception
    └── LdmProjectError            something the user can fix
        ├── InvalidInputError      a parameter; also a ValueError
        ├── DataError              the CT data
        ├── CheckpointError        a trained model, or the state of a training
        └── CacheError             the folder of what can be made again

The tree is the project's own and does not hang below ``mlflow_carbon.errors``: a registered model
carries this package as its code and is loaded where the plugin need not be installed. Only
``runs`` and the command line know both trees, and the command line turns either into one line.
"""


class LdmProjectError(Exception):
    """Something the user can fix: the message says what happened, which value, and the fix."""


class InvalidInputError(LdmProjectError, ValueError):
    """A parameter is outside what it may be, or two parameters contradict each other."""


class DataError(LdmProjectError):
    """The CT data cannot be read, or is not what the parameters ask for."""


class CheckpointError(LdmProjectError):
    """A checkpoint is missing, truncated, or of another size than asked for."""


class CacheError(LdmProjectError):
    """The folder of what the project can make again cannot be written."""
