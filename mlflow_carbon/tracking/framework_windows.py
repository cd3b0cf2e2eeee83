"""Windows for the epochs of Lightning, Transformers, Keras, XGBoost and Carbontracker's users."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow_carbon.contract import keys
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.patches import go_around, is_on

_logger = logging.getLogger("mlflow.carbon")


@dataclass(frozen=True)
class EpochCalls:
    """Which calls of a framework begin and end an epoch of training; they may be the same.

    Attributes:
        module: the module of the class.
        class_name: the class whose methods are called.
        begin: method called before an epoch.
        end: method called after an epoch.
        over: method called when the training is over; later work is in no window.
        unit: name of the unit: an epoch or a round.
    """

    module: str
    class_name: str
    begin: str
    end: str
    over: str
    unit: str = keys.UNIT_EPOCH


FRAMEWORKS = (
    EpochCalls("lightning.pytorch.loops.fit_loop", "_FitLoop", "advance", "advance", "on_run_end"),
    EpochCalls("pytorch_lightning.loops.fit_loop", "_FitLoop", "advance", "advance", "on_run_end"),
    EpochCalls(
        "transformers.trainer_callback",
        "CallbackHandler",
        "on_epoch_begin",
        "on_epoch_end",
        "on_train_end",
    ),
    EpochCalls(
        "keras.src.callbacks.callback_list",
        "CallbackList",
        "on_epoch_begin",
        "on_epoch_end",
        "on_train_end",
    ),
    EpochCalls(  # a round of boosting, by `train` as by the scikit-learn classes
        "xgboost.callback",
        "CallbackContainer",
        "before_iteration",
        "after_iteration",
        "after_training",
        unit=keys.UNIT_ITERATION,
    ),
)
CARBONTRACKER = "carbontracker.tracker"

# Attributes set on the user's own tracker: the run of its epoch, and the window.
_WINDOW = "_mlflow_carbon_window"


def watch_frameworks() -> None:
    """Marks windows from now on in each framework, once it is imported."""
    for calls in FRAMEWORKS:
        _when_imported(calls.module, partial(_watch_epochs, calls))
    _when_imported(CARBONTRACKER, _watch_carbontracker)


def _when_imported(name: str, watch: Callable[[Any], None]) -> None:
    def hook(module: Any) -> None:
        if not is_on():
            return
        try:
            watch(module)
        except Exception as error:  # a version that we do not know: its runs have minutes
            _logger.warning("Epochs of %s are not told apart: %s", name, error)

    mlflow_seams.when_imported(name, hook)


def _watch_epochs(calls: EpochCalls, module: Any) -> None:
    framework = getattr(module, calls.class_name)
    begins, ends = partial(_epoch_begins, calls.unit), partial(_epoch_ends, calls.unit)
    if calls.begin == calls.end:
        go_around(framework, calls.begin, before=begins, after=ends)
    else:
        go_around(framework, calls.begin, before=begins)
        go_around(framework, calls.end, after=ends)
    go_around(framework, calls.over, before=partial(_training_is_over, calls.unit))


def _epoch_begins(unit: str, *_: Any, **__: Any) -> None:
    from mlflow_carbon.tracking.run_lifecycle import current_tracking

    tracking = current_tracking()
    if tracking is not None:
        tracking.epoch_begins(unit)


def _epoch_ends(unit: str, *_: Any, **__: Any) -> None:
    from mlflow_carbon.tracking.run_lifecycle import current_tracking

    tracking = current_tracking()
    if tracking is not None:
        tracking.epoch_ends(unit)


def _training_is_over(unit: str, *_: Any, **__: Any) -> None:
    from mlflow_carbon.tracking.run_lifecycle import current_tracking

    tracking = current_tracking()
    if tracking is not None:
        tracking.epochs_are_over(unit)


def _watch_carbontracker(module: Any) -> None:
    """Makes windows of Carbontracker's epochs; Carbontracker's own figures stay as they are."""
    go_around(module.CarbonTracker, "epoch_start", after=_open_window)
    go_around(module.CarbonTracker, "epoch_end", before=_close_window)
    go_around(module.CarbonTracker, "stop", before=_drop_window)


def _open_window(_: None, carbon_tracker: Any) -> None:
    from mlflow_carbon.tracking.run_lifecycle import current_tracking

    tracking = current_tracking()
    if tracking is not None:
        vars(carbon_tracker)[_WINDOW] = (tracking, tracking.open(keys.UNIT_EPOCH))


def _close_window(carbon_tracker: Any) -> None:
    tracking, window = vars(carbon_tracker).pop(_WINDOW, (None, None))
    if tracking is not None:
        tracking.close(window, 1)


def _drop_window(carbon_tracker: Any) -> None:
    vars(carbon_tracker).pop(_WINDOW, None)
