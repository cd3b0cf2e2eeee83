"""The line of a run's description, beside what the user wrote."""

from dataclasses import replace

from mlflow_carbon.accounting.cheaper import num_steps
from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.run_description import sentence, with_sentence
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import UnitEnergy
from mlflow_carbon.grid.intensity import given_intensity

HOW = MeterDescription(
    ("cpu",), {"cpu": "tdp", "gpu": "unavailable"}, None, "whole_node", "1 CPU", "meter 1", ()
)
RECORD = RunRecord(
    "1",
    total=Total(10.0, 0.001),  # x PUE 2 x 20 g/kWh = 40 mg
    energy_per_unit={"sample": UnitEnergy(2e-5)},
    co2e_g=0.04,
    pue=2.0,
    intensity=replace(given_intensity(20.0, region="SE"), period="2024", intensity_set="ember"),
    description=HOW,
    unit="sample",
    num_units=50.0,
)


def test_sentence_says_what_the_run_cost_where_and_how_that_was_measured():
    assert sentence(RECORD) == (
        "40 mg CO2e (1 Wh) · SE 20 g/kWh (2024, ember) × PUE 2 · CPU estimated, GPU not measured · "
        "50 samples, 800 µg each"
    )


def test_sentence_names_the_steps_of_a_sample_where_they_are_known():
    assert sentence(RECORD, num_steps=200).endswith("50 samples at 200 steps, 800 µg each")
    epochs = replace(RECORD, unit="epoch", energy_per_unit={"epoch": UnitEnergy(2e-5)})
    assert sentence(epochs, num_steps=200).endswith("50 epochs, 800 µg each")


def test_steps_are_those_that_a_parameter_names():
    assert num_steps({"steps": "'200'", "seed": "1"}) == 200
    assert num_steps({"num_inference_steps": "50"}) == 50
    assert num_steps({"steps": "many"}) is None


def test_sentence_of_a_run_without_units_or_methods_is_shorter():
    bare = replace(RECORD, description=None, unit="minute", pue=1.0)
    assert sentence(bare) == "40 mg CO2e (1 Wh) · SE 20 g/kWh (2024, ember)"
    assert sentence(replace(RECORD, total=None)) is None


def test_the_users_text_is_kept_and_our_line_replaced():
    theirs = "# Mine\n\nkeep *this*"
    once = with_sentence(theirs, "one")
    assert once.startswith(theirs)
    assert with_sentence(once + "\nand this", "two") == (
        f"{theirs}\n\n\u2060two <!-- carbon -->\nand this"
    )
    assert with_sentence("", "one") == "\u2060one <!-- carbon -->"
    torn = "text <!-- carbon --> \u2060 and no end"
    for _ in range(2):
        torn = with_sentence(torn, "one")
        assert torn.startswith("text <!-- carbon --> \u2060 and no end")
        assert torn.count("one") == 1
