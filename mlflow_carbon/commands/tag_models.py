"""``mlflow-carbon tag-models``: the emission tags of registered models, written anew."""

import click

from mlflow_carbon.commands.options import example, tracking_uri_option
from mlflow_carbon.commands.output import print_line, print_notices


@click.command(epilog=example("mlflow-carbon tag-models --all"))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "is_all", is_flag=True, help="Tags every registered model.")
@click.option(
    "--show",
    type=click.Choice(("newest", "best")),
    help="Version whose tags the registered model shows from now on: the newest one, or the one "
    "of least CO2e. Default: as before, at first the newest.",
)
@tracking_uri_option
def tag_models(
    names: tuple[str, ...], is_all: bool, show: str | None, tracking_uri: str | None
) -> None:
    """Writes the emission tags of registered models NAME and of their versions anew.

    What they say is read from the runs that trained and used them. Doing it twice changes
    nothing.
    """
    from mlflow_carbon.registry.run_models import registered_names
    from mlflow_carbon.registry.run_models import tag_models as write_tags
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.tracking.mlflow_seams import without_prompt_checks

    if is_all == bool(names):
        raise click.UsageError("Give the names of registered models, or --all.")
    client = without_prompt_checks(open_client(tracking_uri, is_for_writing=True))
    num_problems = 0
    for tagged in write_tags(client, registered_names(client) if is_all else names, show=show):
        versions = "version" if tagged.num_versions == 1 else "versions"
        changes = f"{tagged.num_changed} changed" if tagged.num_changed else "nothing changed"
        if tagged.num_versions or not tagged.problems:
            print_line(f"{tagged.name}: {tagged.num_versions} {versions}, {changes}.")
        print_notices(f"Not written on {problem}." for problem in tagged.problems)
        num_problems += len(tagged.problems)
    if num_problems:
        things = "model or version" if num_problems == 1 else "models or versions"
        raise click.ClickException(f"{num_problems} {things} could not be tagged.")
