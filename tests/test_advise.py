"""``mlflow-carbon advise``: exact output, here among the others, and the best start."""

import json

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import write_run


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def run_id(client):
    """10 kWh in EU27 at PUE 1.5, in two windows of a minute."""
    return write_run(client, "synthesis", windows=[(5, 1), (5, 1)])


@pytest.fixture
def hourly(tmp_path):
    path = tmp_path / "hourly.csv"
    values = (300, 200, 100, 150)
    rows = [f"2022-02-01T{hour:02d}:00,{value}\n" for hour, value in enumerate(values)]
    path.write_text("timestamp,g_per_kwh\n" + "".join(rows))
    return str(path)


def invoke(*args):
    return CliRunner().invoke(cli, ["advise", *args])


def advise_json(*args):
    result = invoke(*args, "--format", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# 10 kWh × 1.5 × g/kWh; × here: over 251 g/kWh. 105 g / 0.1081 kg a km = 0.971 km, and so on.
TABLE = """\
Where and when the energy of run {run_id} (run) would emit least

Regions by paper_table1, PUE 1.5
Least in Sweden: 105.0 g CO2e, 97% less than here.
rank  region                    period  g/kWh  CO2e (kg)  x best  x here
   1  SE Sweden                 2022        7     0.1050       1  0.0279
   2  EU27 European Union (27)  2022      251      3.765    35.9       1  here
   3  DE Germany                2022      366      5.490    52.3    1.46
   4  PL Poland                 2022      666      9.990    95.1    2.65

"""


def test_table_is_exact_and_here_is_ranked_unasked(run_id):
    text = invoke(run_id, "--region", "Sweden,DE,PL").stdout
    expected = TABLE.format(run_id=run_id)
    assert text[: len(expected)] == expected
    assert "\nAs much as\nregion  period  car (km)" in text


def test_months_are_ranked_year_by_year_and_the_runs_own_is_marked(client):
    tags = {"carbon.region": "DE", "carbon.period": "2022-12"}
    run_id = write_run(client, "a", windows=[(1, 1)], tags=tags)
    rows = [row for row in advise_json(run_id) if row["kind"] == "month"]
    of_2022 = [row for row in rows if row["period"].startswith("2022")]
    assert [row["rank"] for row in of_2022] == list(range(1, 13))
    assert (of_2022[0]["period"], of_2022[-1]["period"]) == ("2022-02", "2022-03")
    assert [row["period"] for row in rows if row["is_here"]] == ["2022-12"]
    # the paper's December over February: 454.68 / 313.5
    (december,) = (row for row in rows if row["is_here"])
    assert december["ratio_to_best"] == pytest.approx(454.68 / 313.5)


def test_every_region_of_the_worldwide_set_is_ranked_where_none_is_named(run_id):
    rows = advise_json(run_id, "--intensity-set", "ember")
    assert len(rows) > 200
    assert {row["intensity_set"] for row in rows} == {"ember"}
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["region"] for row in rows if row["is_here"]] == ["EU27"]
    text = invoke(run_id, "--intensity-set", "ember").stdout
    assert "\nLeast in Lesotho: 312.4 g CO2e, 90% less than here.\n" in text
    lines = text.split("Regions by ember")[1].split("\n\n")[0].splitlines()
    assert len(lines) == 3 + 3 + 1 + 3  # title, answer and head; the best, here and the worst


def test_lifecycle_months_go_with_the_recorded_yearly_set(run_id):
    rows = advise_json(run_id, "--region", "DE", "--intensity-set", "electricity_maps_lifecycle")
    assert {row["intensity_set"] for row in rows} == {"paper_table1", "electricity_maps_lifecycle"}


def test_best_start_saves_against_now(run_id, hourly):
    # 2 minutes: from 02:00 on at 100 g/kWh, now at 300
    now = ("--earliest-start", "2022-02-01T00:30")
    best, at_once = advise_json(run_id, "--intensity-file", hourly, *now)[-2:]
    assert (best["kind"], best["period"], best["g_per_kwh"]) == ("start", "2022-02-01T02:00Z", 100)
    assert (at_once["period"], at_once["is_here"]) == ("2022-02-01T00:30Z", True)
    assert best["ratio_to_here"] == pytest.approx(1 / 3)
    text = invoke(run_id, "--intensity-file", hourly, *now).stdout
    assert "Starts of 120 s to end by 2022-02-01T04:00Z, by own file (hourly.csv)" in text
    assert "the best saves 66.7%" in text


def test_deadline_is_kept(run_id, hourly):
    times = ("--earliest-start", "2022-02-01T00:00Z", "--deadline", "2022-02-01T02:30:00+01:00")
    best = advise_json(run_id, "--intensity-file", hourly, *times)[-2]
    assert (best["period"], best["g_per_kwh"]) == ("2022-02-01T01:00Z", 200)


def test_start_that_cannot_be_bettered_is_one_row(run_id, hourly):
    now = ("--earliest-start", "2022-02-01T02:00")
    starts = [
        row
        for row in advise_json(run_id, "--intensity-file", hourly, *now)
        if row["kind"] == "start"
    ]
    assert [(row["is_here"], row["ratio_to_here"]) for row in starts] == [(True, 1)]


def test_mixed_bases_are_named_with_their_ranking(run_id):
    notices = invoke(run_id, "--region", "SE,CN").stderr
    assert "Regions by paper_table1, PUE 1.5: Intensities rest on different bases" in notices
    assert "No months are known of SE, CN." in notices


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (("--region", "Atlantis"), 1, "region 'Atlantis'"),
        (("--region", "FR"), 1, "No carbon intensity for FR in paper_table1"),
        (("--intensity-set", "eia"), 1, "intensity_set is 'eia'"),
        (("--pue", "0.9"), 1, "PUE is 0.9"),
        (("--deadline", "2022-02-01"), 2, "need --intensity-file"),
        (("--deadline", "soon"), 2, "'soon' is no time"),
        (("--intensity-file", "none.csv"), 1, "cannot be read"),
    ],
)
def test_bad_input_is_one_error(run_id, args, exit_code, message):
    result = invoke(run_id, *args)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert message in result.stderr


def test_start_outside_the_file_names_both_ways_out(run_id, hourly):
    result = invoke(run_id, "--intensity-file", hourly)
    assert result.exit_code == 1
    assert "covers 2022-02-01T00:00Z to 2022-02-01T04:00Z" in result.stderr
    assert "Or pass --earliest-start." in result.stderr


def test_deadline_too_near_is_refused(run_id, hourly):
    times = ("--earliest-start", "2022-02-01T00:00", "--deadline", "2022-02-01T00:01")
    result = invoke(run_id, "--intensity-file", hourly, *times)
    assert "A run of 120 s that starts now ends 60 s after the deadline" in result.stderr
