"""``autolog()`` in this process: what it replaces, how it is switched, and whose runs it meters."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.fluent import ActiveRun
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

import mlflow_carbon
from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.price_settings import variable_of
from mlflow_carbon.metering.collector import Collector
from mlflow_carbon.testing.meter import reading
from mlflow_carbon.tracking.autolog_settings import chosen_options
from mlflow_carbon.tracking.mlflow_autolog import is_switched_on
from mlflow_carbon.tracking.patches import INTEGRATION, is_on
from mlflow_carbon.tracking.process_metering import process_metering
from mlflow_carbon.tracking.run_lifecycle import MAX_HELD
from tests.fakes.recorded import recorded

ROOT = Path(__file__).parent.parent


def data_of(run):
    return MlflowClient().get_run(run.info.run_id).data


def is_metered(run):
    return "carbon.schema" in data_of(run).tags


@pytest.mark.slow
def test_run_is_metered_by_the_arguments(fake_meter):
    mlflow_carbon.autolog(region="Sweden", intensity_set="paper_table1", pue=2.0)
    with mlflow.start_run() as run:
        pass
    # 36 J = 1e-5 kWh; x PUE 2 x 7 g/kWh
    assert recorded(data_of(run))["co2e_g"] == pytest.approx(1.4e-4)


@pytest.mark.slow
def test_totals_are_there_before_the_run_is_finished(fake_meter, monkeypatch):
    mlflow_carbon.autolog(region="SE")
    end, keys_then = SqlAlchemyStore.update_run_info, []

    def watch(store, run_id, *args, **kwargs):
        keys_then.extend(store.get_run(run_id).data.metrics)
        return end(store, run_id, *args, **kwargs)

    with mlflow.start_run() as run:
        monkeypatch.setattr(SqlAlchemyStore, "update_run_info", watch)
    assert "carbon/energy_kwh" in keys_then
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"


def test_disabled_in_a_run_it_writes_the_totals_until_then(fake_meter):
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as run:
        mlflow_carbon.autolog(disable=True)
        assert "energy_kwh" in recorded(data_of(run))
    with mlflow.start_run() as later:
        pass
    assert not is_metered(later)


def test_enabled_in_a_run_it_meters_that_run(fake_meter):
    with mlflow.start_run() as run:
        mlflow_carbon.autolog(region="SE")
    assert "energy_kwh" in recorded(data_of(run))


def test_called_again_in_a_run_it_reports_by_the_new_settings(fake_meter):
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as run:
        mlflow_carbon.autolog(region="PL")
    data = data_of(run)
    assert data.tags["carbon.region"] == "PL"
    assert recorded(data)["energy_kwh"] == pytest.approx(36 / 3.6e6)


@pytest.mark.slow
def test_mlflow_autolog_switches_on_and_off(fake_meter):
    mlflow.autolog()
    with mlflow.start_run() as on:
        pass
    mlflow.autolog(disable=True)
    with mlflow.start_run() as off:
        pass
    assert (is_metered(on), is_metered(off)) == (True, False)


@pytest.mark.parametrize(
    "config", [{"exclude_flavors": [INTEGRATION]}, {"disable": True}], ids=["excluded", "disabled"]
)
def test_mlflow_autolog_leaves_us_off_where_it_says_so(fake_meter, config):
    mlflow.autolog(**config)
    assert not is_on()


def test_mlflow_autolog_does_not_overrule_the_users_own_call(fake_meter):
    mlflow_carbon.autolog(disable=True)
    mlflow.autolog()
    assert not is_on()
    mlflow.autolog(disable=True)


def test_run_created_by_a_client_and_activated_later_is_metered_from_then_on(fake_meter):
    mlflow_carbon.autolog(region="SE")
    run = MlflowClient().create_run("0")
    fake_meter.scripted[0] = reading(cpu_joules=9999)  # what somebody else did in between
    with mlflow.start_run(run_id=run.info.run_id):
        pass
    assert recorded(data_of(run))["energy_kwh"] == pytest.approx(36 / 3.6e6)


def test_trial_of_a_sweep_reads_the_devices_at_its_start_and_its_end_and_is_written_once(
    store, monkeypatch
):
    num_readings, writes = [], []
    snapshot, log_batch = Collector.snapshot, SqlAlchemyStore.log_batch

    def count_reading(collector, timeout_s):
        num_readings.append(1)
        return snapshot(collector, timeout_s)

    def count_write(store, run_id, *args, **kwargs):
        writes.append(run_id)
        return log_batch(store, run_id, *args, **kwargs)

    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run():
        for _ in range(2):  # the first one may take longer, as it loads code
            num_readings.clear()
            writes.clear()
            with monkeypatch.context() as patch:
                patch.setattr(Collector, "snapshot", count_reading)
                patch.setattr(SqlAlchemyStore, "log_batch", count_write)
                with mlflow.start_run(nested=True) as trial:
                    pass
    mlflow_carbon.autolog(disable=True)
    AUTOLOGGING_INTEGRATIONS[INTEGRATION] = {}
    assert is_metered(trial)
    assert len(num_readings) == 2
    assert writes.count(trial.info.run_id) == 1


def test_run_of_a_client_of_another_store_is_written_there(fake_meter, empty_store, tmp_path):
    shutil.copy(empty_store, tmp_path / "other.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/other.db")
    mlflow_carbon.autolog(region="SE")
    run_id = client.create_run("0").info.run_id
    client.log_batch(run_id, metrics=[Metric("loss", 1.0, 0, 0)])
    client.update_run(run_id, status="FINISHED")
    assert "energy_kwh" in recorded(client.get_run(run_id).data)


def test_runs_created_for_others_are_forgotten_one_by_one(fake_meter):
    mlflow_carbon.autolog(region="SE")
    for _ in range(MAX_HELD + 3):
        run_id = MlflowClient().create_run("0").info.run_id
        MlflowClient().log_param(run_id, "for", "others")
    assert len(process_metering().trackings) == MAX_HELD


def test_interrupt_while_ours_waits_ends_the_run_and_reaches_the_user(fake_meter):
    mlflow_carbon.autolog(region="SE")

    def interrupted(window):
        raise KeyboardInterrupt

    run = mlflow.start_run()
    fake_meter.close_window = interrupted
    with pytest.raises(KeyboardInterrupt):
        mlflow.end_run()
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_windows_of_a_loop_are_those_of_the_autologged_run(fake_meter):
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as run:
        assert list(mlflow_carbon.windows("abc", unit="epoch")) == ["a", "b", "c"]
    tags = data_of(run).tags
    assert (tags["carbon.unit"], tags["carbon.num_windows"]) == ("epoch", "3")
    assert tags["carbon.region"] == "SE"


@pytest.mark.slow
def test_registers_the_models_of_a_run_when_told_to(fake_meter):
    mlflow_carbon.autolog(region="SE", register_models=True, registered_model_name="mine")
    client = MlflowClient()
    with mlflow.start_run() as run:
        model_id = mlflow.create_external_model(name="logged").model_id
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, 0)])
    (version,) = client.search_model_versions("name = 'mine'")
    assert version.source == f"models:/{model_id}"
    assert client.get_model_version("mine", version.version).tags["carbon.region"] == "SE"


@pytest.mark.slow
def test_model_that_has_a_version_is_not_registered_again(fake_meter):
    mlflow_carbon.autolog(region="SE", register_models=True, registered_model_name="mine")
    client = MlflowClient()
    client.create_registered_model("mine")
    with mlflow.start_run() as run:
        model_id = mlflow.create_external_model(name="logged").model_id
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model_id, 0)])
        client.create_model_version("mine", f"models:/{model_id}", run.info.run_id)
    assert [it.version for it in client.search_model_versions("name = 'mine'")] == [1]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["register_model", "create_model_version", "copy_model_version"])
def test_version_that_is_registered_after_its_run_gets_emissions_at_once(fake_meter, way):
    mlflow_carbon.autolog(region="SE", intensity_set="paper_table1", pue=1.0)
    client = MlflowClient()
    with mlflow.start_run() as run:
        model_id = mlflow.create_external_model(name="logged").model_id
    source = f"models:/{model_id}"
    client.create_registered_model("late")
    if way == "register_model":
        mlflow.register_model(source, "late")
    else:
        client.create_model_version("late", source, run.info.run_id, model_id=model_id)
    name = "late"
    if way == "copy_model_version":
        name = client.copy_model_version("models:/late/1", "copy").name
    # 36 J = 1e-5 kWh; x 7 g/kWh
    assert client.get_model_version(name, "1").tags["carbon.co2e_kg"] == "7e-08"
    assert client.get_registered_model(name).tags["carbon.band"] == "A"


def test_error_of_ours_is_a_warning_and_the_users_call_goes_on(fake_meter, caplog):
    mlflow_carbon.autolog(region="SE")
    fake_meter.open_window = None
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
    assert data_of(run).metrics["loss"] == 1.0
    assert MlflowClient().get_run(run.info.run_id).info.status == "FINISHED"
    assert "Energy is not tracked here: TypeError" in caplog.text


def test_bad_argument_is_told_at_the_call_and_nothing_is_metered(fake_meter):
    with pytest.raises(NoIntensityError, match="Atlantis"):
        mlflow_carbon.autolog(region="Atlantis")
    with mlflow.start_run() as run:
        pass
    assert not is_metered(run)


def test_short_children_of_a_sweep_are_written_in_one_call_each(fake_meter, monkeypatch):
    mlflow_carbon.autolog(region="SE")
    log_batch, writes = SqlAlchemyStore.log_batch, []

    def count(store, run_id, *args, **kwargs):
        writes.append(run_id)
        return log_batch(store, run_id, *args, **kwargs)

    monkeypatch.setattr(SqlAlchemyStore, "log_batch", count)
    with mlflow.start_run() as parent:
        for _ in range(5):
            with mlflow.start_run(nested=True) as child:
                pass
    assert writes.count(child.info.run_id) == 1
    assert len(writes) <= 5 + 3  # the parent: its start, its tag as one, its totals
    assert data_of(parent).tags["carbon.scope"] == "parent"


# Settings


def test_arguments_win_over_the_environment(fake_meter):
    mlflow_carbon.autolog(region="SE")
    environment = {"MLFLOW_CARBON_REGION": "DE", "MLFLOW_CARBON_PUE": "1.5"}
    options = chosen_options(environment)
    assert (options.region, options.pue) == ("SE", 1.5)


def test_environment_sets_what_is_measured(fake_meter):
    environment = {
        "MLFLOW_CARBON_COMPONENTS": "cpu",
        "MLFLOW_CARBON_ATTRIBUTION": "process_share",
        "MLFLOW_CARBON_MONTH": "2022-02",
        "MLFLOW_CARBON_REGION": "DE",
    }
    options = chosen_options(environment)
    assert (options.settings.components, options.settings.attribution) == ("cpu", "process_share")
    assert options.assumptions().intensity.period == "2022-02"


def test_environment_sets_the_users_own_intensity(fake_meter):
    environment = {"MLFLOW_CARBON_INTENSITY_G_PER_KWH": "0", "MLFLOW_CARBON_REGION": "My roof"}
    assumptions = chosen_options(environment).assumptions()
    assert assumptions.intensity.g_per_kwh == 0
    assert (assumptions.intensity.region, assumptions.defaulted) == ("My roof", ("pue",))


def test_own_intensity_as_an_argument_is_checked_at_once(fake_meter):
    with pytest.raises(InvalidInputError, match="carbon_intensity_g_per_kwh is -1; give a finite"):
        mlflow_carbon.autolog(carbon_intensity_g_per_kwh=-1)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PUE", "0.9", "PUE is 0.9; .* [(]MLFLOW_CARBON_PUE[)]"),
        ("INTENSITY_G_PER_KWH", "x", "MLFLOW_CARBON_INTENSITY_G_PER_KWH is 'x'; give a number."),
        ("PUE", "low", "MLFLOW_CARBON_PUE is 'low'; give a number."),
        ("COMPONENTS", "tpu", "components is 'tpu'"),
        ("ATTRIBUTION", "mine", "attribution is 'mine'"),
    ],
)
def test_bad_variable_is_named_with_its_value(store, variable, value, message):
    with pytest.raises(InvalidInputError, match=message):
        chosen_options({f"MLFLOW_CARBON_{variable}": value})


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("1", True), ("False", False), ("", None), ("on", None)]
)
def test_switch_reads_true_and_false(text, expected):
    assert is_switched_on({"MLFLOW_CARBON_AUTOLOG": text}) is expected


def test_documented_variables_are_the_arguments(store):
    documented = re.findall(
        r"^\| `MLFLOW_CARBON_(\w+)` \| `(\w+)` \|",
        (ROOT / "docs" / "tracking.md").read_text(),
        re.MULTILINE,
    )
    others = {"register_models", "registered_model_name", "disable"}
    arguments = inspect.signature(mlflow_carbon.autolog).parameters.keys() - others
    assert {argument for _, argument in documented} == arguments
    assert all(variable_of(argument) == f"MLFLOW_CARBON_{name}" for name, argument in documented)


# Off

REPLACED = """
import json, sys
import mlflow, mlflow.projects
from mlflow.projects.backend import loader
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.fluent import ActiveRun
from mlflow.utils.autologging_utils.events import AutologgingEventLogger

def is_ours(thing):
    return getattr(thing, "__module__", type(thing).__module__).startswith("mlflow_carbon")

places = {f"{name}.{key}": value
          for name, module in list(sys.modules.items()) if name.startswith("mlflow.")
          for key, value in list(vars(module).items())}
places |= {f"{owner.__name__}.{key}": value for owner in (ActiveRun, mlflow.MlflowClient)
           for key, value in vars(owner).items()}
places |= {f"backend {name}": backend for name, backend in loader.MLFLOW_BACKENDS.items()}
places["event logger"] = AutologgingEventLogger._event_logger
ours = [name for name, module in sys.modules.items() if name.startswith("mlflow_carbon")]
print(json.dumps([sorted(place for place, thing in places.items() if is_ours(thing)), ours]))
"""


@pytest.mark.slow
def test_switched_off_it_replaces_the_event_logger_and_the_local_backend_only():
    printed = subprocess.run(
        [sys.executable, "-c", REPLACED], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    replaced, loaded = json.loads(printed)
    assert replaced == ["backend local", "event logger"]
    assert "mlflow_carbon.metering.meter" not in loaded
    assert "mlflow_carbon.tracking.autolog" not in loaded


def test_disabled_it_gives_back_all_that_it_replaced(fake_meter):
    originals = {name: getattr(MlflowClient, name) for name in ("create_run", "set_terminated")}
    made = ActiveRun.__init__
    mlflow_carbon.autolog(region="SE")
    assert ActiveRun.__init__ is not made
    mlflow_carbon.autolog(disable=True)
    assert ActiveRun.__init__ is made
    assert all(getattr(MlflowClient, name) is kept for name, kept in originals.items())
