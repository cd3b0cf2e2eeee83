"""Forecasts of carbon intensity over the network, hour by hour, from the providers of live ones."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, slots_of, time_text
from mlflow_carbon.grid.providers import PROVIDERS, TIMEOUT_S, ask_zone, zone_code
from mlflow_carbon.units import unix_s_from_iso8601

_DANISH_AREAS = ("DK1", "DK2")


@dataclass(frozen=True)
class _Forecast:
    """How a provider is asked for its forecast, and how its answer is read.

    Attributes:
        path: makes the rest of the address from a zone and the present time in s since 1970.
        parse: yields time in s since 1970 and intensity in g/kWh from the answer for a zone.
        basis: what the figures rest on.
    """

    path: Callable[[str, float], str]
    parse: Callable[[Any, str], Iterator[tuple[float, float]]]
    basis: str


def fetch_forecast(
    provider: str,
    zone: str,
    *,
    now_s: float,
    api_key: str | None = None,
    base_url: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> IntensitySeries:
    """Asks a provider over the network how the carbon intensity of a zone will be.

    Args:
        provider: a name in ``PROVIDERS``; each of them has a forecast.
        zone: any name of a country, or a zone of the provider that begins with its ISO code.
        now_s: from when on, in s since 1970.
        api_key: for providers that need one; sent to ``base_url`` only.
        base_url: another address of the same interface; ``None`` for the public one.
        timeout_s: time limit for the whole answer.

    Raises:
        InvalidInputError: there is no such provider, it does not know the zone, or needs a key.
        NoIntensityError: the provider did not answer in time, or without a forecast.
    """
    if provider not in PROVIDERS:
        raise InvalidInputError(
            f"provider is {provider!r}; use one of {', '.join(PROVIDERS)}.", arguments=["provider"]
        )
    asked = _FORECASTS[provider]
    _, code = zone_code(zone)
    answer = ask_zone(
        provider,
        zone,
        asked.path(code, now_s),
        api_key=api_key,
        base_url=base_url,
        timeout_s=timeout_s,
    )
    try:
        points = sorted(asked.parse(answer, code))
        slots = tuple(slots_of(points, of=provider))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NoIntensityError(
            f"{provider} answered for {code}, but with no forecast that is known: {error}."
        ) from error
    if not all(math.isfinite(value) and value >= 0 for _, value in points):
        raise NoIntensityError(f"{provider} foretells intensities of {code} that none can have.")
    return IntensitySeries(slots, asked.basis, f"forecast of {PROVIDERS[provider].source}, {code}")


def _electricity_maps(answer: Any, zone: str) -> Iterator[tuple[float, float]]:
    if answer["zone"] != zone:
        raise ValueError(f"the answer is for zone {answer['zone']!r}")
    for entry in answer["forecast"]:
        yield unix_s_from_iso8601(entry["datetime"]), float(entry["carbonIntensity"])


def _uk_carbon_intensity(answer: Any, _: str) -> Iterator[tuple[float, float]]:
    for entry in answer["data"]:
        yield unix_s_from_iso8601(entry["from"]), float(entry["intensity"]["forecast"])


def _energi_data_service(answer: Any, zone: str) -> Iterator[tuple[float, float]]:
    """Yields the mean of the areas asked for, at each time that has a value of all of them."""
    wanted = [zone.partition("-")[2]] if "-" in zone else list(_DANISH_AREAS)
    by_time: dict[str, dict[str, float]] = {}
    for record in answer["records"]:
        if record["PriceArea"] in wanted:
            of_time = by_time.setdefault(record["Minutes5UTC"], {})
            of_time[record["PriceArea"]] = float(record["CO2Emission"])
    for time, values in by_time.items():
        if len(values) == len(wanted):
            yield unix_s_from_iso8601(time), math.fsum(values.values()) / len(values)


def _energi_data_service_path(_: str, now_s: float) -> str:
    # both areas every 5 minutes, two days on at most; from the slot before, which is now's
    query = {
        "start": time_text(now_s - 300).removesuffix("Z"),
        "timezone": "UTC",
        "sort": "Minutes5UTC asc",
        "limit": 1200,
        "filter": '{"PriceArea":["DK1","DK2"]}',
    }
    return f"/dataset/CO2EmisProg?{urlencode(query)}"


# Sources: https://portal.electricitymaps.com/docs/api, https://carbon-intensity.github.io/api-definitions,
# https://www.energidataservice.dk/tso-electricity/CO2EmisProg
_FORECASTS = {
    "electricity-maps": _Forecast(
        path=lambda zone, _: f"/carbon-intensity/forecast?{urlencode({'zone': zone})}",
        parse=_electricity_maps,
        basis="consumption; lifecycle, forecast",
    ),
    "uk-carbon-intensity": _Forecast(
        path=lambda _, now_s: f"/intensity/{time_text(now_s)}/fw48h",
        parse=_uk_carbon_intensity,
        basis="consumption; direct CO2, forecast",
    ),
    "energi-data-service": _Forecast(
        path=_energi_data_service_path,
        parse=_energi_data_service,
        basis="consumption; direct CO2, forecast",
    ),
}
