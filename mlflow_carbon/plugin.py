"""What MLflow loads by itself at every ``import mlflow``: our hooks, and no work yet.

MLflow reads this file through its ``mlflow.run_context_provider`` entry point, the only one it
loads unasked. So the file imports as little as it can and must never raise.
"""

import logging
import os
from collections.abc import Callable
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider

from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.launched_runs import PARENT_RUN_ID, parent_tags

_logger = logging.getLogger("mlflow.carbon")


class CarbonContextProvider(RunContextProvider):
    """Makes MLflow import this file, and runs of a metered command children of its run."""

    def in_context(self) -> bool:
        """Returns whether ``mlflow-carbon run`` meters this process."""
        return PARENT_RUN_ID in os.environ

    def tags(self) -> dict[str, str]:
        """Returns the tag of the parent run, where that is in the same store."""
        try:
            from mlflow import get_tracking_uri  # complete by now: a run is about to start

            return parent_tags(get_tracking_uri())
        except Exception:  # no tag is worth a run that does not start
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
