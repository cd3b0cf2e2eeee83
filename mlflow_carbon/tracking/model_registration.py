"""Registers the models that a run has logged."""

import mlflow
from mlflow import MlflowClient

from mlflow_carbon.store.listing import all_versions


def register_logged_models(client: MlflowClient, run_id: str, name: str | None) -> None:
    """Makes a version of each logged model of the run that has none yet.

    Args:
        client: of the current store, which holds the run and its models.
        run_id: the run.
        name: of the registered model; ``None`` takes each logged model's own name.
    """
    run = client.get_run(run_id)
    registered = {version.source for version in all_versions(client, f"run_id='{run_id}'")}
    for output in run.outputs.model_outputs if run.outputs else ():
        source = f"models:/{output.model_id}"
        if source not in registered:
            model_name = name or client.get_logged_model(output.model_id).name
            mlflow.register_model(source, model_name, await_registration_for=0)
