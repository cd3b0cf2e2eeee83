"""Autologging's settings: the arguments of ``autolog()``, else environment variables."""

import os
from collections.abc import Mapping
from dataclasses import fields

from mlflow_carbon.contract.price_order import assumptions_in_order
from mlflow_carbon.grid.price_settings import PriceSettings, chosen_text
from mlflow_carbon.metering.meter_settings import MeterSettings
from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.patches import INTEGRATION
from mlflow_carbon.tracking.tracking_options import TrackingOptions


def chosen_options(environment: Mapping[str, str] = os.environ) -> TrackingOptions:
    """Returns the options by which autologged runs are metered and reported.

    Raises:
        MlflowCarbonError: a setting is out of range; the message names its variable.
    """
    arguments = mlflow_seams.was_called_with(INTEGRATION)
    price = PriceSettings(**{one.name: arguments.get(one.name) for one in fields(PriceSettings)})
    assumptions_in_order(price, environment=environment)  # a bad setting is told at once
    attribution = arguments.get("attribution") or chosen_text("attribution", environment)
    components = arguments.get("components") or chosen_text("components", environment)
    chosen = price.over(PriceSettings.from_environment(environment))
    return TrackingOptions(
        region=chosen.region,
        month=chosen.month,
        pue=chosen.pue,
        intensity_set=chosen.intensity_set,
        carbon_intensity_g_per_kwh=chosen.carbon_intensity_g_per_kwh,
        settings=MeterSettings(
            components=components or MeterSettings.components,
            attribution=attribution or MeterSettings.attribution,
        ),
        is_silent=arguments.get("silent") or None,
    )


def registers_models() -> bool:
    """Returns whether each model that a run logs is registered when the run ends."""
    return bool(mlflow_seams.setting_of(INTEGRATION, "register_models"))


def registered_model_name() -> str | None:
    """Returns the name to register models under; ``None`` for each model's own."""
    name: str | None = mlflow_seams.setting_of(INTEGRATION, "registered_model_name")
    return name
