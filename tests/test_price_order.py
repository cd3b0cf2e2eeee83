"""One price for plugin, project and commands: argument, environment, default."""

import mlflow
import pytest
from click.testing import CliRunner

import mlflow_carbon
from mlflow_carbon.cli import cli
from mlflow_carbon.contract.price_order import assumptions_in_order
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.grid.price_settings import PriceSettings
from mlflow_carbon.metering.meter_settings import MeterSettings

VARIABLES = {"MLFLOW_CARBON_REGION": "Poland", "MLFLOW_CARBON_PUE": "1.5"}


def test_argument_wins_over_variable_and_variable_over_default():
    found = assumptions_in_order(PriceSettings(region="Sweden"), environment=VARIABLES)
    assert (found.intensity.region, found.pue) == ("SE", 1.5)
    assert found.defaulted == ("intensity_set",)


def test_default_is_the_world_in_the_newest_year_of_ember_at_pue_1():
    found = assumptions_in_order(PriceSettings(), environment={})
    assert (found.intensity, found.pue) == (lookup_intensity("WORLD", intensity_set="ember"), 1.0)
    assert found.intensity.label == "WORLD 471.1 g/kWh (2024, ember)"


@pytest.mark.parametrize(
    ("chosen", "lent", "expected"),
    [
        # an own figure on one side ends what the other chooses of published ones
        (
            {"carbon_intensity_g_per_kwh": 5.0},
            {"month": "2022-02", "region": "DE"},
            {"carbon_intensity_g_per_kwh": 5.0, "region": "DE"},
        ),
        ({"region": "DE"}, {"carbon_intensity_g_per_kwh": 5.0}, {"region": "DE"}),
        ({"region": "DE"}, {"intensity_set": "eea"}, {"region": "DE", "intensity_set": "eea"}),
    ],
)
def test_settings_that_contradict_each_other_do_not_mix(chosen, lent, expected):
    assert PriceSettings(**chosen).over(PriceSettings(**lent)) == PriceSettings(**expected)


@pytest.mark.parametrize(
    ("variables", "kind", "message"),
    [
        ({"MLFLOW_CARBON_PUE": "0.5"}, InvalidInputError, r"PUE is 0.5.*\(MLFLOW_CARBON_PUE\)"),
        ({"MLFLOW_CARBON_PUE": "low"}, InvalidInputError, "MLFLOW_CARBON_PUE is 'low'"),
        ({"MLFLOW_CARBON_REGION": "Atlantis"}, NoIntensityError, "MLFLOW_CARBON_REGION"),
    ],
)
def test_variable_at_fault_is_named(variables, kind, message):
    with pytest.raises(kind, match=message):
        assumptions_in_order(PriceSettings(), environment=variables)


def test_argument_at_fault_is_not_blamed_on_the_environment():
    with pytest.raises(InvalidInputError) as caught:
        assumptions_in_order(PriceSettings(pue=0.5), environment=VARIABLES)
    assert "MLFLOW_CARBON" not in str(caught.value)


def test_block_takes_the_environment_and_a_block_around_it_comes_first(fake_meter, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with mlflow.start_run(), mlflow_carbon.track(silent=True) as tracker:
        pass
    assert (tracker.footprint.intensity.region, tracker.footprint.pue) == ("PL", 1.5)
    mlflow_carbon.autolog(region="Sweden", silent=True)
    with mlflow.start_run(), mlflow_carbon.track():
        pass
    assert mlflow_carbon.last_footprint().intensity.region == "SE"


def test_doctor_has_the_same_price(monkeypatch):
    monkeypatch.setenv("MLFLOW_CARBON_REGION", "Sweden")
    printed = CliRunner().invoke(cli, ["doctor"]).stdout
    assert "SE 35.82 g/kWh (2024, ember)" in printed


def test_attribution_of_the_environment_is_taken_where_nobody_chose():
    environment = {"MLFLOW_CARBON_ATTRIBUTION": "whole_node", "MLFLOW_CARBON_COMPONENTS": "cpu"}
    assert MeterSettings().over_environment(environment) == MeterSettings("cpu", "whole_node")
    chosen = MeterSettings("gpu", "gpu_only")
    assert chosen.over_environment(environment) == chosen
