"""``compare --fit``: both terms and the savings against computations by hand."""

import json

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from tests.fakes.metered_runs import write_run

JOULE = 1 / 3.6e6  # kWh


@pytest.fixture
def client(store):
    return MlflowClient(tracking_uri=store)


def write(client, *steps_and_joules, **options):
    for steps, joules in steps_and_joules:
        params = {"steps": str(steps)} | options.get("params", {})
        windows = [(4 * joules * JOULE, 4.0)] * 2
        write_run(
            client, "synthesis", windows=windows, params=params, unit=options.get("unit", "sample")
        )


def fit(*args):
    return CliRunner().invoke(
        cli, ["compare", "--experiment", "synthesis", "--fit", "steps", *args]
    )


def fit_json(*args):
    result = fit("--format", "json", *args)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_terms_and_saving_of_every_measured_pair_and_of_another(client):
    # 3 J fixed and 0.5 J a step, exactly
    write(client, (200, 103), (500, 253), (1000, 503))
    rows = fit_json("--saving", "500:250")
    assert rows[0]["fixed_kwh"] == pytest.approx(3 * JOULE)
    assert rows[0]["step_kwh"] == pytest.approx(0.5 * JOULE)
    savings = {(row["from_steps"], row["to_steps"]): row["saving_fraction"] for row in rows}
    assert savings == {
        (1000, 500): pytest.approx(1 - 253 / 503),
        (1000, 200): pytest.approx(1 - 103 / 503),
        (500, 200): pytest.approx(1 - 103 / 253),
        (500, 250): pytest.approx(1 - 128 / 253),
    }
    # the paper's pure proportion
    assert [row["proportional_saving_fraction"] for row in rows[:2]] == pytest.approx([0.5, 0.8])


def test_intervals_come_from_the_scatter_of_the_runs(client):
    # at 1 and 3 steps 1 and 3 J, at 2 steps 1 J too much: 1/3 J too high a line, s = √(2/3) J
    write(client, (1, 1), (2, 3), (3, 3))
    row = fit_json()[0]
    margin = 12.7062 * (2 / 3) ** 0.5 / 2**0.5  # t(0.975, 1), Σ(steps - 2)² = 2
    assert row["step_kwh"] == pytest.approx(JOULE)
    assert row["step_kwh_high"] == pytest.approx((1 + margin) * JOULE, rel=1e-4)
    assert row["step_kwh_low"] == pytest.approx((1 - margin) * JOULE, rel=1e-4)
    assert row["residual_std_kwh"] == pytest.approx((2 / 3) ** 0.5 * JOULE)


def test_two_equal_runs_and_one_other_have_no_interval_and_it_is_said(client):
    # the line goes through both points, so nothing tells its error; an interval of no width would
    # claim to know it exactly
    write(client, (50, 10), (50, 10), (200, 40))
    result = fit("--format", "json")
    row = json.loads(result.stdout)[0]
    assert row["step_kwh"] == pytest.approx(0.2 * JOULE)
    assert (row["step_kwh_low"], row["step_kwh_high"]) == (None, None)
    assert (row["saving_fraction_low"], row["residual_std_kwh"]) == (None, 0)
    assert "unit sample: all 3 runs lie exactly on the line" in result.stderr


@pytest.mark.slow
def test_two_runs_have_no_interval(client):
    write(client, (200, 103), (1000, 503))
    row = fit_json()[0]
    assert (row["fixed_kwh_low"], row["saving_fraction_high"]) == (None, None)
    text = fit().stdout
    assert "1000  200        79.5              80.0" in text
    assert "Energy per sample = fixed + steps x step" in text


@pytest.mark.slow
def test_table_follows_the_comparison_by_steps(client):
    write(client, (200, 103), (1000, 503))
    text = fit().stdout
    assert text.startswith("1000 steps cost 4.9 × 200 steps per sample.\n\nPer sample\nsteps  runs")
    assert text.index("Per run") < text.index("Energy per sample = fixed + steps")


@pytest.mark.slow
def test_groups_are_fitted_apart_and_one_that_cannot_be_is_named(client):
    write(client, (200, 103), (1000, 503), params={"sampler": "ddpm"})
    write(client, (200, 203), (1000, 1003), params={"sampler": "ddim"})
    write(client, (50, 1), params={"sampler": "unipc"})
    rows = fit_json("--group-by", "sampler")
    terms = {row["sampler"]: row["step_kwh"] for row in rows}
    assert terms == {"ddpm": pytest.approx(0.5 * JOULE), "ddim": pytest.approx(1.0 * JOULE)}
    notices = fit("--group-by", "sampler").stderr
    assert "sampler unipc, unit sample: A fit of energy over steps needs runs at two" in notices


@pytest.mark.slow
def test_units_are_never_mixed_in_a_fit(client):
    write(client, (200, 103), (1000, 503))
    write(client, (200, 1), (1000, 2), unit="iteration")
    assert {row["unit"] for row in fit_json()} == {"sample", "iteration"}


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([(50, 1), (50, 2)], "needs runs at two step counts or more; found only 50"),
        ([("many", 1), (50, 2)], "steps is 'many' in a run, which is no number of steps"),
        ([(0, 1), (50, 2)], "steps is 0;"),
    ],
)
def test_runs_that_cannot_be_fitted_are_one_error(client, runs, message):
    write(client, *runs)
    result = fit()
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert "distinct power readings" in result.stderr  # what is doubtful is said all the same


def test_line_below_zero_has_terms_and_says_why_it_has_no_saving(client):
    # 100 steps cost 1 J and 200 cost 9: -7 J fixed, so that 50 steps would cost -3
    write(client, (100, 1), (200, 9))
    result = fit("--format", "json", "--saving", "200:50")
    assert [(row["from_steps"], row["to_steps"]) for row in json.loads(result.stdout)] == [
        (200, 100)
    ]
    assert "unit sample: The fitted energy at 50 steps is not above 0" in result.stderr
