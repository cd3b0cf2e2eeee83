"""Registers the models that a run has logged."""

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def register_logged_models(client: MlflowClient, run_id: str, name: str | None) -> None:
    """Makes a version of each logged model of the run that has none yet.

    Args:
        client: of the store that holds the run and its models.
        run_id: the run.
        name: of the registered model; ``None`` takes each logged model's own name.
    """
    run = client.get_run(run_id)
    registered = {
        version.model_id for version in client.search_model_versions(f"run_id = '{run_id}'")
    }
    for output in run.outputs.model_outputs if run.outputs else ():
        if output.model_id in registered:
            continue
        model = client.get_logged_model(output.model_id)
        registered_name = name or model.name
        try:
            client.create_registered_model(registered_name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        client.create_model_version(
            registered_name, model.artifact_location, run_id=run_id, model_id=model.model_id
        )
