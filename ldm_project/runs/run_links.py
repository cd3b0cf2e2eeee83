"""Links between a command's run and the runs that it set off, in the descriptions of both."""

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE


def link_runs(run_id: str, further_run_id: str, what: str) -> None:
    """Adds a link to a run's description that opens the run that it set off, and one back.

    Args:
        run_id: of the command that needed the further run.
        further_run_id: of the run that it set off.
        what: the further run did for it, such as ``Trained``.
    """
    client = MlflowClient()
    _add_line(client, run_id, f"{what} for this run", further_run_id)
    _add_line(client, further_run_id, "Set off by", run_id)


def _add_line(client: MlflowClient, run_id: str, what: str, linked_run_id: str) -> None:
    linked = client.get_run(linked_run_id).info
    address = f"#/experiments/{linked.experiment_id}/runs/{linked_run_id}"
    line = f"{what}: [{linked.run_name}]({address})"
    before = client.get_run(run_id).data.tags.get(MLFLOW_RUN_NOTE, "")
    client.set_tag(run_id, MLFLOW_RUN_NOTE, f"{before}\n\n{line}".strip())
