"""What autologging is told: by the arguments of ``autolog()``, else by environment variables."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.meter_settings import MeterSettings
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.patches import INTEGRATION
from mlflow_carbon.tracking.tracking_options import TrackingOptions

PREFIX = "MLFLOW_CARBON_"

T = TypeVar("T")


def chosen_options(environment: Mapping[str, str] = os.environ) -> TrackingOptions:
    """Returns how autologged runs are metered and reported.

    Raises:
        MlflowCarbonError: a setting is none; it names the variable that it is from.
    """
    options = TrackingOptions(
        region=_chosen("region", str, environment),
        month=_chosen("month", str, environment),
        pue=_chosen("pue", float, environment),
        intensity_set=_chosen("intensity_set", str, environment),
        settings=MeterSettings(
            components=_chosen("components", str, environment) or MeterSettings.components,
            attribution=_chosen("attribution", str, environment) or MeterSettings.attribution,
        ),
    )
    options.assumptions()
    return options


def registers_models() -> bool:
    """Returns whether each model that a run logs is registered when the run ends."""
    return bool(mlflow_seams.setting_of(INTEGRATION, "register_models"))


def registered_model_name() -> str | None:
    """Returns the name to register models under; ``None`` for each model's own."""
    name: str | None = mlflow_seams.setting_of(INTEGRATION, "registered_model_name")
    return name


def _chosen(name: str, read: Callable[[str], T], environment: Mapping[str, str]) -> T | None:
    """Returns the argument of ``autolog()``; where that is open, the variable's value."""
    argument: T | None = mlflow_seams.setting_of(INTEGRATION, name)
    variable = f"{PREFIX}{name.upper()}"
    text = environment.get(variable, "").strip()
    if argument is not None or not text:
        return argument
    try:
        return read(text)
    except ValueError:
        raise InvalidInputError(f"{variable} is {text!r}; give a number.") from None
