"""Carbon intensities are found by any name of a region, with their set, year and source."""

import csv
import re
from importlib.resources import files

import pytest

from mlflow_carbon.contract.assumptions import resolve_assumptions
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.intensity import (
    basis_notice,
    given_intensity,
    latest_intensities,
    lookup_intensity,
    monthly_intensities,
    stage_notice,
)
from mlflow_carbon.grid.regions import resolve_region


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("Germany", "DE"),
        ("germany", "DE"),
        (" DE ", "DE"),
        ("deu", "DE"),
        ("EU27", "EU27"),
        ("EU", "EU27"),
        ("European Union (27)", "EU27"),
        ("world", "WORLD"),
        ("USA", "US"),
        ("United States", "US"),
        ("UK", "GB"),
        ("South Korea", "KR"),
        ("Czechia", "CZ"),
    ],
)
def test_region_is_known_by_each_of_its_names(name, code):
    assert resolve_region(name) == code


@pytest.mark.parametrize(
    ("region", "g_per_kwh"),
    [("EU27", 251), ("Sweden", 7), ("Germany", 366), ("Poland", 666), ("China", 582), ("US", 390)],
)
def test_table_1_of_the_paper_is_exact(region, g_per_kwh):
    found = lookup_intensity(region, intensity_set="paper_table1")
    assert found.g_per_kwh == g_per_kwh
    assert found.period == "2022"
    assert found.intensity_set == "paper_table1"


def test_month_is_looked_up_in_the_monthly_set_with_its_basis_and_licence():
    found = lookup_intensity("Germany", month="2022-02")
    assert (found.g_per_kwh, found.period, found.region) == (313.5, "2022-02", "DE")
    assert found.intensity_set == "electricity_maps"
    assert "direct" in found.basis
    assert found.licence == "ODbL 1.0"


def test_life_cycle_months_are_a_set_of_their_own():
    direct = lookup_intensity("DE", month="2022-12")
    life_cycle = lookup_intensity("DE", month="2022-12", intensity_set="electricity_maps_lifecycle")
    assert life_cycle.g_per_kwh > direct.g_per_kwh


def test_preferred_set_comes_first_and_the_worldwide_one_fills_in():
    assert lookup_intensity("PL", preferred_set="paper_table1").intensity_set == "paper_table1"
    assert lookup_intensity("FR", preferred_set="paper_table1").intensity_set == "ember"


def test_latest_year_is_taken_unless_one_is_asked_for():
    assert lookup_intensity("EU27").period == "2024"
    assert lookup_intensity("EU27", year=2022).g_per_kwh == 291.55


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"region": "Germny"},
            NoIntensityError,
            "region 'Germny'. Nearest: DE",
        ),
        ({"region": "Atlantis"}, NoIntensityError, "Or give carbon_intensity_g_per_kwh."),
        (
            {"region": "Poland", "month": "2022-02"},
            NoIntensityError,
            "PL in 2022-02. Known months",
        ),
        ({"region": "DE", "month": "2021-02"}, NoIntensityError, "DE 2022-01 to 2023-12"),
        ({"region": "DE", "month": "2022-13"}, InvalidInputError, "month is '2022-13'"),
        ({"region": "DE", "month": "Feb"}, InvalidInputError, "give year and month as 2022-02"),
        (
            {"region": "DE", "intensity_set": "eia"},
            InvalidInputError,
            "is 'eia'; use one",
        ),
        ({"region": "FR", "intensity_set": "paper_table1"}, NoIntensityError, "FR in paper_table1"),
        ({"region": "DE", "year": 1990}, NoIntensityError, "for DE in 1990"),
        (
            {"region": "DE", "intensity_set": "electricity_maps"},
            NoIntensityError,
            "has months only",
        ),
    ],
)
def test_what_is_not_known_is_one_clear_error(arguments, error, message):
    region = arguments.pop("region")
    with pytest.raises(error, match=re.escape(message)):
        lookup_intensity(region, **arguments)


def test_every_row_carries_its_source_and_licence():
    names = ("carbon_intensity_yearly.csv", "electricity_maps_monthly.csv", "paper_regions.csv")
    for name in names:
        text = (files("mlflow_carbon") / "data" / name).read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            assert row["source"], row
            assert row["source_url"].startswith("https://"), row
            assert row["licence"], row
            assert float(row["g_per_kwh"]) >= 0


def test_regions_of_the_paper_are_those_of_the_sets_that_they_come_from():
    text = (files("mlflow_carbon") / "data" / "paper_regions.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["intensity_set"]]
    assert len(rows) == 4
    for row in rows:
        known = lookup_intensity(row["iso2"], year=2022, intensity_set=row["intensity_set"])
        assert known.g_per_kwh == float(row["g_per_kwh"])


@pytest.mark.parametrize(
    ("name", "code"),
    [("EU-27", "EU27"), ("U.S.A.", "US"), ("Côte d’Ivoire", "CI"), ("guinea bissau", "GW")],
)
def test_case_accents_and_punctuation_make_no_difference(name, code):
    assert resolve_region(name) == code


def test_zone_is_no_country_and_says_which_it_lies_in():
    with pytest.raises(NoIntensityError, match="Give DK for the whole"):
        resolve_region("DK-DK1")


def test_two_letters_get_an_offer_too():
    with pytest.raises(NoIntensityError, match=r"'XQ'\. Nearest: [A-Z]{2}"):
        resolve_region("XQ")


def test_mixed_bases_are_named():
    values = [
        lookup_intensity(name, intensity_set="paper_table1") for name in ("SE", "DE", "CN", "SE")
    ]
    bases = [(value.region, value.basis) for value in values]
    assert basis_notice(bases) == (
        "Intensities rest on different bases and do not compare "
        "(SE, DE: production; direct stack GHG (CO2e), gross generation; "
        "CN: production; life-cycle CO2e (Ember via Statista))."
    )
    assert basis_notice(bases[:2]) is None


def test_latest_figure_of_every_region_is_listed_once():
    found = {value.region: value for value in latest_intensities("ember")}
    assert len(found) == len(latest_intensities("ember")) > 200
    assert found["EU27"].period == "2024"
    assert found["EU27"] == lookup_intensity("EU27")


def test_months_are_listed_oldest_first():
    months = monthly_intensities("Germany", intensity_set="electricity_maps_lifecycle")
    assert [month.period for month in months[:2]] == ["2022-01", "2022-02"]
    assert (len(months), months[1].g_per_kwh) == (24, 370.73)


def test_own_figure_is_taken_for_any_place():
    found = given_intensity(123, region="our roof")
    assert (found.g_per_kwh, found.region, found.intensity_set) == (123, "our roof", "given")
    assert given_intensity(123, region="Germany").region == "DE"


def test_year_may_stand_in_the_place_of_the_month():
    found = lookup_intensity("DE", month="2022", intensity_set="eea")
    assert found == lookup_intensity("DE", year=2022, intensity_set="eea")
    with pytest.raises(NoIntensityError, match="No carbon intensity for DE in 1999"):
        lookup_intensity("DE", month="1999")


@pytest.mark.parametrize("month", ["2022", "2022-02"])
def test_a_year_that_only_a_direct_set_has_is_said_not_to_compare(month):
    # ember, the default, is life-cycle and has Germany in 2024; eea and electricity_maps are direct
    notice = stage_notice(lookup_intensity("DE", month=month))
    assert notice.startswith(f"The intensity of DE in {month} is direct (")
    assert notice.endswith("where ember is life-cycle: the two do not compare.")


@pytest.mark.parametrize(
    ("arguments", "expected_set"),
    [
        ({}, "ember"),
        ({"month": "2022-02", "intensity_set": "electricity_maps_lifecycle"}, "ember"),
        ({"month": "2022"}, "paper_table1"),  # direct, as eea is
        ({"month": "2022"}, "no such set"),
    ],
)
def test_figures_of_one_stage_compare(arguments, expected_set):
    assert stage_notice(lookup_intensity("DE", **arguments), expected_set=expected_set) is None


def test_assumptions_say_that_the_month_changed_the_stage():
    sentence = resolve_assumptions(region="DE", month="2022", pue=1.2).sentence()
    assert "DE in 2022 is direct (eea), where ember is life-cycle" in sentence
    chosen = resolve_assumptions(region="DE", month="2022", intensity_set="eea", pue=1.2)
    assert chosen.notice is None  # the user named the set


def test_own_figure_excludes_a_month_and_a_set():
    with pytest.raises(InvalidInputError, match="carbon_intensity_g_per_kwh is one intensity;"):
        resolve_assumptions(carbon_intensity_g_per_kwh=5, month="2022")
