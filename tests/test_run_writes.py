"""Our writes beside what the user has set for their own: queues, active models, data sets."""

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, Metric
from mlflow.utils.async_logging.async_logging_queue import AsyncLoggingQueue

import mlflow_carbon
from mlflow_carbon.recording.run_writes import write_to_run
from mlflow_carbon.tracking.mlflow_seams import past_active_model


@pytest.fixture
def queued(monkeypatch):
    """Returns the names that the user's asynchronous queue takes, in order."""
    taken, real = [], AsyncLoggingQueue.log_batch_async

    def watch(queue, run_id, params, tags, metrics):
        taken.extend(one.key for one in (*params, *tags, *metrics))
        return real(queue, run_id=run_id, params=params, tags=tags, metrics=metrics)

    monkeypatch.setattr(AsyncLoggingQueue, "log_batch_async", watch)
    mlflow.config.enable_async_logging(True)
    yield taken
    mlflow.config.enable_async_logging(False)


def names_on(model_id):
    return {metric.key for metric in mlflow.get_logged_model(model_id).metrics or ()}


@pytest.mark.slow
def test_users_queue_takes_the_users_figures_alone(fake_meter, queued):
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as parent:
        mlflow.log_metric("loss", 1.0)
        with mlflow.start_run(nested=True) as run:
            mlflow.log_metric("accuracy", 0.9)
            mlflow.set_tag("by", "me")
    mlflow.flush_async_logging()
    assert queued == ["loss", "accuracy", "by"]
    assert MlflowClient().get_run(parent.info.run_id).data.tags["carbon.scope"] == "parent"
    found = MlflowClient().get_run(run.info.run_id).data
    assert found.metrics["accuracy"] == 0.9
    # 36 J = 1e-5 kWh
    assert found.metrics["carbon/energy_kwh"] == pytest.approx(1e-5)


def test_child_of_a_run_elsewhere_marks_it_without_the_queue(fake_meter, queued):
    with mlflow.start_run() as parent:
        pass
    MlflowClient().set_tag(parent.info.run_id, "carbon.schema", "1", synchronous=True)
    tags = {"mlflow.parentRunId": parent.info.run_id}
    with mlflow.start_run(tags=tags) as run, mlflow_carbon.track(run_id=run.info.run_id):
        pass
    assert queued == []
    assert MlflowClient().get_run(parent.info.run_id).data.tags["carbon.scope"] == "parent"


def test_metric_of_a_data_set_is_on_its_run_and_its_model(fake_meter):
    mlflow_carbon.autolog(region="SE")
    data = Dataset(name="scans", digest="d1", source_type="local", source="there")
    with mlflow.start_run() as run:
        model = mlflow.create_external_model(name="net", source_run_id=run.info.run_id)
        mlflow.log_metric("accuracy", 0.9, dataset=data, model_id=model.model_id)
    found = MlflowClient().get_run(run.info.run_id)
    assert found.data.metrics["accuracy"] == 0.9
    assert [of.dataset.name for of in found.inputs.dataset_inputs] == ["scans"]
    metrics = mlflow.get_logged_model(model.model_id).metrics
    named = [(one.key, one.value) for one in metrics if one.dataset_name == "scans"]
    assert named == [("accuracy", 0.9)]
    assert "carbon/co2e_kg" in names_on(model.model_id)  # the run has made the model


def test_run_that_uses_the_active_model_puts_no_figures_on_it(fake_meter, monkeypatch):
    model = mlflow.create_external_model(name="of another run")
    monkeypatch.setenv("MLFLOW_ACTIVE_MODEL_ID", model.model_id)
    mlflow_carbon.autolog(region="SE")
    with mlflow.start_run() as run:
        with mlflow_carbon.track() as tracker, tracker.window():
            pass
        MlflowClient().log_metric(run.info.run_id, "accuracy", 0.9, model_id=model.model_id)
    assert names_on(model.model_id) == {"accuracy"}
    assert "carbon/energy_kwh" in MlflowClient().get_run(run.info.run_id).data.metrics


def test_active_model_of_the_caller_is_theirs_again_afterwards(store):
    model = mlflow.create_external_model(name="net")
    with mlflow.start_run() as run, mlflow.set_active_model(model_id=model.model_id):
        client = past_active_model(MlflowClient())
        write_to_run(client, run.info.run_id, [Metric("carbon/x", 1.0, 0, 0)], [])
        assert mlflow.get_active_model_id() == model.model_id
        mlflow.log_metric("accuracy", 0.9)
    assert names_on(model.model_id) == {"accuracy"}
