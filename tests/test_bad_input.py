"""Bad input to the arithmetic and to its commands: one clear error each, which names the value."""

import math
import shutil

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.accounting.advice import rank
from mlflow_carbon.accounting.emissions import co2e_g, validate_pue
from mlflow_carbon.accounting.equivalents import budget_share, equivalent
from mlflow_carbon.accounting.forecast import forecast_energy, judge_budget, num_units_asked, price
from mlflow_carbon.accounting.functional_unit import Device, software_carbon_intensity
from mlflow_carbon.accounting.steps_model import StepsPoint, fit_steps, proportional_saving_fraction
from mlflow_carbon.accounting.uncertainty import Stretch, prediction_interval, unit_statistics
from mlflow_carbon.cli import cli
from mlflow_carbon.errors import InvalidInputError, MlflowCarbonError, NoIntensityError
from mlflow_carbon.grid.hourly import EnergySpan, IntensitySeries, Slot, intensity_of_spans
from mlflow_carbon.grid.intensity import (
    given_intensity,
    latest_intensities,
    lookup_intensity,
    monthly_intensities,
)
from tests.fakes.metered_runs import write_run

NAN, INF = math.nan, math.inf
TWO = unit_statistics([Stretch(1, 1), Stretch(2, 1)])
ENERGY = forecast_energy(TWO, 10)
SERIES = IntensitySeries((Slot(0, 3600, 100),), "as given", "test")


def budget(budget_kg):
    return judge_budget(
        TWO,
        1,
        num_units_next=1,
        budget_kg=budget_kg,
        spent_kwh=3,
        pue=1,
        intensity_g_per_kwh=1,
    )


def sci(*, num_units=1, duration_s=1, device=None, operational_g=1):
    return software_carbon_intensity(
        operational_g,
        num_units,
        unit="sample",
        duration_s=duration_s,
        devices=[device or Device(1, 1)],
    )


def steps(*pairs, unit="sample"):
    return fit_steps([StepsPoint(count, energy_kwh, unit) for count, energy_kwh in pairs])


BAD_INPUT = [
    (lambda: co2e_g(-1, pue=1, intensity_g_per_kwh=1), "energy_kwh is -1;"),
    (lambda: co2e_g(NAN, pue=1, intensity_g_per_kwh=1), "energy_kwh is nan;"),
    (lambda: co2e_g(INF, pue=1, intensity_g_per_kwh=1), "energy_kwh is inf;"),
    (lambda: validate_pue(0.9), "PUE is 0.9;"),
    (lambda: validate_pue(3.01), "PUE is 3.01;"),
    (lambda: price(ENERGY, pue=0.9, intensity_g_per_kwh=1), "PUE is 0.9;"),
    (lambda: price(ENERGY, pue=1, intensity_g_per_kwh=-5), "intensity_g_per_kwh is -5;"),
    (lambda: given_intensity(-5), "carbon_intensity_g_per_kwh is -5;"),
    (lambda: given_intensity(NAN), "carbon_intensity_g_per_kwh is nan;"),
    (lambda: given_intensity(INF), "carbon_intensity_g_per_kwh is inf;"),
    (lambda: lookup_intensity("XQ"), "region 'XQ'. Nearest: "),
    (lambda: lookup_intensity("US-CAL-CISO"), "zone 'US-CAL-CISO': the sets here know no parts"),
    (lambda: lookup_intensity("Poland", month="2022-02"), "for PL in 2022-02. Known months: DE"),
    (lambda: lookup_intensity("DE", month="2022-2"), "month is '2022-2';"),
    (lambda: monthly_intensities("Poland"), "No months for PL in 'electricity_maps'."),
    (lambda: latest_intensities("electricity_maps"), "'electricity_maps' has months only;"),
    (lambda: latest_intensities("eia"), "intensity_set is 'eia';"),
    (lambda: unit_statistics([]), "no measured window;"),
    (lambda: unit_statistics([Stretch(-1, 1)]), "Window 1 has energy_kwh -1;"),
    (lambda: unit_statistics([Stretch(1, 1), Stretch(NAN, 1)]), "Window 2 has energy_kwh nan;"),
    (lambda: unit_statistics([Stretch(1, 0)]), "Window 1 has num_units 0;"),
    (lambda: unit_statistics([Stretch(1, INF)]), "Window 1 has num_units inf;"),
    (lambda: forecast_energy(TWO, 0), "num_units is 0;"),
    (lambda: forecast_energy(TWO, -3), "num_units is -3;"),
    (lambda: forecast_energy(TWO, NAN), "num_units is nan;"),
    (lambda: forecast_energy(TWO, 1, spent_kwh=-1), "spent_kwh is -1;"),
    (lambda: prediction_interval(TWO, 1, confidence_fraction=1), "confidence_fraction is 1;"),
    (lambda: prediction_interval(TWO, 1, confidence_fraction=95), "confidence_fraction is 95;"),
    (lambda: num_units_asked("sample", iterations=5), "energy per sample, so iterations"),
    (lambda: num_units_asked("sample"), "Give iterations, samples or units"),
    (lambda: num_units_asked("sample", iterations=1, samples=1), "only one of them"),
    (lambda: num_units_asked("sample", samples=0), "samples is 0;"),
    (lambda: num_units_asked("epoch", units=NAN), "units is nan;"),
    (lambda: num_units_asked("epoch", units=INF), "units is inf;"),
    (lambda: budget(0), "carbon_budget_kg is 0;"),
    (lambda: budget(NAN), "carbon_budget_kg is nan;"),
    (lambda: steps(), "found no run"),
    (lambda: steps((50, 1), (50, 2)), "found only 50"),
    (lambda: steps((0, 1), (50, 2)), "steps is 0;"),
    (lambda: steps((10, 1), (50, NAN)), "A run at 50 steps has energy_kwh_per_unit nan;"),
    (
        lambda: fit_steps([StepsPoint(1, 1, "sample"), StepsPoint(2, 1, "iteration")]),
        "different units (iteration, sample);",
    ),
    (lambda: steps((100, 1), (200, 9)).saving_fraction(100, 1), "energy at 1 steps is not above 0"),
    (lambda: proportional_saving_fraction(0, 1), "steps is 0;"),
    (lambda: intensity_of_spans(SERIES, [], region="DE"), "no measured stretch"),
    (
        lambda: intensity_of_spans(SERIES, [EnergySpan(0, 1, NAN)], region="DE"),
        "energy_kwh is nan at 1970-01-01T00:00Z;",
    ),
    (
        lambda: intensity_of_spans(SERIES, [EnergySpan(9, 5, 1)], region="DE"),
        "ends before it starts",
    ),
    (lambda: rank(-1, [given_intensity(1)], pue=1), "energy_kwh is -1;"),
    (lambda: equivalent(-1, "car"), "co2e_kg is -1;"),
    (lambda: equivalent(NAN, "car"), "co2e_kg is nan;"),
    (lambda: equivalent(1, "bus"), "kind is 'bus'; use one of car, phone, flight, tree."),
    (lambda: equivalent(1, "car", edition="best"), "edition is 'best'; use one of"),
    (lambda: budget_share(1, years=0), "years is 0;"),
    (lambda: budget_share(1, population=-1), "population is -1;"),
    (lambda: budget_share(INF), "co2e_kg is inf;"),
    (lambda: sci(num_units=0), "num_units is 0;"),
    (lambda: sci(operational_g=-1), "operational_g is -1;"),
    (lambda: sci(duration_s=NAN), "duration_s is nan;"),
    (lambda: sci(device=Device(-1, 1)), "embodied_kg is -1;"),
    (lambda: sci(device=Device(1, 0)), "lifetime_years is 0;"),
    (lambda: sci(device=Device(1, 1, 1.5)), "share_fraction is 1.5;"),
]


@pytest.mark.parametrize(("call", "message"), BAD_INPUT, ids=[message for _, message in BAD_INPUT])
def test_bad_input_is_one_error_that_names_the_value(call, message):
    with pytest.raises(MlflowCarbonError) as caught:
        call()
    assert message in str(caught.value)
    assert str(caught.value).endswith(".")
    assert isinstance(caught.value, InvalidInputError | NoIntensityError)


# Every command that prices, forecasts or compares, on runs of two samples ("two"), of one window
# ("one"), of which nothing could be measured ("empty"), and of epochs ("epochs").
PRICE = "--carbon-intensity-g-per-kwh"
BAD_COMMANDS = [
    ("compare --pue 0.9", "PUE is 0.9;"),
    ("compare --pue 3.5", "PUE is 3.5;"),
    ("compare --pue nan", "PUE is nan;"),
    (f"compare {PRICE} -1", "carbon_intensity_g_per_kwh is -1.0;"),
    (f"compare {PRICE} nan", "carbon_intensity_g_per_kwh is nan;"),
    (f"compare {PRICE} inf", "carbon_intensity_g_per_kwh is inf;"),
    ("compare --region XQ", "region 'XQ'. Nearest: "),
    ("compare --region Poland --month 2022-02", "for PL in 2022-02. Known months: DE"),
    ("compare --region DE --month 2022-13", "month is '2022-13';"),
    ("compare --fit steps", "needs runs at two step counts or more; found only 50"),
    ("compare --fit steps --saving 0:9", "found only 50"),
    ("predict two --samples 0", "--samples is 0;"),
    ("predict two --samples -3", "--samples is -3;"),
    ("predict two --units nan", "--units is nan;"),
    ("predict two --units inf", "--units is inf;"),
    ("predict two --samples 1 --units 2", "only one of them"),
    ("predict two --iterations 5", "energy per sample, so --iterations does not apply"),
    ("predict epochs --samples 5", "energy per epoch, so --samples does not apply"),
    ("predict two --samples 5 --pue 0.9", "PUE is 0.9;"),
    ("predict two --samples 5 --region XQ", "region 'XQ'. Nearest: "),
    ("predict two --samples 5 --region PL --month 2022-02", "for PL in 2022-02."),
    (f"predict two --samples 5 {PRICE} -1", "carbon_intensity_g_per_kwh is -1.0;"),
    ("predict one --samples 5", "There is one window in run"),
    ("predict empty --samples 5", "carries no measured energy"),
    ("predict nobody --samples 5", "has the id or name 'nobody'"),
    ("predict two --samples 5 --embodied-kg -1 --device-lifetime-years 1", "embodied_kg is -1.0;"),
    ("predict two --samples 5 --embodied-kg 1 --device-lifetime-years 0", "lifetime_years is 0.0;"),
    ("predict two --samples 5 --intensity-file none.csv", "'none.csv' cannot be read"),
    ("advise empty", "carries no measured energy"),
    ("advise two --pue 0.9", "PUE is 0.9;"),
    ("advise two --region XQ", "region 'XQ'. Nearest: "),
    ("models --max-co2e-kg nan", "max_co2e_kg is nan;"),
    ("models --max-co2e-kg -1", "max_co2e_kg is -1.0;"),
    ("models --pue 0.9 --region DE", "PUE is 0.9;"),
    ("equivalents nan", "co2e_kg is nan;"),
    ("equivalents 1 --population 0", "population is 0.0;"),
]


@pytest.fixture(scope="module")
def store_of_runs(empty_store, tmp_path_factory):
    """The URI of a store that holds the four runs; no test writes to it."""
    path = tmp_path_factory.mktemp("runs") / "mlflow.db"
    shutil.copy(empty_store, path)
    uri = f"sqlite:///{path}"
    client = MlflowClient(tracking_uri=uri)
    steps = {"steps": "50"}
    write_run(client, "Default", windows=[(1, 1), (2, 1)], name="two", params=steps)
    write_run(client, "Default", windows=[(1, 1)], name="one", params=steps)
    write_run(client, "Default", windows=[], name="empty", params=steps)
    write_run(client, "other", windows=[(1, 1), (2, 1)], name="epochs", unit="epoch")
    return uri


@pytest.mark.parametrize(("line", "message"), BAD_COMMANDS, ids=[line for line, _ in BAD_COMMANDS])
def test_bad_input_to_a_command_is_one_line_and_exit_code_1(store_of_runs, line, message):
    command, *args = line.split()
    uri = [] if command == "equivalents" else ["--tracking-uri", store_of_runs]
    result = CliRunner().invoke(cli, [command, *uri, *args])
    assert (result.exit_code, result.stdout) == (1, "")
    (error,) = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    assert message in error
    assert error.endswith(".")
