"""Equivalents of kg CO2e against hand computations; every factor has its edition and source."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from mlflow_carbon.accounting.equivalents import (
    DEFAULT_EDITION_BY_KIND,
    budget_share,
    equivalent,
    equivalents,
    factors,
)
from mlflow_carbon.cli import cli
from mlflow_carbon.reporting.everyday import quantity_text


@pytest.mark.parametrize(
    ("kind", "edition", "quantity"),
    [
        ("car", "paper (EU new cars 2022, provisional)", 3348.4),  # 362.3 / 0.1082
        ("car", "EU new cars 2022, final", 3351.5),  # 362.3 / 0.1081
        ("car", "US cars on the road", 1483.6),  # 362.3 / 0.2442
        ("phone", "EPA, current", 29218),  # 362.3 / 0.0124
        ("flight", "paper, implied per km", 1500.0),  # 362.3 / 0.24153
        ("flight", "paper, implied by real distance", 1257.0),  # 362.3 / 0.28823
        ("tree", "EPA 2023", 6.038),  # 362.3 / 60
    ],
)
def test_largest_figure_of_the_paper_is_so_much(kind, edition, quantity):
    found = equivalent(362.3, kind, edition=edition)
    assert found.quantity == pytest.approx(quantity, rel=1e-4)
    assert found.least <= found.quantity <= found.most


def test_each_kind_is_given_once_in_its_default_edition():
    found = equivalents(1.0)
    assert {item.factor.kind: item.factor.edition for item in found} == DEFAULT_EDITION_BY_KIND
    assert [item.factor.unit for item in found] == ["km", "charge", "km", "tree"]


def test_range_spans_the_editions():
    # 0.1068 to 0.2442 kg a km
    found = equivalent(1.0, "car")
    assert (found.least, found.most) == pytest.approx((1 / 0.2442, 1 / 0.1068))


def test_every_factor_names_its_edition_and_source():
    assert len({(factor.kind, factor.edition) for factor in factors()}) == len(factors())
    for factor in factors():
        assert factor.edition
        assert factor.source
        assert factor.url.startswith("https://")
        assert factor.kg_per_unit > 0


def test_budget_share_is_that_of_the_hand_computation():
    # 250e12 kg / 8e9 / 27 = 1157.41 kg a person and year; 362.3 kg are 31.3 %
    share = budget_share(362.3)
    assert share.budget_kg == pytest.approx(1157.41, abs=0.01)
    assert share.fraction == pytest.approx(0.31303, abs=1e-5)


def test_every_assumption_of_the_budget_is_a_parameter():
    share = budget_share(1.0, remaining_gt=100, population=1e9, years=10)
    assert share.budget_kg == 10_000
    assert (share.remaining_gt, share.population, share.years) == (100, 1e9, 10)


@given(st.floats(min_value=0, max_value=1e9), st.floats(min_value=0, max_value=1e3))
def test_quantities_are_proportional(co2e_kg, factor):
    for kind in DEFAULT_EDITION_BY_KIND:
        once, more = equivalent(co2e_kg, kind), equivalent(factor * co2e_kg, kind)
        assert more.quantity == pytest.approx(factor * once.quantity)


# 12.4 kg: / 0.1081, / 0.0124, / 0.24153, / 60 kg; of 1157.4 kg a year
TABLE = """\
as much as  quantity  unit                   over editions
car              115  km                       50.8 to 116
phone           1000  charge                  1000 to 4117
flight          51.3  km                      43.0 to 51.3
tree           0.207  tree                  0.207 to 0.318
budget          1.07  % of a person's year               -
"""


def equivalents_command(*args):
    return CliRunner().invoke(cli, ["equivalents", *args])


def test_command_prints_quantities_ranges_and_sources():
    result = equivalents_command("12.4")
    assert result.stdout.startswith(TABLE)
    assert max(map(len, TABLE.splitlines())) <= 80
    assert "car: EU new cars 2022, final. EEA final data / DG CLIMA 2024-03-18" in result.stdout
    assert "budget: 250 Gt, 8 billion people, 27 years. About 250 Gt" in result.stdout


def test_command_takes_every_assumption_of_the_budget():
    assumed = ("--remaining-gt", "100", "--population", "1e9", "--years", "10")
    rows = json.loads(equivalents_command("100", *assumed, "--format", "json").stdout)
    budget = next(row for row in rows if row["kind"] == "budget")
    # 100e12 kg / 1e9 / 10 = 10,000 kg a year
    assert budget["quantity"] == pytest.approx(1.0)
    assert budget["edition"] == "100 Gt, 1 billion people, 10 years"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nan",), "co2e_kg is nan;"),
        (("inf",), "co2e_kg is inf;"),
        (("--", "-1"), "co2e_kg is -1.0;"),
        (("1", "--years", "0"), "years is 0.0;"),
    ],
)
def test_command_refuses_what_is_no_mass(args, message):
    result = equivalents_command(*args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (3348.4, "3348"), (0.12345, "0.123"), (0.001, "0.00100"), (2.13e-5, "2.13e-05")],
)
def test_quantities_have_three_digits(value, text):
    assert quantity_text(value) == text


def test_docs_show_it():
    usage = Path(__file__).parent.parent / "docs" / "commands.md"
    assert TABLE in usage.read_text(encoding="utf-8")
