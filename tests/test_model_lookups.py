"""Models of ended runs: at once where one was seen, else many runs' together, and none is lost."""

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

import mlflow_carbon
from mlflow_carbon.tracking.model_lookups import MAX_PUT_OFF, ModelLookups, NewRun, record_models
from tests.fakes.metered_runs import write_run

# of each run: 36 J = 1e-5 kWh; x PUE 2 x 7 g/kWh
SWEDEN = {"region": "Sweden", "intensity_set": "paper_table1", "pue": 2.0}
KG = 1.4e-7


class CountingClient(MlflowClient):
    """Keeps what each look-up of versions asked for."""

    def __init__(self):
        super().__init__()
        self.filters = []

    def search_model_versions(self, filter_string=None, *args, **kwargs):
        self.filters.append(filter_string)
        return super().search_model_versions(filter_string, *args, **kwargs)


def log_model_elsewhere(run_id):
    """Logs a model in a run as another process does: by calls that nobody here sees."""
    store = SqlAlchemyStore(mlflow.get_tracking_uri(), "./mlruns")
    return store.create_logged_model("0", source_run_id=run_id).model_id


def co2e_kg_of(model_id):
    metrics = MlflowClient().get_logged_model(model_id).metrics or []
    return {metric.key: metric.value for metric in metrics}.get("carbon/co2e_kg")


@pytest.mark.slow
def test_model_of_a_trial_has_its_figures_when_the_trial_is_over(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    with mlflow.start_run():
        with mlflow.start_run(nested=True):
            model = mlflow.initialize_logged_model("mine")
        assert co2e_kg_of(model.model_id) == pytest.approx(KG)


@pytest.mark.slow
def test_version_of_a_trial_has_its_tags_when_the_trial_is_over(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    client = MlflowClient()
    client.create_registered_model("mine")
    with mlflow.start_run():
        with mlflow.start_run(nested=True) as trial:
            client.create_model_version("mine", "file:///nowhere", run_id=trial.info.run_id)
        assert client.get_model_version("mine", "1").tags["carbon.co2e_kg"] == "1.4e-07"


@pytest.mark.slow
def test_model_that_a_trial_used_learns_what_a_sample_costs_at_once(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    client = MlflowClient()
    client.create_registered_model("mine")
    with mlflow.start_run():
        with mlflow.start_run(nested=True) as run:
            model = mlflow.initialize_logged_model("mine")
        source = f"models:/{model.model_id}"
        client.create_model_version("mine", source, run_id=run.info.run_id, model_id=model.model_id)
        with mlflow.start_run(nested=True):
            mlflow.log_input(model=LoggedModelInput(model.model_id))
            with mlflow_carbon.track(unit="sample") as tracker, tracker.window(num_units=4):
                pass
        tags = client.get_model_version("mine", "1").tags
    # 36 J of 4 samples; 1.4e-4 g / 4
    assert float(tags["carbon.inference_co2e_g_per_sample"]) == pytest.approx(3.5e-5)


@pytest.mark.slow
def test_models_that_another_process_made_have_their_figures_when_the_sweep_is_over(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    with mlflow.start_run():
        model_ids = []
        for _ in range(2):
            with mlflow.start_run(nested=True) as trial:
                model_ids.append(log_model_elsewhere(trial.info.run_id))
        assert [co2e_kg_of(model_id) for model_id in model_ids] == [None, None]
    assert [co2e_kg_of(model_id) for model_id in model_ids] == pytest.approx([KG, KG])


def test_models_of_a_resumed_trial_are_looked_for_at_once(fake_meter):
    with mlflow.start_run() as trial:
        model_id = log_model_elsewhere(trial.info.run_id)
    mlflow_carbon.autolog(**SWEDEN)
    with mlflow.start_run():
        with mlflow.start_run(run_id=trial.info.run_id, nested=True):
            pass
        assert co2e_kg_of(model_id) == pytest.approx(KG)


def test_models_are_looked_for_at_once_where_autologging_ends_within_the_run(fake_meter):
    mlflow_carbon.autolog(**SWEDEN)
    with mlflow.start_run(), mlflow_carbon.track():
        with mlflow.start_run(nested=True) as trial, mlflow_carbon.track():
            mlflow_carbon.autolog(disable=True)
            model = mlflow.initialize_logged_model("mine", source_run_id=trial.info.run_id)
        assert co2e_kg_of(model.model_id) == pytest.approx(KG)


def new_runs(client, count):
    return [NewRun(client, f"{number:032x}", "0") for number in range(count)]


def test_runs_without_models_are_looked_up_together(store):
    client, lookups = CountingClient(), ModelLookups()
    for run in new_runs(client, 3):
        lookups.put_off(run)
    assert client.filters == []
    lookups.catch_up()
    lookups.catch_up()
    ids = ", ".join(f"'{number:032x}'" for number in range(3))
    assert client.filters == [f"run_id IN ({ids})"]


def test_runs_of_a_long_sweep_are_looked_up_in_between(store):
    client, lookups = CountingClient(), ModelLookups()
    for run in new_runs(client, 2 * MAX_PUT_OFF + 1):
        lookups.put_off(run)
    assert [text.count("'") // 2 for text in client.filters] == [MAX_PUT_OFF, MAX_PUT_OFF]


def test_models_are_tagged_without_a_look_at_each_before_each_tag(store, monkeypatch):
    client = MlflowClient(tracking_uri=store)
    run_id = write_run(client, "exp", windows=[(8.0, 100.0)])
    client.create_registered_model("mine")
    client.create_model_version("mine", "file:///nowhere", run_id)
    looks = []
    monkeypatch.setattr(MlflowClient, "_raise_if_prompt", lambda _, name: looks.append(name))
    record_models(client, run_id, None)
    assert client.get_registered_model("mine").tags["carbon.co2e_kg"] == "3"
    assert looks == []
    client.set_registered_model_tag("mine", "of another", "tag")
    assert looks == ["mine"]
