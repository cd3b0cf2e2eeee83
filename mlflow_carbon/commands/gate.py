"""``mlflow-carbon gate``: exits with 1 if a model emitted more than a limit, or nobody knows."""

import click

from mlflow_carbon.commands.options import (
    carbon_intensity_option,
    example,
    given_text,
    intensity_set_option,
    lineage_option,
    month_option,
    pue_option,
    tracking_uri_option,
)
from mlflow_carbon.commands.pricing import (
    Pricing,
    intensity_basis_option,
    intensity_file_option,
    model_intensities,
    provider_option,
)


@click.command(epilog=example("mlflow-carbon gate models:/small/1 --max-co2e-kg 5"))
@click.argument("model")
@click.option("--max-co2e-kg", type=float, required=True, help="The limit, in kg.")
@lineage_option
@click.option("--region", callback=given_text, help="Prices in this region. Default: as recorded.")
@month_option
@pue_option
@intensity_set_option
@carbon_intensity_option
@intensity_file_option
@intensity_basis_option
@provider_option
@tracking_uri_option
def gate(
    model: str,
    max_co2e_kg: float,
    lineage: bool,
    region: str | None,
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    intensity_file: str | None,
    intensity_basis: str,
    provider: str | None,
    tracking_uri: str | None,
) -> None:
    """Refuses MODEL (models:/name/3, models:/name@alias) where it emitted more than a limit.

    Exits with 0 and says on stdout what passed, or with 1 and says on stderr why not: the limit, or
    that the model or its emissions are not known. Wrong usage exits with 2.
    """
    from mlflow_carbon.reporting.gate import judge
    from mlflow_carbon.reporting.model_footprint import read_model_footprint
    from mlflow_carbon.store.access import open_client

    pricing = Pricing(
        regions=() if region is None else (region,),
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        intensity_file=intensity_file,
        intensity_basis=intensity_basis,
        provider=provider,
    )
    client = open_client(tracking_uri)
    judged = read_model_footprint(client, model)
    verdict = judge(
        judged,
        max_co2e_kg=max_co2e_kg,
        with_lineage=lineage,
        intensity_of=model_intensities(pricing, client, judged),
        pue=pue,
    )
    if not verdict.is_passed:
        raise click.ClickException(verdict.sentence)
    click.echo(verdict.sentence)
