"""What autologging does before and after calls of MLflow and of frameworks, and never to them.

MLflow's ``safe_patch`` keeps one session for all threads and integrations: an error of ours would
switch off those of the user for that session. So this goes around calls without one, and shares
with ``safe_patch`` that disabling the integration takes it away.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from mlflow.utils import gorilla
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS, autologging_is_disabled
from mlflow.utils.autologging_utils.safety import _store_patch, _wrap_patch, revert_patches

INTEGRATION = "mlflow_carbon"

_logger = logging.getLogger("mlflow.carbon")

Before = Callable[..., None]  # takes the call's arguments
After = Callable[..., None]  # takes the call's result and its arguments


def go_around(
    destination: type, name: str, *, before: Before | None = None, after: After | None = None
) -> None:
    """Calls ours before and after each call of a method until autologging is disabled.

    The call's result and its errors are the user's; an error of ours is a warning.
    """
    original = gorilla.get_original_attribute(destination, name)

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            if before is not None:
                _try(before, *args, **kwargs)
        except BaseException:  # Ctrl-C while ours waits: the user's call comes first
            original(*args, **kwargs)
            raise
        result = original(*args, **kwargs)
        if after is not None:
            _try(after, result, *args, **kwargs)
        return result

    _store_patch(INTEGRATION, _wrap_patch(destination, name, call))


def is_on() -> bool:
    """Returns whether autologging is switched on."""
    return not autologging_is_disabled(INTEGRATION)


def switch_off() -> None:
    """Takes everything away, as ``autolog(disable=True)`` does."""
    AUTOLOGGING_INTEGRATIONS[INTEGRATION]["disable"] = True
    revert_patches(INTEGRATION)


def _try(ours: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    try:
        ours(*args, **kwargs)
    except Exception as error:  # whatever goes wrong in ours, the user's call goes on
        _logger.warning("Energy is not tracked here: %s: %s", type(error).__name__, error)
