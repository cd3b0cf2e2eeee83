"""``mlflow-carbon recover``: figures that killed processes left behind, sent to the store."""

import click

from mlflow_carbon.commands.options import example, tracking_uri_option
from mlflow_carbon.commands.output import print_line


@click.command(epilog=example("mlflow-carbon recover"))
@tracking_uri_option
def recover(tracking_uri: str | None) -> None:
    """Sends to the store what killed processes left in their journals.

    Journals lie where MLFLOW_CARBON_JOURNAL_DIR says. Sending one twice changes nothing.
    """
    from mlflow_carbon.recording.journal import journal_dir
    from mlflow_carbon.recording.recovery import recover as recover_all
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.tracking.mlflow_seams import past_active_model

    folder = journal_dir()
    client = past_active_model(open_client(tracking_uri, is_for_writing=True))
    recoveries = list(recover_all(client, folder))
    for recovery in recoveries:
        if not recovery.run_id:
            print_line(f"{recovery.path.name!r} left in {folder}: {recovery.reason}.")
            continue
        if recovery.reason is not None:
            print_line(f"run {recovery.run_id}: left in {folder}: {recovery.reason}.")
            continue
        became = "sent"
        if recovery.kept is not None:
            bad = "line" if recovery.num_bad_lines == 1 else "lines"
            became += f"; {recovery.num_bad_lines} unreadable {bad} kept in {recovery.kept}"
        print_line(f"run {recovery.run_id}: {recovery.num_batches} sets of figures {became}.")
    if not recoveries:
        print_line(f"Nothing to recover in {folder}.")
