"""``mlflow-carbon predict``: exact output, and every figure against a computation by hand."""

import csv
import json
from importlib.resources import files

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.contract import keys
from tests.fakes.metered_runs import write_run

# Windows of 9, 10 and 11 kWh a sample: mean 10, s = 1, n = 3. 100 samples: 1000 kWh, spread
# 1 × 100, interval t(0.975, 2) √(100²/3 + 100) = 4.3027 × 58.595 = 252.1. PUE 1.5 and 250 g/kWh:
# × 375 g; Sweden 7 g/kWh: × 10.5 g.
TABLE = """\
100 samples, by run {run_id} (run)
              region  expected  ± spread  95% prediction interval  PUE  g/kWh
energy (MWh)             1.000      0.10            0.748 to 1.25    -      -
CO2e (kg)     EU27       376.5        38               282 to 471  1.5    251
CO2e (kg)     SE         10.50       1.1             7.85 to 13.1  1.5      7

CO2e by EU27 251 g/kWh (2022, paper_table1); SE 7 g/kWh (2022, paper_table1)
n: 3 windows of 3 samples in all; effective n 3; distinct power readings 3; coverage 100%
spread: std per sample of the windows x 100, what the paper prints as ±; not the error of the total
prediction interval, windows taken as independent: the total lies there with 95% probability

The expected CO2e is as much as
region  car (km)  phone charges  flight (km)  trees  1.5 °C budget (%)
EU27        3483          30363         1559   6.28               32.5
SE          97.1            847         43.5  0.175              0.907

car: EU new cars 2022, final; phone: EPA, current; flight: paper, implied per
km; tree: EPA 2023; budget: 250 Gt, 8 billion people, 27 years; trees: what
they take up in ten years.
Ranges and sources: mlflow-carbon equivalents KG
"""


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def run_id(client):
    return write_run(client, "synthesis", windows=[(9, 1), (10, 1), (11, 1)])


def predict(*args):
    result = CliRunner().invoke(cli, ["predict", *args])
    assert result.exit_code == 0, result.output
    return result


def predict_json(*args):
    return json.loads(predict(*args, "--format", "json").stdout)


def test_table_is_exact(run_id):
    result = predict(run_id, "--samples", "100", "--region", "EU27,Sweden")
    assert result.stdout == TABLE.format(run_id=run_id)


def test_notices_say_what_the_reader_must_know(run_id):
    notices = predict(run_id, "--samples", "100").stderr
    assert "Windows are taken as independent: 3 are too few to tell" in notices
    assert "Only 3 distinct power readings in 3 windows" in notices


def test_json_has_spread_and_interval_each_under_its_own_name(run_id):
    (row,) = predict_json("latest", "--units", "100")
    assert row["energy_kwh"] == pytest.approx(1000)
    assert row["energy_kwh_spread"] == pytest.approx(100)
    assert row["energy_kwh_prediction_low"] == pytest.approx(1000 - 252.1, abs=0.05)
    assert row["energy_kwh_prediction_high"] == pytest.approx(1000 + 252.1, abs=0.05)
    assert row["co2e_g"] == pytest.approx(375_000)
    assert row["co2e_g_spread"] == pytest.approx(37_500)
    assert (row["num_windows"], row["num_distinct_readings"]) == (3, 3)
    assert row["effective_num_windows"] == 3
    assert (row["region"], row["pue"]) == ("EU27", 1.5)


@pytest.mark.parametrize(
    ("args", "g_per_kwh"),
    [
        (("--region", "Germany", "--month", "2022-02"), 313.5),
        (("--carbon-intensity-g-per-kwh", "123"), 123),
        (("--region", "SE", "--pue", "3"), 7),
    ],
)
def test_any_region_month_and_pue(run_id, args, g_per_kwh):
    (row,) = predict_json(run_id, "--samples", "100", *args)
    assert row["intensity_g_per_kwh"] == g_per_kwh
    assert row["co2e_g"] == pytest.approx(1000 * row["pue"] * g_per_kwh)


def test_intensity_file_is_weighted_by_the_runs_own_times(client, tmp_path):
    # ends 22:13:20; two windows of a minute around 22:12:20: 9 kWh at 100 g and 1 at 200 g
    run_id = write_run(client, "a", windows=[(9, 1), (1, 1)])
    path = tmp_path / "hourly.csv"
    path.write_text("timestamp,g_per_kwh\n2023-11-14T22:11:20,100\n2023-11-14T22:12:20,200\n")
    (row,) = predict_json(run_id, "--samples", "1", "--intensity-file", str(path))
    assert row["intensity_g_per_kwh"] == pytest.approx(110)
    assert row["period"] == "2023-11-14T22:11Z/2023-11-14T22:13Z"


def test_device_adds_its_share_per_unit(run_id):
    # a window of 60 s a sample; 365 kg over a year of 525,600 minutes: 0.6944 g a sample
    device = ("--embodied-kg", "365", "--device-lifetime-years", "1")
    (row,) = predict_json(run_id, "--samples", "100", *device)
    assert row["embodied_g"] == pytest.approx(69.44, abs=0.01)
    assert row["sci_g_per_unit"] == pytest.approx(3750 + 0.6944, abs=1e-3)
    text = predict(run_id, "--samples", "100", *device).stdout
    assert "SCI (ISO/IEC 21031) per sample" in text


def test_mixed_bases_are_named(run_id):
    notices = predict(run_id, "--samples", "1", "--region", "EU27,China").stderr
    assert "Intensities rest on different bases and do not compare" in notices


@pytest.mark.slow
@pytest.mark.parametrize("name", ["T2D_min", "S3D_max"])
def test_paper_is_reproduced_to_its_printed_digits(client, name):
    text = (files("mlflow_carbon") / "data" / "paper_results.csv").read_text(encoding="utf-8")
    (row,) = (row for row in csv.DictReader(text.splitlines()) if row["id"] == name)
    # 50 windows of one epoch or sample whose mean is the paper's energy and whose std gives its ±
    num_units = float(row["N_epochs"] or row["N"])
    mean_kwh = float(row["wh_it_per_unit"]) / 1000 * float(row["N"]) / num_units
    # 25 values above and 25 below by d have sample std d √(50/49)
    offset_kwh = mean_kwh * float(row["kg_std"]) / float(row["kg_mean"]) * (49 / 50) ** 0.5
    windows = [(mean_kwh + sign * offset_kwh, 1) for _ in range(25) for sign in (1, -1)]
    unit = "epoch" if row["N_epochs"] else "sample"
    run_id = write_run(client, "paper", windows=windows, unit=unit, pue=1.55)
    priced = ("--region", "EU27", "--intensity-set", "paper_table1")
    (found,) = predict_json(run_id, "--units", str(num_units), *priced)
    decimals = max(len(row[key].partition(".")[2]) for key in ("kg_mean", "kg_std"))
    assert round(found["co2e_g"] / 1000, decimals) == float(row["kg_mean"])
    assert round(found["co2e_g_spread"] / 1000, decimals) == float(row["kg_std"])


@pytest.mark.slow
@pytest.mark.parametrize("args", [("--samples", "1"), ("--units", "1")])
def test_one_window_is_refused(client, args):
    write_run(client, "a", windows=[(9, 4)], name="single")
    result = CliRunner().invoke(cli, ["predict", "single", *args])
    assert result.exit_code == 1
    assert "There is one window in run" in result.stderr


def test_dead_provider_falls_back_and_says_so(run_id, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    result = predict(
        run_id, "--samples", "1", "--region", "UK", "--provider", "uk-carbon-intensity"
    )
    assert "uk-carbon-intensity cannot be reached" in result.stderr
    assert "Used instead: " in result.stderr
    assert "g/kWh (2024, ember)." in result.stderr


def test_key_of_a_provider_comes_from_the_environment_and_is_not_printed(run_id, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("ELECTRICITY_MAPS_API_KEY", "secret-key")
    result = predict(run_id, "--samples", "1", "--region", "DE", "--provider", "electricity-maps")
    assert "electricity-maps cannot be reached" in result.stderr
    assert "secret-key" not in result.output


def test_recorded_set_is_looked_in_first(client):
    tags = {keys.TAG_INTENSITY_SET: "eea"}
    run_id = write_run(client, "a", windows=[(1, 1), (2, 1)], tags=tags)
    (row,) = predict_json(run_id, "--samples", "1", "--region", "PL")
    assert (row["intensity_set"], row["intensity_g_per_kwh"]) == ("eea", 681)
