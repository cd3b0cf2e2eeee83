"""``mlflow-carbon card``: a model's emissions as its model card and its paper tell them."""

import click

from mlflow_carbon.commands.options import example, lineage_option, tracking_uri_option
from mlflow_carbon.inert import shown_lines


@click.command(epilog=example("mlflow-carbon card models:/small/1 --bibtex"))
@click.argument("model")
@click.option(
    "--training-type",
    type=click.Choice(("pre-training", "fine-tuning")),
    default="pre-training",
    show_default=True,
    help="What Hugging Face calls the kind of training.",
)
@lineage_option
@click.option("--bibtex", is_flag=True, help="Prints the sources to cite instead.")
@tracking_uri_option
def card(
    model: str, training_type: str, lineage: bool, bibtex: bool, tracking_uri: str | None
) -> None:
    """Prints the emissions of MODEL (models:/name/3, models:/name@alias) for its model card.

    First the metadata that Hugging Face reads (co2_eq_emissions), then a paragraph to quote.
    """
    from mlflow_carbon.reporting import citations, model_card
    from mlflow_carbon.reporting.model_footprint import read_model_footprint
    from mlflow_carbon.store.access import open_client

    described = read_model_footprint(open_client(tracking_uri), model)
    if bibtex:
        text = citations.bibtex(model_card.measured(described))
    else:
        text = model_card.model_card(described, training_type=training_type, with_lineage=lineage)
    click.echo(shown_lines(text), nl=False)
