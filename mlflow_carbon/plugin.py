"""What MLflow loads by itself at every ``import mlflow``: our hooks, and no work yet.

MLflow reads this file through its ``mlflow.run_context_provider`` entry point, the only one it
loads unasked. So the file imports as little as it can and must never raise.
"""

import logging
from typing import Any

from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.utils.import_hooks import register_post_import_hook


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

    loader.MLFLOW_BACKENDS["local"] = CurrentEnvironmentBackend


def _follow_autologging(_: Any) -> None:
    """Lets ``mlflow.autolog()`` and ``MLFLOW_CARBON_AUTOLOG`` switch metering on."""
    try:
        from mlflow_carbon.tracking.mlflow_autolog import follow_mlflow

        follow_mlflow()
    except Exception as error:  # raised here it would break `import mlflow`
        logging.getLogger("mlflow.carbon").warning("Runs are not metered: %s", error)


register_post_import_hook(_replace_local_backend, "mlflow.projects.backend.loader")
register_post_import_hook(_follow_autologging, "mlflow.tracking.fluent")
