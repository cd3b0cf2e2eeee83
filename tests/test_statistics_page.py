"""docs/statistics.md is what its program writes, and the paper's columns are those of the facts."""

import csv
from importlib.resources import files

import pytest

from benchmarks.interval_coverage import PAGE, page, paper_table


@pytest.mark.slow
def test_statistics_page_is_what_the_program_writes():
    assert PAGE.read_text(encoding="utf-8") == page()


def test_page_holds_the_papers_table():
    assert paper_table() in PAGE.read_text(encoding="utf-8")


def test_papers_table_agrees_with_the_figures_derived_by_others():
    text = (files("mlflow_carbon") / "data" / "paper_results.csv").read_text(encoding="utf-8")
    derived = {row["id"]: row for row in csv.DictReader(text.splitlines()) if row["kg_std"]}
    lines = [line.strip("| ").split(" | ") for line in paper_table().splitlines()[2:]]
    assert [line[0] for line in lines] == list(derived)
    for name, _, _, _, linear, square_root, of_total_kg in lines:
        row = derived[name]
        assert float(linear.rstrip(" %")) == pytest.approx(
            float(row["unit_cv_pct_if_std_linear_in_N"]), rel=0.01
        )
        assert float(square_root.rstrip(" %")) == pytest.approx(
            float(row["unit_cv_pct_if_std_sqrtN"]), rel=0.01
        )
        assert float(of_total_kg) == pytest.approx(float(row["honest_std_kg_predictive"]), rel=0.03)
