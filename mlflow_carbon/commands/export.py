"""``mlflow-carbon export``: the metered runs of a store as a Parquet file."""

from pathlib import Path

import click

from mlflow_carbon.commands.options import (
    all_experiments_option,
    example,
    experiment_option,
    filter_option,
    tracking_uri_option,
)
from mlflow_carbon.commands.progress import ReadingProgress


@click.command(epilog=example("mlflow-carbon export --all-experiments --out runs.parquet"))
@experiment_option
@all_experiments_option
@filter_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["parquet"]),
    default="parquet",
    show_default=True,
    help="Of the file.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File to write, once it is whole.",
)
@tracking_uri_option
def export(
    experiment: tuple[str, ...],
    all_experiments: bool,
    filter_string: str,
    file_format: str,  # noqa: ARG001  # there is one
    out: Path,
    tracking_uri: str | None,
) -> None:
    """Writes the metered runs of a store to a file, which compare reads without the store.

    A row is a run, however it ended: its latest figures, parameters and tags, descriptions and
    users' names among them. `compare --from-parquet` takes such files of many stores at once.
    """
    if experiment and all_experiments:
        raise click.UsageError("Give --experiment or --all-experiments.")
    from mlflow_carbon.reporting.comparing import default_experiments
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.exported import require_parquet
    from mlflow_carbon.store.runs import export_runs

    require_parquet()
    num_runs = export_runs(
        open_client(tracking_uri),
        out,
        experiment_names=() if all_experiments else experiment or default_experiments(),
        filter_string=filter_string,
        on_progress=ReadingProgress(),
    )
    click.echo(f"{num_runs} metered {'run' if num_runs == 1 else 'runs'} in {out}.")
