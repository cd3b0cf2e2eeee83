"""Groups held against a baseline: ratio, interval, test; units scaled; rows sorted."""

import math

import pytest
from scipy import stats

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.reporting.compare import check_sort, compare_runs
from mlflow_carbon.reporting.comparison_tables import comparison_report
from tests.test_compare import frame, run_row

ENERGIES = {"1000": (10.0, 11.0, 9.0), "200": (2.0, 2.2, 2.1), "50": (0.6, 0.5, 0.55)}


def runs(**extra):
    return frame(
        *(
            run_row(params__steps=steps, energy_kwh_per_unit=kwh, energy_kwh=4 * kwh) | extra
            for steps, energies in ENERGIES.items()
            for kwh in energies
        )
    )


def against(baseline, **options):
    return compare_runs(runs(), baseline=baseline, **options)


def row_of(comparison, steps):
    (row,) = (row for _, row in comparison.table.iterrows() if row["steps"] == steps)
    return row


def test_ratio_change_test_and_size_against_the_baseline():
    comparison = against({"steps": "1000"})
    row = row_of(comparison, "200")
    assert [row["energy_ratio"], row["co2e_ratio"]] == pytest.approx([0.21, 0.21])
    assert row["co2e_change_percent"] == pytest.approx(-79.0)
    assert row["co2e_ratio_low"] < 0.21 < row["co2e_ratio_high"]
    expected = stats.ttest_ind(ENERGIES["200"], ENERGIES["1000"], equal_var=False).pvalue
    assert row["p_value"] == pytest.approx(expected)
    # the larger of two p-values stays at least that of the smaller one, doubled
    p_values = sorted(row_of(comparison, steps)["p_value"] for steps in ("50", "200"))
    assert row["p_value_holm"] >= p_values[0] * 2 * (1 - 1e-12)
    assert row["effect_size"] < -2
    assert math.isnan(row_of(comparison, "1000")["energy_ratio"])


def test_baseline_groups_by_its_key_and_is_a_value_as_users_write_it():
    assert against({"steps": "1e3"}).group_by == ("steps",)


def test_whole_runs_are_held_against_each_other_per_run():
    assert row_of(against({"steps": "1000"}, per="run"), "50")["energy_ratio"] == pytest.approx(
        0.055
    )


def test_other_prices_of_the_same_runs_are_no_further_tests():
    prices = [lookup_intensity(name, intensity_set="paper_table1") for name in ("SE", "PL")]
    many = against({"steps": "1000"}, intensities=prices).table["p_value_holm"].dropna()
    one = against({"steps": "1000"}).table["p_value_holm"].dropna()
    assert sorted(many) == pytest.approx(sorted([*one, *one]))


def test_region_as_baseline_is_exact_and_tests_nothing():
    prices = [lookup_intensity(name, intensity_set="paper_table1") for name in ("SE", "PL")]
    table = against({"region": "PL"}, intensities=prices).table
    row = table[table["region"] == "SE"].iloc[0]
    assert row["co2e_ratio"] == pytest.approx(7 / 666)
    assert math.isnan(row["co2e_ratio_low"])
    assert math.isnan(row["p_value"])


def test_baseline_is_sought_among_groups_that_are_equal_otherwise():
    rows = frame(
        run_row(params__steps="1000") | {"params.sampler": "ddpm"},
        run_row(params__steps="20") | {"params.sampler": "unipc"},
    )
    comparison = compare_runs(rows, group_by=["sampler", "steps"], baseline={"steps": "1000"})
    assert comparison.table["energy_ratio"].isna().all()
    assert any("1 row has no baseline" in notice for notice in comparison.notices)
    both = {"steps": "1000", "sampler": "ddpm"}
    assert compare_runs(rows, baseline=both).table["energy_ratio"].notna().sum() == 1


def test_baseline_that_no_group_is_names_those_there_are():
    with pytest.raises(InvalidInputError, match=r"No group has steps=30; steps is 50, 200, 1000"):
        against({"steps": "30"})


def test_scaled_figures_are_so_many_times_the_mean_and_its_std():
    row = row_of(compare_runs(runs(), group_by=["steps"], scale_to=100), "1000")
    assert row["energy_kwh_scaled_mean"] == pytest.approx(1000.0)
    assert row["energy_kwh_scaled_std"] == pytest.approx(100.0)
    assert row["co2e_g_scaled_mean"] == pytest.approx(1000.0 * 300)


@pytest.mark.parametrize(
    ("sort", "order"),
    [("energy", ["50", "200", "1000"]), ("-co2e", ["1000", "200", "50"]), ("-steps", None)],
)
def test_rows_are_sorted_by_energy_co2e_or_a_column(sort, order):
    table = compare_runs(runs(), group_by=["steps"], sort=sort).table
    assert list(table["steps"]) == (order or ["1000", "200", "50"])


def test_sort_by_what_is_not_there_names_what_is():
    with pytest.raises(
        InvalidInputError,
        match=r"sort is 'kidd'; give energy, co2e, a key .* Nearest: kid, [a-z_]+, [a-z_]+\.$",
    ):
        check_sort("kidd", ["kid"])


def test_a_key_is_named_without_its_prefix_and_only_columns_shown_are_explained():
    report = str(comparison_report(compare_runs(runs(), group_by=["params.steps"])))
    assert report.startswith("1000 steps cost ")
    assert "params." not in report
    assert "within: std" in report
    single = str(comparison_report(compare_runs(frame(run_row()))))
    assert "within (%)" not in single
    assert "within: std" not in single
    assert "coverage: share of the time" in single


def test_a_baseline_explains_the_columns_that_are_shown():
    several = str(comparison_report(against({"steps": "1000"}))).partition("Against")[2]
    assert "p: Welch's t-test" in several
    assert "(Hedges)" in several
    rows = frame(run_row(), run_row(params__steps="1000", energy_kwh_per_unit=5.0))
    single = str(comparison_report(compare_runs(rows, baseline={"steps": "1000"})))
    assert "One run a group tells no interval and no p" in single
    assert "Welch" not in single


def test_per_keeps_one_unit_and_refuses_what_no_run_counts():
    mixed = frame(run_row(), run_row(unit="iteration"))
    assert list(compare_runs(mixed, per="iteration").table["unit"]) == ["iteration"]
    with pytest.raises(InvalidInputError, match="they count iteration, sample"):
        compare_runs(mixed, per="epoch")


def test_per_run_takes_runs_without_a_unit():
    bare = run_row(unit=None, energy_kwh_per_unit=math.nan)
    assert list(compare_runs(frame(bare), per="run").table["num_runs"]) == [1]


# What is printed


def test_answer_comes_first():
    report = str(comparison_report(compare_runs(runs(), group_by=["steps"])))
    assert report.startswith("1000 steps cost 18 × 50 steps per sample.\n")
    report = str(comparison_report(against({"steps": "1000"})))
    assert report.startswith("50 steps emit 0.055 × 1000 steps per sample (-94 %, 95 % interval")
    one = str(comparison_report(compare_runs(frame(run_row()))))
    assert one.startswith("A sample takes 500 Wh and emits 150 g CO2e in EU27.\n")


def test_interval_is_given_where_two_groups_are_all():
    rows = runs()
    report = str(
        comparison_report(compare_runs(rows[rows["params.steps"] != "50"], group_by=["steps"]))
    )
    first = report.splitlines()[0]
    assert first.startswith("1000 steps cost 4.8 × 200 steps per sample (95 % interval ")


def test_table_of_two_keys_fits_80_columns_and_has_no_empty_column():
    rows = runs(**{"params.sampler": "unipc", "coverage_fraction": math.nan})
    report = str(comparison_report(compare_runs(rows, group_by=["sampler", "steps"])))
    assert max(map(len, report.splitlines())) <= 80
    assert "coverage  " not in report
    assert "± is the sample std between runs, each run counting once." in report
