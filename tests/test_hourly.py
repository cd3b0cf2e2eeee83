"""Hourly intensity files: three formats, their means over a run's times, and what is refused."""

from datetime import datetime, timezone

import pytest

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.hourly import (
    EnergySpan,
    intensity_of_spans,
    mean_g_per_kwh,
    read_intensity_file,
)

HOUR_S = 3600.0
MIDNIGHT_S = datetime(2022, 2, 1, tzinfo=timezone.utc).timestamp()

OWN = """timestamp,g_per_kwh
2022-02-01T00:00,100
2022-02-01T01:00,200
2022-02-01T02:00,400
"""
ELECTRICITY_MAPS = (
    "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct),"
    "Carbon intensity gCO₂eq/kWh (Life cycle),Data source\n"
    "2022-02-01 00:00:00,Germany,Germany,DE,313.5,370.73,entsoe.eu\n"
    "2022-02-01 01:00:00,Germany,Germany,DE,300,360,entsoe.eu\n"
)
ELECTRICITY_MAPS_2023 = (
    "Datetime (UTC),Country,Zone Name,Zone Id,Carbon Intensity gCO₂eq/kWh (direct),"
    "Carbon Intensity gCO₂eq/kWh (LCA),Low Carbon Percentage\n"
    "2022-02-01 00:00:00,Germany,Germany,DE,313.5,370.73,50\n"
)
WATTTIME_3 = "point_time,value\n2022-02-01 00:00:00+00:00,1000\n2022-02-01 00:05:00+00:00,500\n"
WATTTIME_2 = "timestamp,MOER,MOER version,frequency\n2022-02-01T00:00:00+00:00,1000,3.2,300\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text, **options):
        path = tmp_path / "hourly.csv"
        path.write_text(text, encoding="utf-8")
        return read_intensity_file(path, **options)

    return read_text


def at(hours):
    return MIDNIGHT_S + hours * HOUR_S


@pytest.mark.parametrize(
    ("text", "options", "g_per_kwh", "basis"),
    [
        (OWN, {}, 100, "as given"),
        (ELECTRICITY_MAPS, {}, 313.5, "consumption; direct"),
        (ELECTRICITY_MAPS, {"basis": "lifecycle"}, 370.73, "consumption; lifecycle"),
        (ELECTRICITY_MAPS_2023, {"basis": "lifecycle"}, 370.73, "consumption; lifecycle"),
        ("\ufeff" + ELECTRICITY_MAPS, {}, 313.5, "consumption; direct"),
        # 1000 lb/MWh × 453.59237 g/lb / 1000 kWh/MWh
        (WATTTIME_3, {}, 453.59237, "marginal; direct CO2"),
        (WATTTIME_2, {}, 453.59237, "marginal; direct CO2"),
    ],
)
def test_each_format_is_read_with_its_basis(read, text, options, g_per_kwh, basis):
    series = read(text, **options)
    assert series.slots[0].start_s == MIDNIGHT_S
    assert series.slots[0].g_per_kwh == pytest.approx(g_per_kwh)
    assert series.basis == basis
    assert "hourly.csv" in series.source


def test_slot_lasts_until_the_next_time_stamp(read):
    assert [slot.end_s - slot.start_s for slot in read(OWN).slots] == [HOUR_S] * 3
    assert [slot.end_s - slot.start_s for slot in read(WATTTIME_3).slots] == [300.0] * 2


def test_rows_need_no_order_and_offsets_are_heard(read):
    series = read("time,g/kWh\n2022-02-01T02:00+01:00,200\n2022-02-01T00:00Z,100\n")
    assert [slot.g_per_kwh for slot in series.slots] == [100, 200]
    assert series.slots[1].start_s == at(1)


def test_mean_weighs_by_time(read):
    # half an hour at 100, an hour at 200, half an hour at 400: (50 + 200 + 200) / 2
    assert mean_g_per_kwh(read(OWN), at(0.5), at(2.5)) == pytest.approx(225)


def test_mean_inside_one_slot_and_of_a_moment(read):
    series = read(OWN)
    assert mean_g_per_kwh(series, at(1.2), at(1.3)) == pytest.approx(200)
    assert mean_g_per_kwh(series, at(2), at(2)) == pytest.approx(400)


def test_mean_agrees_with_minutes_added_up(read):
    series = read(OWN)
    minutes = [series.slots[int((10 + minute) // 60)].g_per_kwh for minute in range(120)]
    assert mean_g_per_kwh(series, at(10 / 60), at(130 / 60)) == pytest.approx(sum(minutes) / 120)


def test_run_is_weighted_by_its_energy_and_named_by_its_times(read):
    # 3 kWh at 100 and 1 kWh at 400: 700 / 4
    spans = [EnergySpan(at(0), at(1), 3.0), EnergySpan(at(2), at(3), 1.0)]
    found = intensity_of_spans(read(OWN), spans, region="DE")
    assert found.g_per_kwh == pytest.approx(175)
    assert found.period == "2022-02-01T00:00Z/2022-02-01T03:00Z"
    assert (found.region, found.intensity_set, found.basis) == ("DE", "file", "as given")


def test_run_without_energy_has_the_mean_of_its_times(read):
    spans = [EnergySpan(at(0), at(1), 0.0), EnergySpan(at(2), at(3), 0.0)]
    assert intensity_of_spans(read(OWN), spans, region="DE").g_per_kwh == pytest.approx(250)


@pytest.mark.parametrize(
    ("start", "end", "missing"),
    [
        (-1, 1, "nothing for 2022-01-31T23:00Z"),
        (2, 4, "nothing for 2022-02-01T03:00Z"),
        (5, 6, "nothing for 2022-02-01T05:00Z"),
    ],
)
def test_time_outside_the_file_is_named(read, start, end, missing):
    with pytest.raises(NoIntensityError, match=missing):
        mean_g_per_kwh(read(OWN), at(start), at(end))


def test_missing_hour_is_a_hole_and_no_longer_hour(read):
    holed = "timestamp,g_per_kwh\n2022-02-01T00:00,1\n2022-02-01T01:00,\n2022-02-01T02:00,4\n"
    more = holed + "2022-02-01T03:00,4\n"
    with pytest.raises(NoIntensityError, match=r"nothing for 2022-02-01T01:00Z.*1 missing"):
        mean_g_per_kwh(read(more), at(0), at(3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has columns a, b"),
        ("", "has columns none"),
        ("timestamp,g_per_kwh\n", "has no row with an intensity"),
        ("timestamp,g_per_kwh\nyesterday,5\n", "In line 2 of"),
        ("timestamp,g_per_kwh\n2022-02-01T00:00,much\n", "could not convert string"),
        ("timestamp,g_per_kwh\n2022-02-01T00:00,-5\n", "the intensity is -5"),
        ("timestamp,g_per_kwh\n2022-02-01T00:00,nan\n", "the intensity is nan"),
        ("timestamp,g_per_kwh\n2022-02-01T00:00,inf\n", "the intensity is inf"),
        (OWN + "2022-02-01T01:00,7\n", "has 2022-02-01T01:00Z twice"),
    ],
)
def test_wrong_file_is_refused_with_the_place(read, text, message):
    with pytest.raises(InvalidInputError, match=message):
        read(text)


def test_missing_file_and_file_that_is_no_text_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_intensity_file(tmp_path / "none.csv")
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        read_intensity_file(binary)


def test_unknown_basis_is_refused(read):
    with pytest.raises(InvalidInputError, match="basis is 'lca'; use one of direct, lifecycle"):
        read(ELECTRICITY_MAPS, basis="lca")
