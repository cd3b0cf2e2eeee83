"""``mlflow-carbon gate``: exits with 1 if a model emitted more than a limit, or is unmeasured."""

import click

from mlflow_carbon.commands.options import example, lineage_option, tracking_uri_option
from mlflow_carbon.commands.output import print_line
from mlflow_carbon.commands.pricing import Pricing, model_intensities, price_options


@click.command(epilog=example("mlflow-carbon gate models:/small/1 --max-co2e-kg 5"))
@click.argument("model")
@click.option("--max-co2e-kg", type=float, required=True, help="The limit, in kg.")
@lineage_option
@price_options()
@tracking_uri_option
def gate(
    model: str,
    max_co2e_kg: float,
    lineage: bool,
    pricing: Pricing,
    tracking_uri: str | None,
) -> None:
    """Refuses MODEL (models:/name/3, models:/name@alias) where it emitted more than a limit.

    Exits with 0 and says on stdout what passed, or with 1 and says on stderr why not: the limit, or
    that the model or its emissions are not known. Wrong usage exits with 2.
    """
    from mlflow_carbon.accounting.emissions import checked
    from mlflow_carbon.reporting.gate import judge
    from mlflow_carbon.reporting.model_footprint import read_model_footprint
    from mlflow_carbon.store.access import open_client

    checked("max_co2e_kg", max_co2e_kg)
    client = open_client(tracking_uri)
    judged = read_model_footprint(client, model)
    verdict = judge(
        judged,
        max_co2e_kg=max_co2e_kg,
        with_lineage=lineage,
        intensity_of=model_intensities(pricing, client, judged),
        pue=pricing.pue,
    )
    if not verdict.is_passed:
        raise click.ClickException(verdict.sentence)
    print_line(verdict.sentence)
