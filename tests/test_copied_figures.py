"""A model that a resumed run logs carries one figure of each kind: the true one."""

import time
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.autologging_utils.safety import revert_patches

import mlflow_carbon
from mlflow_carbon.contract import keys
from mlflow_carbon.testing.meter import FakeMeter, reading
from mlflow_carbon.tracking.copied_figures import leave_out_copies
from mlflow_carbon.tracking.patches import INTEGRATION
from mlflow_carbon.tracking.process_metering import process_metering
from mlflow_carbon.tracking.track import track

PRICE = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 1.0}
JOULE = 1 / 3.6e6  # kWh
CO2E_KG_OF_A_JOULE = JOULE * 7 / 1000


def point(key, timestamp, *, model_id="m-1", value=1.0):
    return Metric(key, value, timestamp, 0, model_id=model_id)


def test_copy_from_a_run_holds_no_figure_of_ours():
    copied = [point("loss", 1), point(keys.CO2E_KG, 1), point(keys.ENERGY_KWH, 1)]
    leave_out_copies(copied)
    assert [it.key for it in copied] == ["loss"]


def test_points_of_the_run_itself_are_left_alone():
    points = [point(keys.CO2E_KG, 1, model_id=None), point(keys.CO2E_KG, 2, model_id=None)]
    leave_out_copies(points)
    assert len(points) == 2


class Model(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[str]) -> list[str]:
        return model_input


def log_model():
    """Returns the id of a model that the active run logs."""
    return mlflow.pyfunc.log_model(name="m", python_model=Model(), pip_requirements=[]).model_id


def energies_joules(model_id):
    """Returns the energies of a model's figures: its CO2e at PUE 1 and 7 g/kWh."""
    metrics = MlflowClient().get_logged_model(model_id).metrics or []
    assert {it.key for it in metrics} <= {keys.CO2E_KG}
    return [it.value / CO2E_KG_OF_A_JOULE for it in metrics]


def found_under(limit_joules):
    """Returns the models that MLflow's own filter finds."""
    found = mlflow.search_logged_models(
        experiment_ids=["0"],
        filter_string=f"metrics.`{keys.CO2E_KG}` < {limit_joules * CO2E_KG_OF_A_JOULE}",
        output_format="list",
    )
    return {model.model_id for model in found}


def metered(joules):
    """A block that begins now and costs so many joules."""
    measured = replace(reading(cpu_joules=joules), start_unix_s=time.time())
    return track(meter=FakeMeter([measured]), **PRICE)


@pytest.mark.slow
def test_model_logged_in_a_resumed_run_has_the_total_of_both_parts(store):
    with mlflow.start_run() as run, metered(100):
        pass
    with mlflow.start_run(run_id=run.info.run_id), metered(50):
        model_id = log_model()
    assert energies_joules(model_id) == [pytest.approx(150)]
    assert found_under(140) == set()
    assert found_under(160) == {model_id}


@pytest.mark.slow
def test_model_logged_after_the_second_part_has_the_total_of_both(store):
    with mlflow.start_run() as run, metered(100):
        pass
    with mlflow.start_run(run_id=run.info.run_id):
        with metered(50):
            pass
        model_id = log_model()
    assert energies_joules(model_id) == [pytest.approx(150)]


@pytest.mark.slow
def test_model_of_the_first_part_keeps_its_one_figure(store):
    with mlflow.start_run() as run, metered(100):
        model_id = log_model()
    with mlflow.start_run(run_id=run.info.run_id), metered(50):
        pass
    assert energies_joules(model_id) == [pytest.approx(100)]


@pytest.mark.slow
def test_model_logged_in_a_resumed_run_under_autologging_has_one_figure(fake_meter):
    mlflow_carbon.autolog(**PRICE)
    with mlflow.start_run() as run:
        pass
    with mlflow.start_run(run_id=run.info.run_id):
        model_id = log_model()
    total_kwh = mlflow.get_run(run.info.run_id).data.metrics[keys.ENERGY_KWH]
    assert total_kwh > 36 * JOULE  # of the first part
    assert energies_joules(model_id) == [pytest.approx(total_kwh / JOULE)]


@pytest.mark.slow
@pytest.mark.parametrize("num_windows", [0, 2])
def test_model_logged_after_the_block_has_its_one_figure(store, num_windows):
    readings = [replace(reading(cpu_joules=50), start_unix_s=time.time())] * num_windows
    total = replace(reading(cpu_joules=120), start_unix_s=time.time())
    with mlflow.start_run():
        with track(meter=FakeMeter([*readings, total]), **PRICE) as tracker:
            for _ in range(num_windows):
                with tracker.window():
                    pass
        model_id = log_model()
    assert energies_joules(model_id) == [pytest.approx(120)]


@pytest.mark.slow
def test_model_logged_at_the_step_of_a_window_has_its_one_figure(store):
    readings = [
        replace(reading(cpu_joules=joules), start_unix_s=time.time()) for joules in (50, 60)
    ]
    with mlflow.start_run(), track(meter=FakeMeter(readings), **PRICE) as tracker:
        with tracker.window():
            pass
        tracking = process_metering().tracking_of(tracker.run_id)
        assert tracking.flush()
        made = mlflow.pyfunc.log_model(name="m", python_model=Model(), pip_requirements=[], step=1)
    assert energies_joules(made.model_id) == [pytest.approx(60)]


@pytest.fixture(autouse=True)
def as_before():
    """Takes away what a resumed run has put around MLflow's method."""
    yield
    revert_patches(INTEGRATION)
