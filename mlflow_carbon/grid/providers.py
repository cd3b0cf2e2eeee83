"""Live carbon intensity over the network; opens a socket only when a provider is named."""

import json
import math
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.intensity import DEFAULT_SET, CarbonIntensity, lookup_intensity
from mlflow_carbon.grid.regions import resolve_region

TIMEOUT_S = 3.0
LIVE_SET_PREFIX = "live:"
MAX_ANSWER_BYTES = 1_000_000


@dataclass(frozen=True)
class Provider:
    """A provider of live intensities: how to ask it, and how to read its answer.

    Attributes:
        name: the user's name for the provider.
        base_url: address of its interface.
        regions: ISO 3166-1 alpha-2 codes it knows; ``None`` for the whole world.
        key_variable: the environment variable with its key; ``None`` if it needs no key.
        path: makes the rest of the address from a zone.
        parse: reads the answer for a zone and returns intensity in g/kWh, period, basis.
        source: the publisher.
        licence: terms of use.
    """

    name: str
    base_url: str
    regions: tuple[str, ...] | None
    key_variable: str | None
    path: Callable[[str], str]
    parse: Callable[[Any, str], tuple[float, str, str]]
    source: str
    licence: str


@dataclass(frozen=True)
class LiveIntensity:
    """An intensity and, if it is not live, the reason why (for a tag)."""

    intensity: CarbonIntensity
    fallback_reason: str | None


class _NoRedirects(HTTPRedirectHandler):
    """Follows no redirect, which would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Returns nothing, so that the answer counts as an error."""


def fetch_intensity(
    provider: str,
    zone: str,
    *,
    api_key: str | None = None,
    base_url: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> CarbonIntensity:
    """Asks a provider over the network for the present carbon intensity of a zone.

    Args:
        provider: a name in ``PROVIDERS``.
        zone: any name of a country, or a zone of the provider that begins with its ISO code
            (``DK-DK1``, ``US-CAL-CISO``).
        api_key: for providers that need one; sent to ``base_url`` only.
        base_url: another address of the same interface; ``None`` for the public one.
        timeout_s: time limit for the whole answer, whatever the server does.

    Raises:
        InvalidInputError: there is no such provider, it does not know the zone, or needs a key.
        NoIntensityError: the provider did not answer in time, or without an intensity.
    """
    chosen = _provider(provider)
    region, code = zone_code(zone)
    answer = ask_zone(
        provider, zone, chosen.path(code), api_key=api_key, base_url=base_url, timeout_s=timeout_s
    )
    try:
        g_per_kwh, period, basis = chosen.parse(answer, code)
        is_intensity = math.isfinite(g_per_kwh) and g_per_kwh >= 0
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NoIntensityError(
            f"{provider} answered for {code}, but not in the form that is known: {error!r}. "
            "Name a region and year instead."
        ) from error
    if not is_intensity:
        raise NoIntensityError(
            f"{provider} says {g_per_kwh} g/kWh for {code}, which is no intensity."
        )
    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        region=region,
        period=period,
        intensity_set=LIVE_SET_PREFIX + chosen.name,
        basis=basis,
        source=f"{chosen.source}, zone {code}",
        source_url=chosen.base_url,
        licence=chosen.licence,
    )


def ask_provider(
    provider: str,
    zone: str,
    *,
    environment: Mapping[str, str],
    preferred_set: str = DEFAULT_SET,
    base_url: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> LiveIntensity:
    """Returns the live intensity; failing that, the latest year's and why it is not live.

    Args:
        provider: a name in ``PROVIDERS``.
        zone: as in ``fetch_intensity``; the fall-back is the figure of the whole country.
        environment: holds the key of a provider that needs one.
        preferred_set: where the fall-back is looked up first.
        base_url: another address of the same interface; ``None`` for the public one.
        timeout_s: as in ``fetch_intensity``.

    Raises:
        NoIntensityError: there is no such region.
        InvalidInputError: there is no such provider, it does not know the zone, or needs a key,
            all of which the user can correct before the run.
    """
    api_key = api_key_of(provider, environment)
    fallback = lookup_intensity(split_zone(zone)[0], preferred_set=preferred_set)
    try:
        found = fetch_intensity(
            provider, zone, api_key=api_key, base_url=base_url, timeout_s=timeout_s
        )
    except NoIntensityError as error:
        return LiveIntensity(fallback, str(error))
    return LiveIntensity(found, None)


def ask_zone(
    provider: str,
    zone: str,
    path: str,
    *,
    api_key: str | None,
    base_url: str | None,
    timeout_s: float,
) -> Any:
    """Returns a provider's answer about a zone as JSON.

    Args:
        provider: a name in ``PROVIDERS``.
        zone: as in ``fetch_intensity``.
        path: the rest of the address.
        api_key: for providers that need one; sent to ``base_url`` only.
        base_url: another address of the same interface; ``None`` for the public one.
        timeout_s: time limit for the whole answer.

    Raises:
        InvalidInputError: there is no such provider, it does not know the zone, or needs a key.
        NoIntensityError: the provider did not answer in time, or not in JSON.
    """
    chosen = _provider(provider)
    _check_question(chosen, zone, api_key)
    headers = {"auth-token": api_key} if chosen.key_variable and api_key else {}
    return _answer(chosen.name, (base_url or chosen.base_url) + path, headers, timeout_s)


def api_key_of(provider: str, environment: Mapping[str, str]) -> str | None:
    """Returns the key of a provider; ``None`` if it needs none, or none is set.

    Raises:
        InvalidInputError: there is no such provider.
    """
    variable = _provider(provider).key_variable
    return None if variable is None else environment.get(variable)


def zone_code(zone: str) -> tuple[str, str]:
    """Returns the country's code of a zone, and the zone in the words of providers.

    Raises:
        NoIntensityError: no region is called that.
    """
    region, part = split_zone(zone)
    return region, f"{region}-{part}" if part else region


def check_provider(provider: str, zone: str, *, environment: Mapping[str, str]) -> None:
    """Checks, without using the network, that a provider can be asked for a zone.

    Raises:
        NoIntensityError: there is no such region.
        InvalidInputError: there is no such provider, it does not know the zone, or needs a key.
    """
    _check_question(_provider(provider), zone, api_key_of(provider, environment))


def split_zone(zone: str) -> tuple[str, str]:
    """Splits a zone into its country's code and the part of it: ``DK-DK1`` is DK and DK1.

    Raises:
        NoIntensityError: no region is called that.
    """
    country, _, part = zone.partition("-")
    try:
        return resolve_region(zone), ""  # Timor-Leste
    except NoIntensityError:
        return resolve_region(country), part


def _provider(name: str) -> Provider:
    if name not in PROVIDERS:
        raise InvalidInputError(
            f"provider is {name!r}; use one of {', '.join(PROVIDERS)}.", arguments=["provider"]
        )
    return PROVIDERS[name]


def _check_question(chosen: Provider, zone: str, api_key: str | None) -> None:
    """Checks the parts of a question that the user can correct.

    Raises:
        NoIntensityError: there is no such region.
        InvalidInputError: the provider does not know the zone, or the key is missing or broken.
    """
    region, _ = split_zone(zone)
    if chosen.regions is not None and region not in chosen.regions:
        raise InvalidInputError(
            f"{chosen.name} knows {', '.join(chosen.regions)} only, not {zone!r}; "
            "name another provider."
        )
    if chosen.key_variable is not None and not api_key:
        raise InvalidInputError(
            f"{chosen.name} needs a key; set {chosen.key_variable}, or name another provider."
        )
    if api_key and not api_key.isprintable():
        raise InvalidInputError("The key holds a line break or control character; pass it without.")


def _answer(name: str, address: str, headers: Mapping[str, str], timeout_s: float) -> Any:
    """Returns the JSON at an address.

    A socket's own time-out restarts with every byte and does not cover the name look-up, so the
    request runs in a thread, which is abandoned when the time is up.
    """
    answers: queue.Queue[tuple[Any, str | None]] = queue.Queue()
    asker = threading.Thread(
        target=lambda: answers.put(_ask(address, headers, timeout_s)),
        name="mlflow-carbon-intensity",
        daemon=True,
    )
    asker.start()
    try:
        found, reason = answers.get(timeout=timeout_s)
    except queue.Empty:
        found, reason = None, f"did not answer within {timeout_s:g} s"
    if reason is not None:
        raise NoIntensityError(f"{name} {reason}. Name a region and year instead, or try later.")
    return found


def _ask(address: str, headers: Mapping[str, str], timeout_s: float) -> tuple[Any, str | None]:
    """Returns the JSON at an address, or the reason why it could not be had."""
    request = Request(address, headers={"Accept": "application/json", **headers})
    try:
        with build_opener(_NoRedirects).open(request, timeout=timeout_s) as response:
            return json.loads(response.read(MAX_ANSWER_BYTES)), None
    except HTTPError as error:
        with error:
            hint = " (is the key right?)" if error.code in (401, 403) else ""
            return None, f"answered HTTP {error.code}{hint}"
    except TimeoutError:
        return None, f"did not answer within {timeout_s:g} s"
    except (URLError, OSError, HTTPException) as error:
        return None, f"cannot be reached ({getattr(error, 'reason', error)})"
    except ValueError:
        return None, "did not answer in JSON"


def _electricity_maps(answer: Any, zone: str) -> tuple[float, str, str]:
    if answer["zone"] != zone:
        raise ValueError(f"the answer is for zone {answer['zone']!r}")
    estimated = ", estimated" if answer.get("isEstimated") else ""
    kind = answer.get("emissionFactorType", "lifecycle")
    return float(answer["carbonIntensity"]), answer["datetime"], f"consumption; {kind}{estimated}"


def _uk_carbon_intensity(answer: Any, _: str) -> tuple[float, str, str]:
    entry = answer["data"][0]
    actual = entry["intensity"]["actual"]
    kind = "forecast" if actual is None else "actual"
    value = float(entry["intensity"][kind])
    return value, entry["from"], f"consumption; direct CO2, {kind}"


def _energi_data_service(answer: Any, zone: str) -> tuple[float, str, str]:
    newest: dict[str, Any] = {}
    for record in answer["records"]:  # newest first
        newest.setdefault(record["PriceArea"], record)
    wanted = [zone.partition("-")[2]] if "-" in zone else ["DK1", "DK2"]
    values = [float(newest[area]["CO2Emission"]) for area in wanted]
    period = min(newest[area]["Minutes5UTC"] for area in wanted)
    mixed = "" if len(wanted) == 1 else ", mean of DK1 and DK2"
    return math.fsum(values) / len(values), f"{period}Z", f"consumption; direct CO2{mixed}"


def _energi_data_service_path(_: str) -> str:
    # both areas every 5 minutes: the last half hour
    query = {"limit": 12, "sort": "Minutes5UTC desc", "filter": '{"PriceArea":["DK1","DK2"]}'}
    return f"/dataset/CO2Emis?{urlencode(query)}"


# Sources: https://portal.electricitymaps.com/docs/api, https://carbon-intensity.github.io/api-definitions,
# https://www.energidataservice.dk/tso-electricity/CO2Emis
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            name="electricity-maps",
            base_url="https://api.electricitymaps.com/v3",
            regions=None,
            key_variable="ELECTRICITY_MAPS_API_KEY",
            path=lambda zone: f"/carbon-intensity/latest?{urlencode({'zone': zone})}",
            parse=_electricity_maps,
            source="Electricity Maps API",
            licence="by the key's contract",
        ),
        Provider(
            name="uk-carbon-intensity",
            base_url="https://api.carbonintensity.org.uk",
            regions=("GB",),
            key_variable=None,
            path=lambda _: "/intensity",
            parse=_uk_carbon_intensity,
            source="NESO Carbon Intensity API",
            licence="CC BY 4.0",
        ),
        Provider(
            name="energi-data-service",
            base_url="https://api.energidataservice.dk",
            regions=("DK",),
            key_variable=None,
            path=_energi_data_service_path,
            parse=_energi_data_service,
            source="Energinet, Energi Data Service, CO2Emis",
            licence="Energinet's conditions for the use of public data",
        ),
    )
}
