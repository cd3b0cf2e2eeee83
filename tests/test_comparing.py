"""``mlflow_carbon.compare`` and the same by the command: filters, experiments, files, formats."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.cli import cli
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.reporting.markup import to_latex, to_markdown
from mlflow_carbon.reporting.report import Column, Report, Table
from tests.fakes.metered_runs import write_run


@pytest.fixture
def runs(filled_store):
    """Runs of 1 and 2 kWh in experiment a, of 4 kWh in b, and unfinished ones in a."""
    filled_store(write_runs)


def write_runs(client):
    for experiment, steps, kwh in (("a", "50", 1.0), ("a", "200", 2.0), ("b", "50", 4.0)):
        write_run(client, experiment, windows=[(kwh / 2, 1.0)] * 2, params={"steps": steps})
    for status, kwh in (("FAILED", 8.0), ("RUNNING", 16.0)):
        windows = [(kwh / 2, 1.0)] * 2
        write_run(client, "a", windows=windows, params={"steps": "50"}, status=status)


def invoke(*args):
    return CliRunner().invoke(cli, ["compare", *args])


def energies_kwh(*args):
    result = invoke(*args, "--per", "run", "--format", "json", "--group-by", "experiment")
    assert result.exit_code == 0, result.output
    return {row["experiment"]: row["energy_kwh_mean"] for row in json.loads(result.stdout)}


@pytest.mark.slow
def test_frame_is_that_of_the_command(runs):
    frame = mlflow_carbon.compare(["a"], group_by=["steps"], regions=["SE"], baseline={"steps": 50})
    args = ("--experiment", "a", "--region", "SE", "--baseline", "steps=50")
    printed = json.loads(invoke(*args, "--format", "json").stdout)
    expected = frame.astype(object).where(frame.notna(), None).to_dict("records")
    assert printed == expected
    assert frame["co2e_ratio"].max() == pytest.approx(2.0)


def test_frame_carries_what_a_reader_must_know(runs, caplog):
    frame = mlflow_carbon.compare(["a"])
    (notice, _) = frame.attrs["notices"]
    assert notice.startswith("Runs inside a group differ in energy by up to 2 times, and in steps")
    assert notice in caplog.text


@pytest.mark.slow
def test_every_experiment_or_those_that_fit_a_filter(runs):
    assert energies_kwh("--all-experiments") == {"a": 1.5, "b": 4.0}
    assert energies_kwh("--experiment", "a", "--experiment", "b") == {"a": 1.5, "b": 4.0}
    by_filter = energies_kwh("--all-experiments", "--filter", "params.steps = '50'")
    assert by_filter == {"a": 1.0, "b": 4.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("include", "mean_kwh"),
    [
        ("failed", (1 + 2 + 8) / 3),
        ("running", (1 + 2 + 16) / 3),
        ("failed,running", (1 + 2 + 8 + 16) / 4),
        ("partial", (1 + 2 + 8 + 16) / 4),
    ],
)
def test_unfinished_runs_count_where_asked(runs, include, mean_kwh):
    assert energies_kwh("--experiment", "a", "--include", include) == {"a": pytest.approx(mean_kwh)}


def test_filter_that_mlflow_cannot_read_is_named(runs):
    result = invoke("--experiment", "a", "--filter", "steps is 50")
    assert result.exit_code == 1
    assert "filter is 'steps is 50', which MLflow cannot read: " in result.stderr.replace("--", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--baseline", "steps"), "'steps' is not KEY=VALUE"),
        (("--include", "all"), "'all' is not one of failed, running, partial"),
        (("--scale-to", "0"), "0.0 is not in the range x>0"),
        (("--out", "/nowhere/x.csv"), "there is no folder '/nowhere'"),
        (("--experiment", "a", "--all-experiments"), "Give --experiment or --all-experiments"),
    ],
)
def test_wrong_usage_exits_with_2_before_the_store_is_asked(args, message):
    result = invoke(*args, "--tracking-uri", "sqlite:////nowhere/mlflow.db")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": "SE"}, "give a list of regions"),
        ({"month": "2022-02"}, "need regions"),
        ({"pue": 0.5}, "PUE is 0.5"),
        ({"carbon_intensity_g_per_kwh": 5.0, "regions": ["SE", "DE"]}, "one of regions at most"),
        ({"include": ["all"]}, "include is 'all'; give failed, running or partial"),
    ],
)
def test_bad_argument_is_refused(runs, arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        mlflow_carbon.compare(["a"], **arguments)


def test_result_goes_to_a_file(runs, tmp_path):
    path = tmp_path / "figures.csv"
    result = invoke("--experiment", "a", "--format", "csv", "--out", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert list(pd.read_csv(path)["num_runs"]) == [2]


@pytest.mark.slow
def test_table_is_printed_as_markdown_and_as_latex(runs):
    args = ("--experiment", "a", "--group-by", "steps", "--per", "run")
    text = invoke(*args, "--format", "markdown").stdout
    assert text.startswith("200 steps cost 2.0 × 50 steps per run.\n\nPer run\n\n| steps | runs |")
    assert "| ---: | ---: |" in text
    latex = invoke(*args, "--format", "latex").stdout
    assert "\\begin{tabular}{rrrrrr}\n\\toprule\nsteps & runs & energy (kWh) &" in latex
    assert "cost 2.0 $\\times$ 50 steps" in latex


def test_markup_of_a_store_is_text():
    table = Table((Column("a|b", ["<b>", r"\input{x} 5 %"], is_text=True),))
    assert "a\\|b" in to_markdown(Report.of(table))
    assert "&lt;b&gt;" in to_markdown(Report.of(table))
    assert r"\textbackslash{}input\textbraceleft{}x\textbraceright{} 5 \%" in to_latex(
        Report.of(table)
    )


@pytest.mark.slow
def test_equivalents_come_on_request_or_above_one_phone_charge(store):
    client = MlflowClient(tracking_uri=store)
    write_run(client, "small", windows=[(1e-3, 1.0)] * 2)  # 2 Wh x 375 g/kWh = 0.75 g < 12.4 g
    write_run(client, "large", windows=[(1.0, 1.0)] * 2)
    assert "phone charges" not in invoke("--experiment", "small").stdout
    assert "phone charges" in invoke("--experiment", "small", "--equivalents").stdout
    assert "phone charges" in invoke("--experiment", "large").stdout


def test_help_lists_whole_sentences():
    listed = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout
    assert "..." not in listed.split("Commands:")[1]
    assert max(map(len, listed.splitlines())) <= 80


@pytest.mark.parametrize(
    ("option", "value", "exit_code"), [("--sort", "nonsense", 1), ("--per", "furlong", 2)]
)
def test_what_no_table_can_have_is_refused_before_the_store_is_opened(option, value, exit_code):
    nobody = "http://127.0.0.1:9"  # would be waited for
    result = invoke(option, value, "--tracking-uri", nobody)
    assert result.exit_code == exit_code
    assert value in result.output
    assert nobody not in result.output
