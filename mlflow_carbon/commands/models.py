"""``mlflow-carbon models``: model versions with the CO2e of their training."""

import click

from mlflow_carbon.commands.options import (
    carbon_intensity_option,
    example,
    format_option,
    given_text,
    intensity_set_option,
    month_option,
    print_frame,
    print_notices,
    pue_option,
    recorded_set,
    tracking_uri_option,
)
from mlflow_carbon.commands.pricing import (
    Pricing,
    chosen_intensities,
    file_series,
    intensity_basis_option,
    intensity_file_option,
    provider_option,
)

_SORT_COLUMN = {"name": "name", "co2e": "co2e_kg", "energy": "energy_kwh"}


@click.command(epilog=example("mlflow-carbon models --max-co2e-kg 0.5 --region Sweden --sort co2e"))
@click.option("--max-co2e-kg", type=float, help="Only versions at or under this limit.")
@click.option("--region", callback=given_text, help="Prices in this region. Default: as recorded.")
@month_option
@pue_option
@intensity_set_option
@carbon_intensity_option
@intensity_file_option
@intensity_basis_option
@provider_option
@click.option(
    "--sort",
    type=click.Choice(list(_SORT_COLUMN)),
    default="name",
    show_default=True,
    help="Order of the versions.",
)
@format_option
@tracking_uri_option
def models(
    max_co2e_kg: float | None,
    region: str | None,
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    intensity_file: str | None,
    intensity_basis: str,
    provider: str | None,
    sort: str,
    format: str,
    tracking_uri: str | None,
) -> None:
    """Lists model versions with the CO2e of their own training."""
    from mlflow_carbon.grid.intensity import basis_notice
    from mlflow_carbon.reporting import tables
    from mlflow_carbon.reporting.everyday import models_footer
    from mlflow_carbon.reporting.model_list import price_models, price_models_by_file, read_models
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
    recorded = read_models(client)
    series = file_series(pricing)
    prices = []
    if series is None:
        prices = chosen_intensities(pricing, preferred_set=recorded_set(recorded))
    else:
        recorded, problems = price_models_by_file(client, recorded, series, region=region)
        print_notices([f"CO2e by {series.source}, each training by its own times.", *problems])
    print_notices(
        f"CO2e by {price.g_per_kwh:g} g/kWh ({price.region} {price.period}, {price.intensity_set})."
        for price in prices
    )
    listed = price_models(
        recorded,
        max_co2e_kg=max_co2e_kg,
        intensity=prices[0] if prices else None,
        pue=pue,
    )
    measured = listed.dropna(subset="co2e_kg").sort_values(_SORT_COLUMN[sort], kind="stable")
    num_unmeasured = len(listed) - len(measured)
    if num_unmeasured:
        versions = "version" if num_unmeasured == 1 else "versions"
        print_notices([f"Left out {num_unmeasured} {versions} without emissions."])
    if measured.empty:
        limit = "" if max_co2e_kg is None else f" at or under {max_co2e_kg:g} kg CO2e"
        print_notices([f"No model version to list{limit}."])
    bases = measured[["region", "intensity_basis"]].dropna().drop_duplicates()
    notice = basis_notice(bases.itertuples(index=False, name=None))
    print_notices([] if notice is None else [notice])
    text = f"{tables.models_text(measured)}\n{models_footer(measured)}"
    print_frame(measured, "" if measured.empty else text, format)
