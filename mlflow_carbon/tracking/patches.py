"""What autologging does before and after calls of MLflow and of frameworks, and never to them.

MLflow's ``safe_patch`` keeps one session for all threads and integrations: an error of ours would
switch off those of the user for that session. So this goes around calls without one.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

from mlflow_carbon.tracking import mlflow_seams

INTEGRATION = "mlflow_carbon"

_logger = logging.getLogger("mlflow.carbon")

Before = Callable[..., None]  # takes the call's arguments
After = Callable[..., None]  # takes the call's result and its arguments

_INHERITED = object()
# What was in the place of each method that we go around now: classes are shared by the process.
_replaced: dict[tuple[type, str], Any] = {}


def go_around(
    destination: type, name: str, *, before: Before | None = None, after: After | None = None
) -> None:
    """Calls ours before and after each call of a method until ``take_away``.

    The call's result and its errors are the user's; an error of ours is a warning. A method that
    we go around already gets the new calls in place of the old.
    """
    take_away_from(destination, name)
    original = getattr(destination, name)

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

    _replaced[destination, name] = vars(destination).get(name, _INHERITED)
    setattr(destination, name, call)


def take_away_from(destination: type, name: str) -> None:
    """Gives a method back as it was."""
    replaced = _replaced.pop((destination, name), None)
    if replaced is _INHERITED:
        delattr(destination, name)
    elif replaced is not None:
        setattr(destination, name, replaced)


def take_away() -> None:
    """Gives all methods back as they were."""
    for destination, name in list(_replaced):
        take_away_from(destination, name)


def is_on() -> bool:
    """Returns whether autologging is switched on."""
    return mlflow_seams.is_enabled(INTEGRATION)


def switch_off() -> None:
    """Takes everything away, as ``autolog(disable=True)`` does."""
    mlflow_seams.change_settings(INTEGRATION, disable=True)
    take_away()


def _try(ours: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    try:
        ours(*args, **kwargs)
    except Exception as error:  # whatever goes wrong in ours, the user's call goes on
        _logger.warning("Energy is not tracked here: %s: %s", type(error).__name__, error)
