"""Training scripts of users, unchanged: what MLflow or the framework logs carries its energy."""

import json

import pytest

from tests.fakes.recorded import recorded, windows_of
from tests.fakes.user_scripts import ZERO_CODE, UserFolder, energy_joules

pytestmark = pytest.mark.slow


@pytest.fixture
def user(empty_store, tmp_path):
    return UserFolder(tmp_path, empty_store)


def model_metrics(user, run):
    """Returns the metrics of the one model that the run logged."""
    (output,) = user.client.get_run(run.info.run_id).outputs.model_outputs
    model = user.client.get_logged_model(output.model_id)
    return {metric.key: metric.value for metric in model.metrics}


def idle_s(user, run):
    """Returns the time of the run that is in no window."""
    windows = windows_of(run.info.run_id, user.client).values()
    return recorded(run)["duration_s"] - sum(window.duration_s for window in windows)


def test_sklearn_run_and_its_model_carry_the_energy(user):
    script = """
import mlflow
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
mlflow.sklearn.autolog(log_datasets=False, log_model_signatures=False)
RandomForestClassifier(n_estimators=50).fit(*load_iris(return_X_y=True))
"""
    user.run(script)
    run = user.only_run()
    assert run.data.params["n_estimators"] == "50"  # MLflow's own autologging is untouched
    assert energy_joules(run) > 0
    own_kg = recorded(user.client.get_run(run.info.run_id))["co2e_g"] / 1000
    assert {k: v for k, v in model_metrics(user, run).items() if k.startswith("carbon/")} == {
        "carbon/co2e_kg": pytest.approx(own_kg)
    }


def test_children_that_a_grid_search_records_afterwards_are_not_metered(user, warm_start):
    script = """
import mlflow
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
mlflow.sklearn.autolog(log_models=False, log_datasets=False)
GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}).fit(*load_iris(return_X_y=True))
"""
    user.run(script)
    metered = ["carbon.schema" in run.data.tags for run in user.runs()]
    assert sorted(metered) == [False, False, True]


def test_xgboost_rounds_are_windows(user):
    script = """
import mlflow, numpy, time, xgboost
mlflow.xgboost.autolog(log_datasets=False, log_models=False)
data = xgboost.DMatrix(numpy.random.rand(5000, 20), numpy.random.rand(5000))
with mlflow.start_run():
    xgboost.train({"max_depth": 6, "nthread": 1}, data, num_boost_round=100)
    time.sleep(1.5)
"""
    user.run(script)
    run = user.only_run()
    assert run.data.params["max_depth"] == "6"
    assert energy_joules(run) > 0
    units = (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"])
    assert units == ("iteration", "100")
    assert idle_s(user, run) >= 1.5


LIGHTNING = """
import lightning, logging, torch
from torch.utils.data import DataLoader, TensorDataset

class Regression(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        loss = self.layer(batch[0]).square().mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def fit(**settings):
    data = DataLoader(TensorDataset(torch.rand(64, 4)), batch_size=8)
    trainer = lightning.Trainer(
        max_epochs=3, accelerator="cpu", enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, log_every_n_steps=4, **settings)
    trainer.fit(Regression(), data)
"""


def test_lightning_autologged_epochs_are_windows(user):
    script = (
        LIGHTNING
        + """
import mlflow, time
mlflow.pytorch.autolog(log_models=False)
with mlflow.start_run():
    fit()
    time.sleep(1.5)
"""
    )
    user.run(script)
    run = user.only_run()
    assert energy_joules(run) > 0
    assert idle_s(user, run) >= 1.5
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"]) == ("epoch", "3")


def test_lightning_logger_has_a_run_of_its_own_and_epochs_are_windows(user, warm_start):
    script = LIGHTNING + (
        "from lightning.pytorch.loggers import MLFlowLogger\n"
        "fit(logger=MLFlowLogger(tracking_uri={uri!r}))\n"
    )
    user.run(script.replace("{uri!r}", repr(user.uri)))
    run = user.only_run()
    assert run.info.status == "FINISHED"
    assert energy_joules(run) > 0
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"]) == ("epoch", "3")


def test_transformers_trainer_epochs_are_windows(user):
    script = """
import mlflow, time, torch
from transformers import (BertConfig, BertForSequenceClassification, Trainer, TrainingArguments)
model = BertForSequenceClassification(BertConfig(
    vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=16, max_position_embeddings=16))
data = [{"input_ids": torch.arange(8), "labels": i % 2} for i in range(16)]
arguments = TrainingArguments(
    "out", num_train_epochs=3, report_to="mlflow", save_strategy="no", use_cpu=True,
    disable_tqdm=True)
with mlflow.start_run():
    Trainer(model, arguments, train_dataset=data).train()
    time.sleep(1.5)
"""
    user.run(script)
    run = user.only_run()
    assert idle_s(user, run) >= 1.5
    assert energy_joules(run) > 0
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"]) == ("epoch", "3")


def test_keras_epochs_are_windows(user):
    script = """
import keras, mlflow, numpy, time
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse")
with mlflow.start_run():
    model.fit(numpy.random.rand(256, 4), numpy.random.rand(256), epochs=3, verbose=0)
    time.sleep(1.5)
"""
    user.run(script, environment={**ZERO_CODE, "KERAS_BACKEND": "torch"})
    run = user.only_run()
    assert energy_joules(run) > 0
    assert idle_s(user, run) >= 1.5
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"]) == ("epoch", "3")


def test_keras_autologging_of_mlflow_goes_on_beside_ours(user, warm_start):
    script = """
import keras, mlflow, numpy
mlflow.autolog(log_datasets=False)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile(optimizer="sgd", loss="mse")
model.fit(numpy.random.rand(256, 4), numpy.random.rand(256), epochs=3, verbose=0)
"""
    user.run(script, environment={**ZERO_CODE, "KERAS_BACKEND": "torch"})
    run = user.only_run()
    # MLflow's own: the parameters of fit, and the loss of each epoch
    assert run.data.params["epochs"] == "3"
    assert len(user.client.get_metric_history(run.info.run_id, "loss")) == 3
    assert energy_joules(run) > 0
    assert (run.data.tags["carbon.unit"], run.data.tags["carbon.num_units"]) == ("epoch", "3")
    (model,) = user.client.search_logged_models([run.info.experiment_id])
    metrics = {metric.key: metric.value for metric in model.metrics}
    assert idle_s(user, run) > 0  # MLflow saves the model
    assert metrics["carbon/co2e_kg"] == pytest.approx(recorded(run)["co2e_g"] / 1000)


def test_trials_of_a_sweep_are_children_that_count_and_their_parent_does_not(user, warm_start):
    script = """
import mlflow, optuna
optuna.logging.set_verbosity(optuna.logging.WARNING)

def objective(trial):
    with mlflow.start_run(nested=True):
        x = trial.suggest_float("x", -1, 1)
        mlflow.log_param("kind", "trial")
        sum(i * i for i in range(10**6))
        return x**2

with mlflow.start_run():
    mlflow.log_param("kind", "study")
    optuna.create_study().optimize(objective, n_trials=20)
"""
    user.run(script)
    done = user.command(
        "mlflow-carbon", "compare", "--group-by", "kind", "--format", "json", environment={}
    )
    (row,) = json.loads(done.stdout)
    assert (row["kind"], row["num_runs"]) == ("trial", 20)
    assert "Left out 1 run whose energy contains that of child runs." in done.stderr
