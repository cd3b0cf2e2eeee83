"""Switches autologging on and off as ``mlflow.autolog()`` and the environment ask."""

import logging
import os
from collections.abc import Mapping
from typing import Any

from mlflow.utils.autologging_utils.events import AutologgingEventLogger

SWITCH = "MLFLOW_CARBON_AUTOLOG"

_logger = logging.getLogger("mlflow.carbon")


def follow_mlflow() -> None:
    """Listens for ``mlflow.autolog()``, and switches on what the environment switches on."""
    if AutologgingEventLogger._event_logger is None:  # somebody else's stays
        AutologgingEventLogger.set_logger(AutologListener())
    if is_switched_on(os.environ):
        from mlflow_carbon.tracking.autolog import autolog

        autolog()


def is_switched_on(environment: Mapping[str, str]) -> bool | None:
    """Returns what the variable says; ``None`` if it says nothing that can be understood."""
    text = environment.get(SWITCH, "").strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    if text:
        _logger.warning("%s is %r, so it is ignored; give true or false.", SWITCH, text)
    return None


class AutologListener(AutologgingEventLogger):
    """Hears of each call of an ``autolog()``; else it is MLflow's own."""

    def log_autolog_called(self, integration: str, call_args: Any, call_kwargs: Any) -> None:
        """Does with us what ``mlflow.autolog()`` does with all flavors of MLflow."""
        super().log_autolog_called(integration, call_args, call_kwargs)  # type: ignore[no-untyped-call]
        if integration != "mlflow":
            return
        try:
            _follow(call_kwargs)
        except Exception as error:  # ours must not keep the others from being switched
            _logger.warning("Runs are not metered: %s", error)


def _follow(config: Mapping[str, Any]) -> None:
    from mlflow.utils.autologging_utils import (
        AUTOLOGGING_CONF_KEY_IS_GLOBALLY_CONFIGURED,
        AUTOLOGGING_INTEGRATIONS,
    )

    from mlflow_carbon.tracking.autolog import autolog
    from mlflow_carbon.tracking.patches import INTEGRATION, is_on

    if config["disable"]:
        if is_on():
            autolog(disable=True)
        return
    chosen = AUTOLOGGING_INTEGRATIONS[INTEGRATION]
    is_chosen_by_user = chosen and not chosen.get(AUTOLOGGING_CONF_KEY_IS_GLOBALLY_CONFIGURED)
    is_excluded = INTEGRATION in (config.get("exclude_flavors") or ())
    if is_chosen_by_user or is_excluded or is_switched_on(os.environ) is False:
        return
    autolog(silent=config["silent"])
    AUTOLOGGING_INTEGRATIONS[INTEGRATION][AUTOLOGGING_CONF_KEY_IS_GLOBALLY_CONFIGURED] = True
