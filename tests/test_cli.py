"""The command line: exact output, exit codes, and nothing but results on stdout."""

import csv
import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import write_run

JOULE = 1 / 3.6e6  # kWh

# 50 steps: 2 J = 0.5556 mWh, x 1.5 x 251 g/kWh = 0.209 mg; std of 1 and 3 J: 1.414 J = 0.3928 mWh.
# Whole runs: 4 x (0.5 + 1.5) = 8 J and 24 J; 200 steps: 4 x (10 + 12) = 88 J = 24.44 mWh.
COMPARISON = """\
200 steps cost 5.5 × 50 steps per sample.
In EU27 the same emits 36 × as much CO2e as in SE.

Per sample
steps  region  runs  windows  energy (mWh)        CO2e (mg)  within (%)  ± is
   50  EU27       2        4   0.56 ± 0.39      0.21 ± 0.15          35  between
   50  SE         2        4   0.56 ± 0.39  0.0058 ± 0.0041          35  between
  200  EU27       1        2   3.06 ± 0.39      1.15 ± 0.15          13  within
  200  SE         1        2   3.06 ± 0.39  0.0321 ± 0.0041          13  within
± is the sample std between runs; for one run, that of the windows within it.

Per run
steps  region  runs  energy (mWh)      CO2e (mg)  readings  coverage
   50  EU27       2     4.4 ± 3.1      1.7 ± 1.2         4      100%
   50  SE         2     4.4 ± 3.1  0.047 ± 0.033         4      100%
  200  EU27       1         24.44          9.203         2      100%
  200  SE         1         24.44         0.2567         2      100%

CO2e by EU27 251 g/kWh (2022, paper_table1), SE 7 g/kWh (2022, paper_table1);
PUE 1.5; CPU counted.
within: std of the windows inside runs, pooled, in % of the mean. readings:
distinct powers of the windows. coverage: share of the time that was observed.
"""

FEW_READINGS = (
    "3 of 3 runs rest on fewer than 5 distinct power readings: their spread may be that of the "
    "sampling, not of the work; measure more or longer windows.\n"
)


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


@pytest.fixture
def synthesis(client):
    """Two runs of 50 steps and one of 200, in EU27 at PUE 1.5 and 250 g/kWh."""
    # J per sample: windows 0.5 and 1.5, so run value 1 and std 0.7071; then 2.5 and 3.5: 3.
    for steps, joules in (("50", (0.5, 1.5)), ("50", (2.5, 3.5)), ("200", (10.0, 12.0))):
        windows = [(4 * joule * JOULE, 4.0) for joule in joules]
        write_run(client, "synthesis", windows=windows, params={"steps": steps})


def invoke(*args):
    return CliRunner().invoke(cli, list(args))


def compare(*args):
    result = invoke("compare", "--experiment", "synthesis", *args)
    assert result.exit_code == 0, result.output
    return result


def notices(result):
    """Returns what is on stderr but how far the reading is, which a busy machine says."""
    lines = result.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("Reading runs"))


def compare_json(*args):
    return json.loads(compare("--format", "json", *args).stdout)


@pytest.mark.usefixtures("synthesis")
def test_compare_prints_the_table():
    result = compare("--group-by", "steps", "--region", "EU27", "--region", "Sweden")
    assert result.stdout == COMPARISON
    assert notices(result) == FEW_READINGS
    # a terminal shows the answer first
    assert result.output.index(COMPARISON) < result.output.index(FEW_READINGS)


@pytest.mark.usefixtures("synthesis")
def test_compare_reads_regions_and_keys_separated_by_commas():
    assert compare("--group-by", "steps,", "--region", "EU27, Sweden").stdout == COMPARISON


@pytest.mark.usefixtures("synthesis")
def test_compare_of_many_regions_has_their_figures_in_a_column_and_year_and_set_below():
    table = compare("--region", "EU27,SE,DE,PL,FR,IT,ES").stdout
    assert "g/kWh" in table
    assert "intensities of 2022, paper_table1" in " ".join(table.split())


@pytest.mark.usefixtures("synthesis")
def test_compare_names_a_region_once():
    assert len(compare_json("--region", "Sweden,SE,SWE")) == 1


@pytest.mark.usefixtures("synthesis")
def test_compare_holds_full_precision_in_json():
    row = compare_json("--group-by", "steps")[0]
    # (1 + 3) / 2 J in kWh; x 1.5 x 250 g/kWh
    assert row["energy_kwh_per_unit_mean"] == pytest.approx(2 * JOULE, rel=1e-14)
    assert row["co2e_g_per_unit_mean"] == pytest.approx(2 * JOULE * 375, rel=1e-14)
    assert (row["steps"], row["unit"], row["region"], row["num_runs"]) == (
        "50",
        "sample",
        "EU27",
        2,
    )


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_compare_writes_the_same_in_csv_as_in_json():
    from_csv = list(csv.DictReader(io.StringIO(compare("--format", "csv").stdout)))
    from_json = compare_json()
    assert len(from_csv) == len(from_json) == 1
    for name, value in from_json[0].items():
        cell = from_csv[0][name]
        assert cell == "" if value is None else type(value)(cell) == value


@pytest.mark.usefixtures("synthesis")
def test_compare_has_null_where_nothing_is_known():
    row = compare_json("--group-by", "steps")[1]
    assert row["num_runs"] == 1
    assert row["energy_kwh_per_unit_std_between"] is None


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_compare_takes_auto_and_none_as_not_given():
    options = ("region", "month", "pue", "intensity-set", "carbon-intensity-g-per-kwh")
    args = [word for option in options for word in (f"--{option}", "auto")]
    assert compare_json(*args, "--group-by", "none") == compare_json()


@pytest.mark.usefixtures("synthesis")
def test_compare_prices_with_a_given_intensity():
    row = compare_json("--carbon-intensity-g-per-kwh", "100", "--pue", "1", "--region", "my lab")[0]
    # 1, 3 and 11 J per sample: mean 5 J
    assert row["co2e_g_per_unit_mean"] == pytest.approx(5 * JOULE * 100)
    assert (row["region"], row["intensity_g_per_kwh"], row["pue"]) == ("my lab", 100.0, 1.0)


@pytest.mark.usefixtures("synthesis")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--format", "xml"), "'xml' is not one of 'table', 'csv', 'json', 'markdown', 'latex'"),
        (("--pue", "high"), "'high' is not a valid float"),
        (("--month", "2022-02"), "--month and --intensity-set need --region"),
        (
            ("--carbon-intensity-g-per-kwh", "9", "--region", "DE,SE"),
            "it goes with one --region at most",
        ),
        (("--intensity-file", "h.csv", "--region", "DE,SE"), "it goes with one --region at most"),
        (("--intensity-file", "h.csv", "--month", "2022-02"), "with neither --month nor"),
        (
            ("--intensity-file", "h.csv", "--carbon-intensity-g-per-kwh", "9"),
            "Give one of --carbon-intensity-g-per-kwh and --intensity-file",
        ),
        (("--provider", "uk-carbon-intensity"), "--provider needs --region"),
        (("--saving", "1000:200"), "--saving needs --fit"),
        (("--fit", "steps", "--saving", "1000-200"), "'1000-200' is not FROM:TO"),
    ],
)
def test_compare_exits_with_2_on_wrong_usage(args, message):
    result = invoke("compare", "--experiment", "synthesis", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert message in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--experiment", "sinthesis"), "Nearest: 'synthesis'"),
        (("--experiment", "Default"), "No metered run in experiment 'Default'"),
        (("--experiment", "synthesis", "--group-by", "stepz"), "Nearest: steps"),
        (("--experiment", "synthesis", "--region", "Atlantis"), "Atlantis"),
        (("--experiment", "synthesis", "--region", "Poland", "--month", "2022-02"), "2022-02"),
        (("--experiment", "synthesis", "--pue", "0.5"), "0.5"),
        (("--experiment", "synthesis", "--carbon-intensity-g-per-kwh", "-1"), "-1"),
        (("--experiment", "synthesis", "--carbon-intensity-g-per-kwh", "nan"), "nan"),
        (("--experiment", "synthesis", "--carbon-intensity-g-per-kwh", "inf"), "inf"),
        (("--experiment", "synthesis", "--pue", "3.01"), "3.01"),
        (("--experiment", "synthesis", "--pue", "nan"), "nan"),
        (("--experiment", "synthesis", "--intensity-file", "none.csv"), "'none.csv' cannot be"),
        (("--experiment", "synthesis", "--provider", "me", "--region", "DE"), "provider is 'me'"),
        (
            ("--experiment", "synthesis", "--provider", "electricity-maps", "--region", "DE"),
            "electricity-maps needs a key; set ELECTRICITY_MAPS_API_KEY",
        ),
        (("--experiment", "synthesis", "--fit", "stepz"), "Nearest: steps"),
    ],
)
def test_compare_exits_with_1_and_one_message_on_what_the_user_can_fix(args, message, monkeypatch):
    monkeypatch.delenv("ELECTRICITY_MAPS_API_KEY", raising=False)
    result = invoke("compare", *args)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--region", "Atlantis"), "region 'Atlantis'"),
        (("--region", "DE", "--month", "2022-13"), "--month is '2022-13'"),
        (("--region", "DE", "--month", "1990"), "No carbon intensity for DE in 1990"),
        (("--region", "DE", "--intensity-set", "eia"), "intensity_set is 'eia'"),
        (("--pue", "0.5"), "PUE is 0.5; "),
        (("--carbon-intensity-g-per-kwh", "-1"), "carbon_intensity_g_per_kwh is -1.0"),
        (("--intensity-file", "none.csv"), "'none.csv' cannot be read"),
        (("--provider", "me", "--region", "DE"), "--provider is 'me'"),
    ],
)
@pytest.mark.parametrize(
    "command", [("compare",), ("models",), ("gate", "models:/m/1", "--max-co2e-kg", "1")]
)
def test_bad_price_is_refused_before_the_store_is_opened(command, args, message):
    result = invoke(*command, "--tracking-uri", "sqlite:////nowhere/mlflow.db", *args)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "nowhere" not in result.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("predict latest --samples 0", "--samples is 0;"),
        ("predict latest --samples 1 --region Atlantis", "region 'Atlantis'"),
        (
            "predict latest --samples 1 --embodied-kg -1 --device-lifetime-years 1",
            "embodied_kg is -1.0; give a finite number, 0 or more (--embodied-kg).",
        ),
        ("advise latest --region Atlantis", "region 'Atlantis'"),
        ("advise latest --intensity-set eia", "(--intensity-set)"),
        ("advise latest --pue 9", "so give 1 to 3 (--pue)."),
        ("gate models:/m/1 --max-co2e-kg nan", "max_co2e_kg is nan; give a finite number"),
        ("models --max-co2e-kg nan", "max_co2e_kg is nan; give a finite number"),
        ("backfill --experiment a --region Atlantis", "region 'Atlantis'"),
        ("backfill --experiment a --pue 9", "(--pue)"),
    ],
)
def test_bad_option_is_refused_before_the_store_is_opened(line, message):
    result = invoke(*line.split(), "--tracking-uri", "sqlite:////nowhere/mlflow.db")
    assert result.exit_code == 1
    assert message in result.stderr
    assert "nowhere" not in result.stderr


def test_predict_without_a_count_is_wrong_usage_before_the_store_is_opened():
    result = invoke("predict", "latest", "--tracking-uri", "sqlite:////nowhere/mlflow.db")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Give --iterations, --samples or --units: of how much work?" in result.stderr
    assert "nowhere" not in result.stderr


@pytest.mark.slow
def test_wrong_usage_is_told_before_pandas_or_mlflow_is_imported():
    code = (
        "import sys; from mlflow_carbon.cli import cli\n"
        "for line in ('compare --saving 1:2', 'compare --baseline x', 'predict latest'):\n"
        "    try: cli(line.split(), standalone_mode=False)\n"
        "    except Exception as error: print(type(error).__name__)\n"
        "print(sorted({'pandas', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["UsageError", "BadParameter", "UsageError", "[]"]


def test_error_names_the_option_that_the_command_has():
    # compare takes the user's own figure, advise does not
    priced = invoke("compare", "--region", "Atlantis").stderr
    assert priced.endswith("Or pass --carbon-intensity-g-per-kwh.\n")
    assert "carbon" not in invoke("advise", "latest", "--region", "Atlantis").stderr[6:].replace(
        "No carbon intensity", ""
    )


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
@pytest.mark.parametrize("month", ["2022", "2022-02"])
def test_compare_says_that_a_month_is_of_another_basis_than_the_default_set(client, month):
    write_run(client, "ember", windows=[(1e-6, 4.0)], tags={"carbon.intensity_set": "ember"})
    result = invoke("compare", "--experiment", "ember", "--region", "DE", "--month", month)
    assert result.exit_code == 0
    assert f"The intensity of DE in {month} is direct (" in result.stderr
    assert "where ember is life-cycle: the two do not compare." in result.stderr


def test_compare_creates_no_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("compare", "--tracking-uri", "sqlite:///mlflow.db")
    assert result.exit_code == 1
    assert "No tracking store at sqlite:///mlflow.db" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_compare_reads_the_experiment_that_mlflow_is_set_to(monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "synthesis")
    result = invoke("compare", "--format", "json")
    assert json.loads(result.stdout) == compare_json()


@pytest.mark.slow
def test_compare_reads_the_default_experiment_without_any_setting(client, monkeypatch):
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    write_run(client, "Default", windows=[(1e-6, 4.0)])
    assert json.loads(invoke("compare", "--format", "json").stdout)[0]["num_runs"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_compare_says_on_stderr_what_it_left_out(client):
    write_run(client, "synthesis", windows=[(1e-6, 4.0)])
    result = compare("--group-by", "steps", "--format", "json")
    assert "Left out 1 run without steps." in result.stderr
    assert len(json.loads(result.stdout)) == 2


@pytest.mark.usefixtures("synthesis")
def test_compare_prints_each_unit_on_its_own(client):
    write_run(client, "synthesis", unit="iteration", windows=[(1e-3, 50.0)])
    lines = compare().stdout.splitlines()
    assert [line for line in lines if line.startswith("Per ")] == [
        "Per iteration",
        "Per sample",
        "Per run",
    ]
    assert "unit" in lines[lines.index("Per run") + 1].split()


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_module_prints_only_results_on_stdout(store):
    command = [sys.executable, "-m", "mlflow_carbon", "compare", "--experiment", "synthesis"]
    done = subprocess.run(
        [*command, "--format", "json", "--tracking-uri", store],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(done.stdout)) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("synthesis")
def test_compare_weights_an_hourly_file_by_each_runs_own_times(tmp_path):
    # runs of two windows of a minute, 22:11:20 to 22:13:20: 100 g/kWh, then 200
    path = tmp_path / "hourly.csv"
    path.write_text("timestamp,g_per_kwh\n2023-11-14T22:11:20,100\n2023-11-14T22:12:20,200\n")
    result = compare("--intensity-file", str(path), "--group-by", "steps", "--format", "json")
    rows = json.loads(result.stdout)
    # 50 steps: windows 0.5 and 1.5, 2.5 and 3.5 J a sample; 200 steps: 10 and 12
    short = [(0.5 * 100 + 1.5 * 200) / 2, (2.5 * 100 + 3.5 * 200) / 6]
    assert rows[0]["co2e_g_per_unit_mean"] == pytest.approx(
        1.5 * JOULE * (1 * short[0] + 3 * short[1]) / 2
    )
    assert rows[1]["intensity_g_per_kwh"] == pytest.approx((10 * 100 + 12 * 200) / 22)
    assert (rows[1]["region"], rows[1]["intensity_set"]) == ("given", "file")
    assert notices(result) == FEW_READINGS


@pytest.mark.usefixtures("synthesis")
def test_compare_names_the_run_that_an_hourly_file_does_not_cover(tmp_path):
    path = tmp_path / "hourly.csv"
    path.write_text("timestamp,g_per_kwh\n2022-02-01T00:00,100\n")
    result = invoke("compare", "--experiment", "synthesis", "--intensity-file", str(path))
    assert result.exit_code == 1
    assert "No intensity for run " in result.stderr
    assert "covers 2022-02-01T00:00Z to 2022-02-01T01:00Z" in result.stderr


@pytest.mark.usefixtures("synthesis")
def test_compare_says_where_bases_mix():
    notices = compare("--region", "EU27,China", "--intensity-set", "paper_table1").stderr
    assert "Intensities rest on different bases and do not compare (EU27: production;" in notices


@pytest.mark.slow
def test_help_loads_neither_pandas_nor_mlflow():
    code = (
        "import sys; from mlflow_carbon.cli import cli\n"
        "cli(['compare', '--help'], standalone_mode=False)\n"
        "sys.exit(bool({'pandas', 'mlflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.slow
# study-report needs a study: tests/test_study_report.py
@pytest.mark.parametrize("command", sorted(cli.commands.keys() - {"study-report"}))
def test_help_ends_with_an_example_that_runs(command, client, registered, tmp_path, monkeypatch):
    del registered
    (tmp_path / "train.py").write_text("")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    write_run(client, "Default", windows=[(1e-6, 4.0)] * 2, params={"steps": "50"})
    *_, head, example = invoke(command, "--help").stdout.splitlines()
    program, *args = shlex.split(example)
    assert (head.strip(), program) == ("Example:", "mlflow-carbon")
    result = invoke(*args)
    assert result.exit_code == 0, result.output
