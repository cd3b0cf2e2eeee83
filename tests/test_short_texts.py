"""Amounts in the unit that suits their size, and the line of a run's description."""

from dataclasses import replace

import pytest

from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.run_description import sentence, with_sentence
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.short_texts import energy_text, mass_text
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import UnitEnergy
from mlflow_carbon.grid.intensity import given_intensity


@pytest.mark.parametrize(
    ("mass_g", "text"),
    [
        (0.0, "0 µg"),
        (5e-9, "0.005 µg"),
        (5.8e-5, "58 µg"),
        (0.0176, "17.6 mg"),
        (0.9999, "1 g"),
        (75.0, "75 g"),
        (999.6, "1 kg"),
        (3e6, "3 t"),
        (1.234e9, "1230 t"),
    ],
)
def test_mass_has_three_digits_and_the_unit_of_its_size(mass_g, text):
    assert mass_text(mass_g) == text


def test_energy_is_in_watt_hours():
    assert [energy_text(kwh) for kwh in (4.5e-5, 0.002, 12.0)] == ["45 mWh", "2 Wh", "12 kWh"]


HOW = MeterDescription(
    ("cpu",), {"cpu": "tdp", "gpu": "unavailable"}, None, "whole_node", "1 CPU", "meter 1", ()
)
RECORD = RunRecord(
    "1",
    total=Total(10.0, 0.001),  # x PUE 2 x 20 g/kWh = 40 mg
    energy_per_unit={"sample": UnitEnergy(2e-5)},
    co2e_g=0.04,
    pue=2.0,
    intensity=given_intensity(20.0, region="SE"),
    description=HOW,
    unit="sample",
    num_units=50.0,
)


def test_sentence_says_what_the_run_cost_where_and_how_that_was_measured():
    assert sentence(RECORD) == (
        "40 mg CO2e (1 Wh) · SE 20 g/kWh × PUE 2 · CPU estimated, GPU not measured · "
        "50 samples of 800 µg each"
    )


def test_sentence_of_a_run_without_units_or_methods_is_shorter():
    bare = replace(RECORD, description=None, unit="minute", pue=1.0)
    assert sentence(bare) == "40 mg CO2e (1 Wh) · SE 20 g/kWh"
    assert sentence(replace(RECORD, total=None)) is None


def test_the_users_text_is_kept_and_our_line_replaced():
    theirs = "# Mine\n\nkeep *this*"
    once = with_sentence(theirs, "one")
    assert once.startswith(theirs)
    assert with_sentence(once + "\nand this", "two") == (
        f"{theirs}\n\n<!-- carbon -->\ntwo\n<!-- /carbon -->\nand this"
    )
    assert with_sentence("", "one") == "<!-- carbon -->\none\n<!-- /carbon -->"
    torn = "text <!-- carbon --> and no end"
    for _ in range(2):
        torn = with_sentence(torn, "one")
        assert torn.startswith("text <!-- carbon --> and no end")
        assert torn.count("one") == 1
