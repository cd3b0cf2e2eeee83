"""One price for plugin, project and commands: argument, environment, default, in this order."""

import os
from collections.abc import Mapping

from mlflow_carbon.contract.assumptions import Assumptions, Defaults, resolve_assumptions
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.price_settings import PriceSettings, variable_of
from mlflow_carbon.grid.providers import LiveIntensity


def assumptions_in_order(
    chosen: PriceSettings,
    *,
    live: LiveIntensity | None = None,
    defaults: Defaults = Defaults(),  # noqa: B008  # frozen
    environment: Mapping[str, str] = os.environ,
) -> Assumptions:
    """Returns the factors that turn energy into CO2e.

    Args:
        chosen: by arguments, or by parameters of a project.
        live: a provider's answer, used instead of region, month and set.
        defaults: for what neither arguments nor variables choose.
        environment: holds ``MLFLOW_CARBON_REGION`` and so on.

    Raises:
        NoIntensityError: no intensity is known for that region and period.
        InvalidInputError: a setting is out of range; a variable at fault is named.
    """
    lent = PriceSettings.from_environment(environment)
    price = chosen.over(lent)
    if live is not None:
        own = chosen.carbon_intensity_g_per_kwh
        price = PriceSettings(pue=price.pue, carbon_intensity_g_per_kwh=own)
    try:
        return resolve_assumptions(
            region=price.region,
            month=price.month,
            pue=price.pue,
            intensity_set=price.intensity_set,
            carbon_intensity_g_per_kwh=price.carbon_intensity_g_per_kwh,
            live=live,
            defaults=defaults,
        )
    except (InvalidInputError, NoIntensityError) as error:
        variables = _variables_at_fault(error, chosen, price)
        if not variables:
            raise
        message = f"{error.message.removesuffix('.')} ({', '.join(variables)})."
        raise type(error)(message, arguments=error.arguments, instead=error.instead) from None


def _variables_at_fault(
    error: InvalidInputError | NoIntensityError, chosen: PriceSettings, price: PriceSettings
) -> list[str]:
    """Returns the variables, not the arguments, whose values an error is about."""
    names = error.arguments
    if isinstance(error, NoIntensityError):
        names = ("region", "month", "intensity_set")
    return [
        variable_of(name)
        for name in names
        if getattr(chosen, name, None) is None and getattr(price, name, None) is not None
    ]
