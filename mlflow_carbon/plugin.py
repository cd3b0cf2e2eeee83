"""What MLflow loads by itself at every ``import mlflow``: our hooks, and no work yet.

MLflow reads this file through its ``mlflow.run_context_provider`` entry point, the only one it
loads unasked. So the file imports as little as it can and must never raise.
"""

import logging
from collections.abc import Callable
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider

from mlflow_carbon.tracking import mlflow_seams

_logger = logging.getLogger("mlflow.carbon")


class CarbonContextProvider(RunContextProvider):
    """Adds no tag to a run; it exists so that MLflow imports this file."""

    def in_context(self) -> bool:
        """Returns False: there is no tag to add."""
        return False

    def tags(self) -> dict[str, str]:
        """Returns no tag."""
        return {}


def _replace_local_backend(loader: Any) -> None:
    """Lets MLflow projects that ask for it run without conda (see project_backend)."""
    from mlflow_carbon.project_backend import CurrentEnvironmentBackend

    mlflow_seams.replace_local_backend(loader, CurrentEnvironmentBackend)


def _follow_autologging(_: Any) -> None:
    """Lets ``mlflow.autolog()`` and ``MLFLOW_CARBON_AUTOLOG`` switch metering on."""
    why_unsupported = mlflow_seams.why_unsupported()
    if why_unsupported is not None:
        _logger.warning("%s", why_unsupported)
        return
    from mlflow_carbon.tracking.mlflow_autolog import follow_mlflow

    follow_mlflow()


def _when_imported(module_name: str, hook: Callable[[Any], None]) -> None:
    """Calls the hook once the module is imported; what goes wrong in ours is a warning.

    An error raised here would break ``import mlflow`` for everybody.
    """

    def harmless(module: Any) -> None:
        try:
            hook(module)
        except Exception as error:
            _logger.warning("Runs are not metered: %s", error)

    try:
        mlflow_seams.when_imported(module_name, harmless)
    except Exception as error:
        _logger.warning("Runs are not metered: %s", error)


_when_imported(mlflow_seams.PROJECT_LOADER, _replace_local_backend)
_when_imported(mlflow_seams.AFTER_FLUENT, _follow_autologging)
