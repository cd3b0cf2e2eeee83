"""Autologging's settings: the arguments of ``autolog()``, else environment variables."""

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.meter_settings import MeterSettings
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.patches import INTEGRATION
from mlflow_carbon.tracking.tracking_options import TrackingOptions

PREFIX = "MLFLOW_CARBON_"

T = TypeVar("T")


def chosen_options(environment: Mapping[str, str] = os.environ) -> TrackingOptions:
    """Returns the options by which autologged runs are metered and reported.

    Raises:
        MlflowCarbonError: a setting is out of range; the message names its variable.
    """
    options = TrackingOptions(
        region=_chosen("region", str, environment),
        month=_chosen("month", str, environment),
        pue=_chosen("pue", float, environment),
        intensity_set=_chosen("intensity_set", str, environment),
        carbon_intensity_g_per_kwh=_chosen("carbon_intensity_g_per_kwh", float, environment),
        settings=MeterSettings(
            components=_chosen("components", str, environment) or MeterSettings.components,
            attribution=_chosen("attribution", str, environment) or MeterSettings.attribution,
        ),
    )
    try:
        options.assumptions()
    except InvalidInputError as error:
        arguments = [name for name in error.arguments if _argument(name) is None]
        variables = ", ".join(map(variable_of, arguments))
        if not variables:
            raise
        raise InvalidInputError(f"{error.message.removesuffix('.')} ({variables}).") from None
    return options


def registers_models() -> bool:
    """Returns whether each model that a run logs is registered when the run ends."""
    return bool(mlflow_seams.setting_of(INTEGRATION, "register_models"))


def registered_model_name() -> str | None:
    """Returns the name to register models under; ``None`` for each model's own."""
    name: str | None = mlflow_seams.setting_of(INTEGRATION, "registered_model_name")
    return name


def variable_of(name: str) -> str:
    """Returns the environment variable of a setting, with the word carbon only once."""
    return PREFIX + name.removeprefix("carbon_").upper()


def _argument(name: str) -> Any:
    return mlflow_seams.setting_of(INTEGRATION, name)


def _chosen(name: str, read: Callable[[str], T], environment: Mapping[str, str]) -> T | None:
    """Returns the argument of ``autolog()``; if that is ``None``, the variable's value."""
    argument: T | None = _argument(name)
    variable = variable_of(name)
    text = environment.get(variable, "").strip()
    if argument is not None or not text:
        return argument
    try:
        return read(text)
    except ValueError:
        raise InvalidInputError(f"{variable} is {text!r}; give a number.") from None
