"""Live intensities from a local server that answers rightly, wrongly, slowly and not at all."""

import ast
import socket
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import mlflow_carbon
from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.grid.providers import PROVIDERS, ask_provider, fetch_intensity, split_zone
from tests.fakes.intensity_server import intensity_server

ELECTRICITY_MAPS = {
    "zone": "DE",
    "carbonIntensity": 322,
    "datetime": "2022-02-01T12:00:00.000Z",
    "emissionFactorType": "lifecycle",
    "isEstimated": True,
}
UK = {
    "data": [
        {
            "from": "2022-02-01T12:00Z",
            "to": "2022-02-01T12:30Z",
            "intensity": {"forecast": 266, "actual": 263, "index": "moderate"},
        }
    ]
}
DENMARK = {
    "records": [
        {"Minutes5UTC": "2022-02-01T12:05:00", "PriceArea": "DK1", "CO2Emission": 100.0},
        {"Minutes5UTC": "2022-02-01T12:05:00", "PriceArea": "DK2", "CO2Emission": 60.0},
        {"Minutes5UTC": "2022-02-01T12:00:00", "PriceArea": "DK1", "CO2Emission": 999.0},
    ]
}
ZONE = {"electricity-maps": "DE", "uk-carbon-intensity": "GB", "energi-data-service": "DK"}
RIGHT = {
    "electricity-maps": ELECTRICITY_MAPS,
    "uk-carbon-intensity": UK,
    "energi-data-service": DENMARK,
}
KEY = "secret-key"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with intensity_server() as running:
        yield running


def fetch(server, provider, zone=None, **options):
    return fetch_intensity(
        provider,
        zone or ZONE[provider],
        api_key=KEY if PROVIDERS[provider].key_variable else None,
        base_url=server.url,
        **options,
    )


@pytest.mark.parametrize(
    ("provider", "zone", "g_per_kwh", "region", "period", "basis"),
    [
        (
            "electricity-maps",
            "Germany",
            322,
            "DE",
            "2022-02-01T12:00:00.000Z",
            "consumption; lifecycle, estimated",
        ),
        (
            "uk-carbon-intensity",
            "uk",
            263,
            "GB",
            "2022-02-01T12:00Z",
            "consumption; direct CO2, actual",
        ),
        (
            "energi-data-service",
            "DK",
            80,  # (100 + 60) / 2, the older 999 left out
            "DK",
            "2022-02-01T12:05:00Z",
            "consumption; direct CO2, mean of DK1 and DK2",
        ),
        (
            "energi-data-service",
            "DK-DK2",
            60,
            "DK",
            "2022-02-01T12:05:00Z",
            "consumption; direct CO2",
        ),
    ],
)
def test_right_answer_is_read_with_its_time_and_basis(
    server, provider, zone, g_per_kwh, region, period, basis
):
    server.answer = RIGHT[provider]
    found = fetch(server, provider, zone)
    assert (found.g_per_kwh, found.region) == (g_per_kwh, region)
    assert (found.period, found.basis) == (period, basis)
    assert found.intensity_set == f"live:{provider}"
    assert found.source_url.startswith("https://")


def test_forecast_stands_in_where_the_actual_figure_is_not_out_yet(server):
    entry = dict(UK["data"][0], intensity={"forecast": 266, "actual": None, "index": "high"})
    server.answer = {"data": [entry]}
    found = fetch(server, "uk-carbon-intensity")
    assert (found.g_per_kwh, found.basis) == (266, "consumption; direct CO2, forecast")


def test_questions_are_well_formed_and_the_key_goes_in_a_header_only(server):
    server.answer = dict(ELECTRICITY_MAPS, zone="US-CAL-CISO")
    fetch(server, "electricity-maps", "US-CAL-CISO")
    server.answer = DENMARK
    fetch(server, "energi-data-service")
    maps, denmark = (urlsplit(path) for path in server.paths)
    assert (maps.path, parse_qs(maps.query)) == (
        "/carbon-intensity/latest",
        {"zone": ["US-CAL-CISO"]},
    )
    assert denmark.path == "/dataset/CO2Emis"
    assert parse_qs(denmark.query)["filter"] == ['{"PriceArea":["DK1","DK2"]}']
    assert server.keys == [KEY, None]


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"data": []},
        {"records": []},
        b"<html>",
        b"",
        b"\xff\xfe",
        {"zone": "DE", "carbonIntensity": None, "datetime": ""},
        {"zone": "DE", "carbonIntensity": -1, "datetime": ""},
        {"zone": "FR", "carbonIntensity": 5, "datetime": ""},
        {"data": [{"from": "", "intensity": {"actual": float("nan")}}]},
    ],
    ids=repr,
)
def test_wrong_answer_is_one_clear_error(server, provider, answer):
    server.answer = answer
    with pytest.raises(NoIntensityError, match=provider):
        fetch(server, provider)


@pytest.mark.parametrize(
    ("status", "message"),
    [(500, "HTTP 500"), (404, "HTTP 404"), (401, r"HTTP 401 \(is the key right\?\)")],
)
def test_refusal_is_named_without_the_key(server, status, message):
    server.answer, server.status = ELECTRICITY_MAPS, status
    with pytest.raises(NoIntensityError, match=message) as caught:
        fetch(server, "electricity-maps")
    assert KEY not in str(caught.value)


def test_redirect_is_not_followed_so_that_no_other_host_sees_the_key(server):
    with intensity_server() as other:
        other.answer = ELECTRICITY_MAPS
        server.status, server.headers_sent = 302, {"Location": other.url}
        with pytest.raises(NoIntensityError, match="HTTP 302"):
            fetch(server, "electricity-maps")
        assert other.paths == []


@pytest.mark.parametrize("is_dripping", [False, True])
def test_slow_server_is_left_after_the_time_out(server, is_dripping):
    server.answer = UK
    server.is_dripping = is_dripping  # 200 bytes, one every 50 ms: each in time, all too late
    server.delay_s = 0.0 if is_dripping else 30.0
    start_s = time.monotonic()
    with pytest.raises(NoIntensityError, match=r"did not answer within 0\.3 s"):
        fetch(server, "uk-carbon-intensity", timeout_s=0.3)
    assert time.monotonic() - start_s < 1.0


def test_time_out_is_three_seconds_unless_told():
    assert fetch_intensity.__kwdefaults__["timeout_s"] == 3.0


def test_dead_server_falls_back_and_says_why():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
    found = ask_provider("uk-carbon-intensity", "GB", environment={}, base_url=dead)
    assert found.intensity == lookup_intensity("GB")
    assert "uk-carbon-intensity cannot be reached" in found.fallback_reason


def test_live_answer_needs_no_fallback(server):
    server.answer = UK
    found = ask_provider("uk-carbon-intensity", "GB", environment={}, base_url=server.url)
    assert (found.intensity.g_per_kwh, found.fallback_reason) == (263, None)


def test_key_comes_from_the_providers_own_variable(server):
    server.answer = ELECTRICITY_MAPS
    environment = {"ELECTRICITY_MAPS_API_KEY": KEY, "OTHER_KEY": "not asked for"}
    found = ask_provider("electricity-maps", "DE", environment=environment, base_url=server.url)
    assert server.keys == [KEY]
    assert KEY not in repr(found)


def test_live_answer_is_what_a_run_assumes_and_no_fallback_is_tagged(server):
    server.answer = ELECTRICITY_MAPS
    environment = {"ELECTRICITY_MAPS_API_KEY": KEY}
    live = ask_provider("electricity-maps", "DE", environment=environment, base_url=server.url)
    assumptions = resolve_assumptions(live=live)
    assert assumptions.intensity.g_per_kwh == 322
    assert assumptions.defaulted == ("pue",)
    tags = assumptions.tags()
    assert tags["carbon.intensity_set"] == "live:electricity-maps"
    assert "carbon.intensity_fallback" not in tags
    assert KEY not in str(tags)


def test_fallback_of_a_zone_is_that_of_its_country(server):
    server.status = 500
    found = ask_provider("energi-data-service", "DK-DK1", environment={}, base_url=server.url)
    assert found.intensity == lookup_intensity("DK")


@pytest.mark.parametrize(
    ("zone", "split"),
    [("US-CAL-CISO", ("US", "CAL-CISO")), ("Timor-Leste", ("TL", "")), ("uk", ("GB", ""))],
)
def test_zone_is_a_country_and_a_part_of_it(zone, split):
    assert split_zone(zone) == split


@pytest.mark.parametrize(
    ("provider", "zone", "key", "error", "message"),
    [
        ("watttime", "DE", None, InvalidInputError, "provider is 'watttime'; use one of"),
        ("uk-carbon-intensity", "DE", None, InvalidInputError, "knows GB only, not 'DE'"),
        ("electricity-maps", "DE", None, InvalidInputError, "set ELECTRICITY_MAPS_API_KEY"),
        ("electricity-maps", "DE", "a\nb", InvalidInputError, "line break"),
        ("electricity-maps", "Atlantis", KEY, NoIntensityError, "region 'Atlantis'"),
    ],
)
def test_question_that_cannot_be_put_is_refused_before_a_socket_opens(
    server, provider, zone, key, error, message
):
    with pytest.raises(error, match=message):
        fetch_intensity(provider, zone, api_key=key, base_url=server.url)
    assert server.paths == []


@pytest.mark.slow
def test_only_providers_imports_what_opens_sockets():
    network = {"socket", "urllib", "http", "requests", "aiohttp", "httpx"}
    importers = set()
    for path in Path(mlflow_carbon.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            if any(n.split(".")[0] in network and n != "urllib.parse" for n in names):
                importers.add(path.stem)
    assert importers == {"providers"}
