"""What people read: printed units, digits that mean something, full precision for programs."""

import io
import json
import math

import pandas as pd
import pytest

from mlflow_carbon.reporting.report import Column, text_table
from mlflow_carbon.reporting.tables import Scale, choose_scale, to_csv, to_json

JOULES = Scale("J", 3.6e6)
SCALES = (Scale("mg", 1e3), Scale("g", 1.0), Scale("kg", 1e-3))


@pytest.mark.parametrize(
    ("values_g", "symbol"),
    [
        ([0.2, 0.5], "mg"),
        ([0.01, 1.0], "g"),
        ([999.0], "g"),
        ([999.99999], "kg"),
        ([7.0, 1000.0], "kg"),
        ([1e-9], "mg"),
        ([math.nan, 2.0], "g"),
        ([], "mg"),
    ],
)
def test_choose_scale_makes_the_largest_value_one_or_more(values_g, symbol):
    assert choose_scale(values_g, SCALES).symbol == symbol


@pytest.mark.parametrize(
    ("value_kwh", "text"),
    [
        (1 / 3.6e6, "1.000"),
        (9.99996 / 3.6e6, "10.00"),
        (12.345678 / 3.6e6, "12.35"),
        (123456.7 / 3.6e6, "123457"),
        (0.000123456 / 3.6e6, "0.0001235"),
        (0.0, "0"),
        (math.nan, "-"),
    ],
)
def test_scale_prints_four_significant_digits_without_exponent(value_kwh, text):
    assert JOULES.text(value_kwh) == text


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [
        (12.3456, 0.4321, "12.35 ± 0.43"),
        (12345.6, 432.1, "12346 ± 432"),
        (12.3456, 0.0, "12.35"),
        (12.3456, math.nan, "12.35"),
    ],
)
def test_scale_prints_the_value_to_the_place_of_its_std(value, std, text):
    assert Scale("g", 1.0).text_with_std(value, std) == text


def test_text_table_puts_text_left_and_numbers_right():
    columns = [Column("model", ["a", "longer"], is_text=True), Column("g", ["1", "22"])]
    assert text_table(columns) == "model    g\na        1\nlonger  22\n"


def test_to_csv_gives_back_the_same_numbers():
    frame = pd.DataFrame({"name": ["a", "b"], "energy_kwh": [0.1 + 0.2, math.nan]})
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(to_csv(frame))), frame)


def test_to_json_gives_back_the_same_numbers_and_null_for_none():
    frame = pd.DataFrame({"runs": [2, 3], "energy_kwh": [0.1 + 0.2, math.nan]})
    assert json.loads(to_json(frame)) == [
        {"runs": 2, "energy_kwh": 0.1 + 0.2},
        {"runs": 3, "energy_kwh": None},
    ]
