"""Switches autologging on and off as ``mlflow.autolog()`` and the environment ask."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from mlflow_carbon.tracking import mlflow_seams

SWITCH = "MLFLOW_CARBON_AUTOLOG"
_FROM_MLFLOW = "globally_configured"  # MLflow's own mark of settings that mlflow.autolog() made

_logger = logging.getLogger("mlflow.carbon")


def follow_mlflow() -> None:
    """Listens for ``mlflow.autolog()``, and switches autologging on if the environment says so."""
    mlflow_seams.listen_for_autolog(follow_autolog)
    if is_switched_on(os.environ):
        from mlflow_carbon.tracking.autolog import autolog

        autolog()


def is_switched_on(environment: Mapping[str, str]) -> bool | None:
    """Returns the variable's value as a bool; ``None`` if it is unset or not understood."""
    text = environment.get(SWITCH, "").strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    if text:
        _logger.warning("%s is %r, so it is ignored; give true or false.", SWITCH, text)
    return None


def follow_autolog(config: Mapping[str, Any]) -> None:
    """Treats this package as ``mlflow.autolog()`` treats the flavors of MLflow.

    Args:
        config: the arguments of ``mlflow.autolog()``.
    """
    from mlflow_carbon.tracking.autolog import autolog
    from mlflow_carbon.tracking.patches import INTEGRATION, is_on

    if config["disable"]:
        if is_on():
            autolog(disable=True)
        return
    chosen = mlflow_seams.was_called_with(INTEGRATION)
    is_chosen_by_user = chosen and not chosen.get(_FROM_MLFLOW)
    is_excluded = INTEGRATION in (config.get("exclude_flavors") or ())
    if is_chosen_by_user or is_excluded or is_switched_on(os.environ) is False:
        return
    autolog(silent=config["silent"])
    mlflow_seams.change_settings(INTEGRATION, **{_FROM_MLFLOW: True})
