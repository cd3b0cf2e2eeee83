"""The contract with stores that exist already: renaming a key would lose what they hold."""

import pytest

from mlflow_carbon.contract import keys

# Spelled out, as runs and models in users' stores carry them.
METRICS = {
    "carbon/energy_kwh",
    "carbon/co2e_g",
    "carbon/power_w",
    "carbon/forecast_co2e_g",
    "carbon/node_energy_kwh",
    "carbon/co2e_kg",
}
METRICS_OF_VERSION_1 = {
    "carbon/facility_energy_kwh",
    "carbon/duration_s",
    "carbon/intensity_g_per_kwh",
    "carbon/pue",
    "carbon/coverage_fraction",
    "carbon/window/energy_kwh",
    "carbon/window/duration_s",
    "carbon/window/power_w",
    "carbon/window/num_units",
}
TAGS = {
    "carbon.schema",
    "carbon.scope",
    "carbon.region",
    "carbon.period",
    "carbon.intensity_set",
    "carbon.intensity_source",
    "carbon.intensity_basis",
    "carbon.intensity_fallback",
    "carbon.budget_kg",
    "carbon.budget_state",
    "carbon.components",
    "carbon.cpu_tdp_source",
    "carbon.cpu_idle_power_w",
    "carbon.unread_devices",
    "carbon.attribution",
    "carbon.hardware",
    "carbon.tracker",
    "carbon.total",
    "carbon.energy_kwh_per_unit",
    "carbon.forecast_interval_g",
    "carbon.unit",
    "carbon.num_units",
    "carbon.num_windows",
    "carbon.num_distinct_readings",
    "carbon.launch",
    "carbon.num_nodes",
    "carbon.missing_nodes",
    "carbon.triggered_by_run_id",
    "carbon.model_input_ids",
    "carbon.parent_model",
    "carbon.shows",
    "carbon.co2e",
    "carbon.co2e_kg",
    "carbon.energy_kwh",
    "carbon.pue",
    "carbon.band",
    "carbon.lineage_co2e_kg",
    "carbon.lineage_problem",
    "carbon.inference_co2e_g_per_sample",
    "carbon.inference_way",
}


def test_keys_are_those_of_the_contract():
    values = {value for value in vars(keys).values() if isinstance(value, str)}
    assert values >= METRICS | METRICS_OF_VERSION_1 | TAGS
    assert keys.SCHEMA_VERSION == "2"


def test_derived_keys_are_those_of_the_contract():
    assert keys.component_curve_kwh("gpu") == "carbon/gpu_energy_kwh"
    assert keys.windows_tag("epoch") == "carbon.windows.epoch"
    assert keys.energy_kwh_per_unit("sample") == "carbon/energy_kwh_per_sample"
    assert keys.std_of(keys.co2e_g_per_unit("epoch")) == "carbon/co2e_g_per_epoch_std"
    assert keys.window_component_energy_kwh("dram") == "carbon/window/dram/energy_kwh"
    assert keys.node_metric(keys.ENERGY_KWH, 1) == "carbon/node/1/energy_kwh"
    assert keys.node_tag(keys.TAG_HARDWARE, 1) == "carbon.node.1.hardware"
    assert keys.method_tag("cpu") == "carbon.method.cpu"
    assert keys.default_tag("region") == "carbon.default.region"


@pytest.mark.parametrize(
    ("co2e_kg", "band"),
    [
        (0.0, "A"),
        (0.0999, "A"),
        (0.1, "B"),  # bounds are exclusive
        (0.999, "B"),
        (5, "C"),
        (99, "D"),
        (100, "E"),
        (9_999, "F"),
        (10_000, "G"),
        (1e9, "G"),
    ],
)
def test_band_is_that_of_the_scale(co2e_kg, band):
    assert keys.band(co2e_kg) == band


def test_limits_that_a_model_stays_under_are_cumulative():
    tags = keys.emission_tags(5.0, 12.5, "SE")
    under = {tag for tag in tags if tag.startswith("carbon.under_")}
    assert under == {"carbon.under_10kg", "carbon.under_100kg", "carbon.under_1000kg"} | {
        "carbon.under_10000kg"
    }
    small, smaller = (keys.emission_tags(kg, 1.0, "SE") for kg in (2e-6, 2e-7))
    assert small.keys() - tags.keys() == {
        "carbon.under_1g",
        "carbon.under_0.1kg",
        "carbon.under_1kg",
    }
    assert smaller.keys() - small.keys() == {"carbon.under_1mg"}
    assert tags["carbon.co2e_kg"] == "5"
    assert tags["carbon.energy_kwh"] == "12.5"
    assert tags["carbon.region"] == "SE"
    assert tags["carbon.band"] == "C"
