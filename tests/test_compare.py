"""Mean, std between runs and std within runs, by group and region."""

import math
import sqlite3
import statistics
from contextlib import closing

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.reporting.compare import STATISTIC_COLUMNS, compare_runs
from mlflow_carbon.store.runs import read_runs
from tests.fakes.metered_runs import write_run


def run_row(run_id="r", **figures):
    """Returns a row as read_runs makes it: 2 kWh for 4 samples in 2 windows, std 0.1 kWh."""
    row = {
        "run_id": run_id,
        "scope": "run",
        "region": "EU27",
        "period": "2022",
        "intensity_set": "paper_table1",
        "intensity_basis": "production; direct",
        "unit": "sample",
        "methods": "cpu=counter",
        "attribution": "whole_node",
        "energy_kwh": 2.0,
        "pue": 1.5,
        "intensity_g_per_kwh": 200.0,
        "num_units": 4.0,
        "num_windows": 2.0,
        "num_distinct_readings": 10.0,
        "coverage_fraction": 0.75,
        "energy_kwh_per_unit": 0.5,
        "energy_kwh_per_unit_std_within": 0.1,
        "params.steps": "50",
    }
    return row | {name.replace("__", "."): value for name, value in figures.items()}


def frame(*rows):
    return pd.DataFrame([row | {"run_id": f"r{number}"} for number, row in enumerate(rows)])


def only_row(comparison):
    assert len(comparison.table) == 1
    return comparison.table.iloc[0]


@pytest.fixture
def sweden():
    return lookup_intensity("Sweden", intensity_set="paper_table1")


@pytest.fixture
def poland():
    return lookup_intensity("Poland", intensity_set="paper_table1")


def test_compare_runs_averages_run_values():
    runs = frame(run_row(energy_kwh_per_unit=0.4), run_row(energy_kwh_per_unit=0.6))
    row = only_row(compare_runs(runs))
    # mean (0.4 + 0.6) / 2; sample std sqrt(2 x 0.1² / 1) = 0.141421
    assert row["energy_kwh_per_unit_mean"] == pytest.approx(0.5)
    assert row["energy_kwh_per_unit_std_between"] == pytest.approx(0.1 * math.sqrt(2))
    # x 1.5 x 200 g/kWh = x 300
    assert row["co2e_g_per_unit_mean"] == pytest.approx(150.0)
    assert row["co2e_g_per_unit_std_between"] == pytest.approx(30.0 * math.sqrt(2))
    assert (row["num_runs"], row["num_windows"]) == (2, 4)


def test_compare_runs_counts_each_run_once_however_long_it_was():
    runs = frame(run_row(energy_kwh_per_unit=0.4, num_windows=100), run_row())
    # (0.4 + 0.5) / 2, not weighted by 100 and 2 windows
    assert only_row(compare_runs(runs))["energy_kwh_per_unit_mean"] == pytest.approx(0.45)


def test_compare_runs_pools_the_std_within_runs():
    runs = frame(
        run_row(num_windows=3, energy_kwh_per_unit_std_within=0.3),
        run_row(num_windows=5, energy_kwh_per_unit_std_within=0.1),
    )
    # sqrt((2 x 0.3² + 4 x 0.1²) / (2 + 4)) = sqrt(0.22 / 6)
    within = only_row(compare_runs(runs))["energy_kwh_per_unit_std_within"]
    assert within == pytest.approx(math.sqrt(0.22 / 6))


def test_compare_runs_leaves_runs_of_one_window_out_of_the_std_within():
    one_window = run_row(num_windows=1, energy_kwh_per_unit_std_within=math.nan)
    row = only_row(compare_runs(frame(run_row(), one_window)))
    assert row["energy_kwh_per_unit_std_within"] == pytest.approx(0.1)
    assert row["num_windows"] == 3


def test_compare_runs_gives_the_readings_of_all_runs_and_their_mean_coverage():
    row = only_row(compare_runs(frame(run_row(), run_row(coverage_fraction=0.25))))
    assert (row["num_distinct_readings"], row["coverage_fraction"]) == (20, 0.5)


def test_compare_runs_warns_of_runs_with_few_readings():
    runs = frame(run_row(), run_row(num_distinct_readings=4), run_row(num_distinct_readings=5))
    (notice,) = compare_runs(runs).notices
    assert notice.startswith("1 of 3 runs rest on fewer than 5 distinct power readings: their")


def test_compare_runs_knows_no_readings_where_a_run_does_not_say():
    comparison = compare_runs(frame(run_row(), run_row(num_distinct_readings=math.nan)))
    assert math.isnan(only_row(comparison)["num_distinct_readings"])
    assert comparison.notices == ()


def test_compare_runs_has_no_std_between_for_one_run():
    row = only_row(compare_runs(frame(run_row())))
    assert math.isnan(row["energy_kwh_per_unit_std_between"])
    assert math.isnan(row["co2e_g_std_between"])
    assert row["energy_kwh_per_unit_std_within"] == pytest.approx(0.1)


def test_compare_runs_has_no_std_at_all_for_one_window():
    one_window = run_row(num_windows=1, energy_kwh_per_unit_std_within=math.nan)
    row = only_row(compare_runs(frame(one_window)))
    assert row[[name for name in STATISTIC_COLUMNS if "_std_" in name]].isna().all()


def test_compare_runs_gives_whole_runs_with_their_gaps():
    row = only_row(compare_runs(frame(run_row(energy_kwh=2.0), run_row(energy_kwh=3.0))))
    # mean 2.5 kWh x 300 g/kWh = 750 g; std 0.5 x sqrt(2)
    assert row["energy_kwh_mean"] == pytest.approx(2.5)
    assert row["co2e_g_mean"] == pytest.approx(750.0)
    assert row["energy_kwh_std_between"] == pytest.approx(0.5 * math.sqrt(2))


def test_compare_runs_keeps_what_each_run_recorded():
    runs = frame(run_row(pue=1.0), run_row(pue=2.0))
    row = only_row(compare_runs(runs))
    # 0.5 x 1 x 200 = 100 g and 0.5 x 2 x 200 = 200 g
    assert row["co2e_g_per_unit_mean"] == pytest.approx(150.0)
    assert math.isnan(row["pue"])


def test_compare_runs_says_that_recorded_pues_differ():
    runs = frame(run_row(pue=1.0), run_row(pue=2.0))
    assert compare_runs(runs).notices == ("1 of 1 rows mix pue 1.0, 2.0: give one `pue`.",)


def test_compare_runs_prices_every_run_in_every_region(sweden, poland):
    runs = frame(run_row(region="EU27"), run_row(region="DE"))
    table = compare_runs(runs, intensities=[sweden, poland]).table
    assert list(table["region"]) == [sweden.region, poland.region]
    assert list(table["num_runs"]) == [2, 2]
    # 0.5 kWh x 1.5 x 7 and x 666 g/kWh (paper, Table 1)
    assert list(table["co2e_g_per_unit_mean"]) == pytest.approx([5.25, 499.5])


def test_compare_runs_refuses_a_region_twice(sweden):
    with pytest.raises(InvalidInputError, match="Regions SE, SE repeat"):
        compare_runs(frame(run_row()), intensities=[sweden, sweden])


def test_compare_runs_keeps_recorded_regions_apart():
    runs = frame(run_row(region="SE"), run_row(region="EU27"), run_row(region="SE"))
    table = compare_runs(runs).table
    assert dict(zip(table["region"], table["num_runs"], strict=True)) == {"EU27": 1, "SE": 2}


def test_compare_runs_prices_with_another_pue():
    row = only_row(compare_runs(frame(run_row()), pue=1.0))
    # 0.5 kWh x 1.0 x 200 g/kWh
    assert row["co2e_g_per_unit_mean"] == pytest.approx(100.0)
    assert row["pue"] == 1.0


@pytest.mark.slow
@settings(deadline=None, max_examples=30)  # a comparison takes a tenth of a second
@given(factor=st.floats(0.01, 100), energies=st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=5))
def test_compare_runs_scales_co2e_with_intensity(factor, energies):
    rows = [run_row(energy_kwh_per_unit=kwh, energy_kwh=4 * kwh) for kwh in energies]
    scaled = [row | {"intensity_g_per_kwh": 200.0 * factor} for row in rows]
    one, other = only_row(compare_runs(frame(*rows))), only_row(compare_runs(frame(*scaled)))
    for name in STATISTIC_COLUMNS:
        expected = one[name] * factor if name.startswith("co2e") else one[name]
        # The std of equal values is rounding noise, which does not scale.
        noise = 1e-12 * max(one["co2e_g_mean"], other["co2e_g_mean"])
        assert other[name] == pytest.approx(expected, rel=1e-9, abs=noise)


def test_compare_runs_never_mixes_units():
    runs = frame(run_row(unit="sample"), run_row(unit="iteration"))
    assert sorted(compare_runs(runs).table["unit"]) == ["iteration", "sample"]


def test_compare_runs_sorts_numbers_as_numbers(sweden, poland):
    runs = frame(*(run_row(params__steps=steps) for steps in ("1000", "50", "200")))
    table = compare_runs(runs, group_by=["steps"], intensities=[sweden, poland]).table
    assert list(table["steps"]) == ["50", "50", "200", "200", "1000", "1000"]
    assert list(table["region"]) == [sweden.region, poland.region] * 3


def test_compare_runs_groups_by_several_parameters_and_tags():
    runs = frame(
        run_row(params__steps="50", tags__lab="A"),
        run_row(params__steps="50", tags__lab="B"),
        run_row(params__steps="50", tags__lab="B"),
    )
    table = compare_runs(runs, group_by=["steps", "lab"]).table
    assert list(table["lab"]) == ["A", "B"]
    assert list(table["num_runs"]) == [1, 2]


def test_compare_runs_takes_the_parameter_before_the_tag_of_the_same_name():
    runs = frame(run_row(params__steps="50", tags__steps="tagged"))
    assert only_row(compare_runs(runs, group_by=["steps"]))["steps"] == "50"
    tagged = compare_runs(runs, group_by=["tags.steps"])
    assert only_row(tagged)["tags.steps"] == "tagged"


def test_compare_runs_groups_by_experiment():
    runs = frame(run_row(experiment="one"), run_row(experiment="two"))
    assert list(compare_runs(runs, group_by=["experiment"]).table["experiment"]) == ["one", "two"]


def test_experiment_and_a_parameter_of_that_name_are_told_apart():
    rows = [run_row(experiment=name) | {"params.experiment": "mine"} for name in ("one", "two")]
    by_experiment = compare_runs(frame(*rows), group_by=["experiment"])
    assert list(by_experiment.table["experiment"]) == ["one", "two"]
    assert (
        "Grouped by MLflow's experiment; runs have params.experiment, too: "
        "give that name to group by it."
    ) in by_experiment.notices
    by_parameter = compare_runs(frame(*rows), group_by=["params.experiment", "experiment"])
    assert list(by_parameter.table["params.experiment"]) == ["mine", "mine"]
    assert list(by_parameter.table["experiment"]) == ["one", "two"]


def test_parameter_and_tag_of_one_name_are_told_apart():
    rows = [run_row() | {"params.kind": "a", "tags.kind": tag} for tag in ("x", "y")]
    comparison = compare_runs(frame(*rows), group_by=["kind"])
    assert list(comparison.table["kind"]) == ["a"]
    assert any("runs have tags.kind, too" in notice for notice in comparison.notices)
    assert list(compare_runs(frame(*rows), group_by=["tags.kind"]).table["tags.kind"]) == ["x", "y"]


def test_compare_runs_always_groups_by_unit_and_region():
    table = compare_runs(frame(run_row()), group_by=["region", "unit", "steps"]).table
    assert list(table.columns[:3]) == ["steps", "unit", "region"]


def test_compare_runs_leaves_out_parents():
    comparison = compare_runs(frame(run_row(), run_row(scope="parent", energy_kwh=100.0)))
    assert only_row(comparison)["energy_kwh_mean"] == 2.0
    assert comparison.notices == ("Left out 1 run whose energy contains that of child runs.",)


def test_compare_runs_leaves_out_runs_without_the_group_key():
    runs = frame(run_row(), run_row(params__steps=None), run_row(params__steps=None))
    comparison = compare_runs(runs, group_by=["steps"])
    assert only_row(comparison)["num_runs"] == 1
    assert comparison.notices == ("Left out 2 runs without steps.",)


def test_compare_runs_leaves_out_what_was_not_measured():
    nothing = run_row(energy_kwh=math.nan, energy_kwh_per_unit=math.nan, unit=None)
    comparison = compare_runs(frame(run_row(), nothing))
    assert only_row(comparison)["num_runs"] == 1
    assert comparison.notices == ("Left out 1 run without energy per unit.",)


def test_compare_runs_says_that_methods_are_mixed():
    comparison = compare_runs(frame(run_row(), run_row(methods="cpu=tdp")), pool=True)
    assert pd.isna(only_row(comparison)["methods"])
    assert "1 of 1 rows mix methods (CPU counted), (CPU estimated)" in comparison.notices[0]


def test_compare_runs_says_that_regions_come_from_different_sets(sweden):
    ember = lookup_intensity("Poland", intensity_set="ember")
    comparison = compare_runs(frame(run_row()), intensities=[sweden, ember])
    of_sets, of_bases = comparison.notices
    assert of_sets == (
        f"Intensities come from different sets: ember ({ember.region}), "
        f"paper_table1 ({sweden.region}); give one `intensity_set`."
    )
    assert of_bases == (
        "Intensities rest on different bases and do not compare "
        f"(SE: {sweden.basis}; PL: {ember.basis})."
    )


def test_compare_runs_names_the_nearest_group_key():
    with pytest.raises(InvalidInputError, match=r"No run has .* 'stepz'.*Nearest: steps"):
        compare_runs(frame(run_row()), group_by=["stepz"])


def test_compare_runs_refuses_a_group_key_that_is_a_result():
    with pytest.raises(InvalidInputError, match=r"Cannot group by 'pue'.*Use params\.pue"):
        compare_runs(frame(run_row(params__pue="1.5")), group_by=["pue"])


def test_compare_runs_says_why_no_run_is_left():
    with pytest.raises(NoRunsError, match=r"None of 1 metered runs .* 1 run whose energy contains"):
        compare_runs(frame(run_row(scope="parent")))


@pytest.mark.slow
def test_compare_runs_agrees_with_the_raw_database(store):
    """The definitions again, from the rows of the database and nothing of ours."""
    client = MlflowClient(tracking_uri=store)
    runs = {
        write_run(client, "exp", windows=windows, gap_kwh=0.5e-6, params={"steps": "50"})
        for windows in (
            [(1.0e-6, 4.0), (1.4e-6, 4.0), (0.5e-6, 2.0)],
            [(1.2e-6, 4.0), (1.1e-6, 4.0)],
        )
    }
    windows = {run_id: {} for run_id in runs}
    totals = {}
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        for run_id, key, step, value in database.execute(
            "SELECT run_uuid, key, step, value FROM metrics ORDER BY step"
        ):
            if key in ("carbon/window/energy_kwh", "carbon/window/num_units"):
                windows[run_id].setdefault(step, {})[key.rpartition("/")[2]] = value
            elif key == "carbon/energy_kwh":
                totals[run_id] = value
    per_unit = {
        run_id: [window["energy_kwh"] / window["num_units"] for window in series.values()]
        for run_id, series in windows.items()
    }
    run_values = [
        sum(window["energy_kwh"] for window in series.values())
        / sum(window["num_units"] for window in series.values())
        for series in windows.values()
    ]
    squares = sum((x - statistics.mean(xs)) ** 2 for xs in per_unit.values() for x in xs)
    degrees_of_freedom = sum(len(xs) - 1 for xs in per_unit.values())
    row = only_row(compare_runs(read_runs(client, experiment_names=["exp"]), group_by=["steps"]))
    expected = {
        "energy_kwh_per_unit_mean": statistics.mean(run_values),
        "energy_kwh_per_unit_std_between": statistics.stdev(run_values),
        "energy_kwh_per_unit_std_within": math.sqrt(squares / degrees_of_freedom),
        "co2e_g_per_unit_mean": statistics.mean(run_values) * 1.5 * 250.0,
        "energy_kwh_mean": statistics.mean(totals.values()),
        "co2e_g_std_between": statistics.stdev(totals.values()) * 1.5 * 250.0,
        "num_windows": 5,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected)
