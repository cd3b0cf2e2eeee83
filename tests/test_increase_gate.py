"""The relative gate: a model may not emit more than another by more than a limit and the noise."""

import math
import random
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import experiment_id, write_run

LIMIT = ("--max-increase", "10%")


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def train(client, name, windows_kwh, **figures):
    """Adds a version of a model whose training had windows of these energies, at 250 g/kWh."""
    windows = [(energy_kwh, 100.0) for energy_kwh in windows_kwh]
    run_id = write_run(client, "train", windows=windows, unit="iteration", **figures)
    model = client.create_logged_model(experiment_id(client, "train"), "m", source_run_id=run_id)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    return client.create_model_version(name, f"models:/{model.model_id}", run_id).version


def spread(mean_kwh, std_kwh, num_windows=40):
    values = random.Random(1)
    return [values.gauss(mean_kwh, std_kwh) for _ in range(num_windows)]


def gate(*args):
    return CliRunner().invoke(cli, ["gate", *args])


def test_increase_within_the_limit_passes(client):
    train(client, "m", [1.0] * 8)
    client.set_registered_model_alias("m", "champion", "1")
    train(client, "m", [1.05] * 8)
    result = gate("models:/m/2", "--against", "models:/m@champion", *LIMIT)
    assert result.exit_code == 0, result.stderr
    # 8 x 1.05 kWh x PUE 1.5 x 250 g/kWh
    assert result.stdout == (
        "models:/m/2 passes: 3.15 kg CO2e of its own training, +5.0% against 3 kg of "
        "models:/m@champion (version 1), is at or under the limit of +10% "
        "(noise of both ±0.0%; as recorded: EU27 250 g/kWh (2022, paper_table1), PUE 1.5).\n"
    )


def test_increase_above_the_limit_is_refused(client):
    train(client, "m", [1.0] * 8)
    train(client, "m", [1.2] * 8)
    result = gate("models:/m/2", "--against", "models:/m/1", *LIMIT)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "+20.0% against 3 kg of models:/m/1, is above the limit of +10%" in result.stderr


@pytest.mark.parametrize(("std_kwh", "exit_code"), [(0.02, 1), (0.6, 0)])
def test_increase_counts_only_above_the_noise(client, std_kwh, exit_code):
    train(client, "m", spread(1.0, std_kwh))
    train(client, "m", [1.2 * kwh for kwh in spread(1.0, std_kwh)])
    result = gate("models:/m/2", "--against", "models:/m/1", *LIMIT)
    assert result.exit_code == exit_code
    assert ("is within the noise of the limit" in result.stdout) == (exit_code == 0)


def test_noise_is_that_of_a_difference_of_totals(client):
    """Of 40 independent windows a total's std is sqrt(40) times a window's."""
    for _ in range(2):
        train(client, "m", spread(1.0, 0.1))
    told = gate("models:/m/2", "--against", "models:/m/1", *LIMIT).stdout
    noise = float(told.partition("noise of both ±")[2].partition("%")[0]) / 100
    independent = 2.02 * math.sqrt(2) * 0.1 / math.sqrt(40)
    assert noise == pytest.approx(independent, rel=0.35)  # the windows drawn vary themselves


def test_trainings_without_windows_are_told_so(client):
    train(client, "m", [8.0])
    train(client, "m", [8.4])
    result = gate("models:/m/2", "--against", "models:/m/1", *LIMIT)
    assert result.exit_code == 0
    assert "noise not fully known" in result.stdout


def test_different_prices_are_named(client):
    train(client, "m", [1.0] * 8)
    train(client, "m", [1.0] * 8, region="SE", intensity_g_per_kwh=10.0)
    as_recorded = gate("models:/m/2", "--against", "models:/m/1", *LIMIT)
    assert (
        "SE 10 g/kWh (2022, paper_table1), PUE 1.5; against as recorded: EU27 250"
        in as_recorded.stdout
    )
    one_price = gate("models:/m/2", "--against", "models:/m/1", *LIMIT, "--region", "Poland")
    assert "+0.0% against" in one_price.stdout


def test_unmeasured_base_refuses(client):
    train(client, "m", [])
    train(client, "m", [1.0] * 2)
    result = gate("models:/m/2", "--against", "models:/m/1", *LIMIT)
    assert result.exit_code == 1
    assert "models:/m/2 is refused: of models:/m/1, run" in result.stderr


def test_both_limits_hold_at_once(client):
    train(client, "m", [1.0] * 8)
    result = gate("models:/m/1", "--against", "models:/m/1", *LIMIT, "--max-co2e-kg", "1")
    assert result.exit_code == 1
    assert "above the limit of 1 kg" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--against", "models:/m/1"),
        LIMIT,
        ("--against", "models:/m/1", "--max-increase", "0.1"),
        ("--against", "models:/m/1", "--max-increase", "-5%"),
        ("--against", "models:/m/1", "--max-increase", "much%"),
        ("--against", "models:/m/1", *LIMIT, "--lineage"),
    ],
)
def test_wrong_usage(options):
    result = gate("models:/m/2", *options)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.slow
def test_snippets_for_ci_run_as_documented(client):
    page = (Path(__file__).parent.parent / "docs" / "registry.md").read_text()
    github, gitlab = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.DOTALL))
    commands = [github[1]["run"], gitlab["carbon"]["script"][1]]
    for alias in ("champion", "candidate"):
        client.set_registered_model_alias("ldm", alias, train(client, "ldm", [1.0] * 8))
    for command in commands:
        program, *arguments = shlex.split(command)
        result = CliRunner().invoke(cli, arguments)
        assert (program, result.exit_code) == ("mlflow-carbon", 0), result.stderr
