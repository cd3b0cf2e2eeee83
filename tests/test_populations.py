"""Unlike runs are kept apart, or what moves their energy is named; pooled only where asked for."""

import json

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.reporting.comparison_tables import comparison_report
from mlflow_carbon.reporting.populations import movers
from tests.fakes.metered_runs import write_run
from tests.test_compare import frame, run_row

JOULE = 1 / 3.6e6  # kWh
ENTRY_POINT = "tags.mlflow.project.entryPoint"


def energies(comparison):
    return list(comparison.table["energy_kwh_per_unit_mean"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "values", "key"),
    [
        ("params.dims", ("2", "3"), "dims"),
        ("params.model_size", ("small", "large"), "model_size"),
        ("params.sampler", ("ddpm", None), "sampler"),
        (ENTRY_POINT, ("vqgan", "train"), "mlflow.project.entryPoint"),
        ("tags.carbon.hardware", ("one CPU", "another"), "carbon.hardware"),
        ("methods", ("cpu=counter", "cpu=tdp"), "carbon.method"),
        ("attribution", ("whole_node", "process_share"), "carbon.attribution"),
    ],
)
def test_unlike_runs_are_kept_apart_and_it_is_said(column, values, key):
    rows = [
        run_row(energy_kwh_per_unit=kwh) | {column: value}
        for kwh, value in zip((0.5, 4.0), values, strict=True)
    ]
    comparison = compare_runs(frame(*rows))
    assert sorted(energies(comparison)) == [0.5, 4.0]
    assert comparison.kept_apart == comparison.group_by == (key,)
    assert any(f"`group_by` {key} asks for that, `pool`" in it for it in comparison.notices)
    assert energies(compare_runs(frame(*rows), pool=True)) == [2.25]


def test_like_runs_stay_together_though_others_differ():
    # 2D at 50 steps only, 3D at 200 only: the steps tell them apart already
    rows = [run_row(params__steps=s) | {"params.dims": d} for s, d in (("50", "2"), ("200", "3"))]
    assert compare_runs(frame(*rows), group_by=["steps"]).kept_apart == ()
    assert compare_runs(frame(*rows)).kept_apart == ("dims",)


def test_keys_that_say_the_same_are_added_once():
    rows = [
        run_row() | {"params.dims": dims, ENTRY_POINT: entry}
        for dims, entry in (("2", "synth"), ("3", "estimate"))
    ]
    assert compare_runs(frame(*rows)).kept_apart == ("dims",)


def test_split_key_can_be_asked_for():
    rows = [run_row(), run_row(methods="cpu=tdp")]
    comparison = compare_runs(frame(*rows), group_by=["carbon.method"])
    assert comparison.kept_apart == ()
    assert list(comparison.table["carbon.method"]) == ["cpu=counter", "cpu=tdp"]


def sized(*sizes_and_kwh):
    rows = [
        run_row(energy_kwh_per_unit=kwh)
        | {"params.size": size, "params.seed": str(seed), "params.lr": "1e-4"}
        for seed, (size, kwh) in enumerate(sizes_and_kwh)
    ]
    return frame(*rows)


def test_setting_that_moves_the_energy_is_named_and_a_seed_is_not():
    runs = sized(*(("64", 1 + 0.01 * n) for n in range(4)), *(("256", 9 + 0.1 * n) for n in (2, 0)))
    found = movers(runs, ["unit"])
    assert (found.names, found.values) == (("size",), ("64, 256",))
    (notice,) = (it for it in compare_runs(runs).notices if "differ" in it)
    assert notice.startswith("Runs inside a group differ in size (64, 256), and their energy")
    assert "`group_by` size tells them apart" in notice
    assert compare_runs(runs, group_by=["size"]).notices == ()


def test_setting_without_effect_is_not_named():
    assert movers(sized(*(("64", 1.0), ("256", 1.01)) * 4), ["unit"]).names == ()


def test_too_few_runs_to_tell_are_said_so():
    (notice,) = compare_runs(sized(("64", 1.0), ("256", 9.0))).notices
    assert notice == (
        "Runs inside a group differ in energy by up to 9 times, and in size, seed: "
        "too few runs to tell what moves it."
    )


def test_number_of_many_values_is_judged_by_its_rank():
    rows = [
        run_row(energy_kwh_per_unit=0.1 * n + 0.003 * (n % 3)) | {"params.length": str(10 * n)}
        for n in range(1, 12)
    ]
    assert movers(frame(*rows), ["unit"]).names == ("length",)


def test_groups_are_judged_together():
    # in each group one run of each size, and the larger takes twice as much
    rows = [
        run_row(energy_kwh_per_unit=kwh * (1 + 0.001 * kwh)) | {"params.size": s, "params.n": n}
        for n, kwh, s in (
            (str(number), base * factor, size)
            for number, base in enumerate((0.5, 3.0, 1.0, 8.0))
            for size, factor in (("64", 1.0), ("128", 2.0))
        )
    ]
    assert movers(frame(*rows), ["params.n"]).names == ("size",)


# Fits


@pytest.fixture
def mixture(store):
    """2D and 3D, and in 2D two sizes, at two step counts."""
    client = MlflowClient(tracking_uri=store)
    for steps in (100, 200):
        for dims, size, factor in (("2", "64", 1), ("2", "128", 4), ("3", "32", 20)):
            for repeat in range(3):
                joules = factor * (3 + 0.5 * steps) * (1 + 0.01 * repeat)
                params = {"steps": str(steps), "dims": dims, "size": size}
                write_run(client, "mixed", windows=[(4 * joules * JOULE, 4.0)] * 2, params=params)


def fit(*args):
    line = ["compare", "--experiment", "mixed", "--fit", "steps", "--format", "json", *args]
    return CliRunner().invoke(cli, line)


@pytest.mark.slow
def test_no_line_is_fitted_over_a_mixture(mixture):
    result = fit()
    (row,) = json.loads(result.stdout)
    assert (row["dims"], row["num_runs"]) == ("3", 6)
    assert "dims 2, unit sample: not fitted, as runs of equal steps differ in size" in result.stderr
    assert "--group-by size fits each apart, --pool all together." in result.stderr


@pytest.mark.slow
def test_group_by_or_pool_fits_what_was_a_mixture(mixture):
    rows = json.loads(fit("--group-by", "size").stdout)
    assert {row["size"] for row in rows} == {"32", "64", "128"}
    (pooled,) = json.loads(fit("--pool").stdout)
    assert pooled["num_runs"] == 18


def test_ways_of_measuring_that_are_kept_apart_are_told_in_words():
    rows = [run_row(), run_row(methods="cpu=tdp,gpu=unavailable", energy_kwh_per_unit=1.0)]
    comparison = compare_runs(frame(*rows))
    text = str(comparison_report(comparison))
    assert "(method CPU estimated, GPU not measured)" in text  # the answer
    assert "CPU counted" in text  # the table
    assert "cpu=" not in text
    assert set(comparison.table["carbon.method"]) == {"cpu=counter", "cpu=tdp,gpu=unavailable"}
