"""``mlflow-carbon models``: model versions with the CO2e of their training."""

import click

from mlflow_carbon.commands.options import equivalents_option, example, tracking_uri_option
from mlflow_carbon.commands.output import Writer, output_options, print_notices
from mlflow_carbon.commands.pricing import (
    Pricing,
    chosen_intensities,
    price_options,
)

_SORT_COLUMN = {"name": "name", "co2e": "co2e_kg", "energy": "energy_kwh"}


@click.command(epilog=example("mlflow-carbon models --max-co2e-kg 0.5 --region Sweden --sort co2e"))
@click.option("--max-co2e-kg", type=float, help="Only versions at or under this limit.")
@price_options()
@click.option(
    "--sort",
    type=click.Choice(list(_SORT_COLUMN)),
    default="name",
    show_default=True,
    help="Order of the versions.",
)
@equivalents_option
@output_options
@tracking_uri_option
def models(
    max_co2e_kg: float | None,
    pricing: Pricing,
    sort: str,
    equivalents: bool,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Lists model versions with the CO2e of their own training."""
    from mlflow_carbon.accounting.emissions import checked
    from mlflow_carbon.grid.intensity import basis_notice
    from mlflow_carbon.reporting.everyday import models_footer
    from mlflow_carbon.reporting.model_list import price_models, price_models_by_file, read_models
    from mlflow_carbon.reporting.region_prices import recorded_set
    from mlflow_carbon.reporting.report import Report
    from mlflow_carbon.reporting.tables import models_table, one_pue, recorded_prices
    from mlflow_carbon.store.access import open_client

    if max_co2e_kg is not None:
        checked("max_co2e_kg", max_co2e_kg)
    client = open_client(tracking_uri)
    recorded = read_models(client)
    series = pricing.series
    prices = []
    if series is None:
        prices = chosen_intensities(pricing, preferred_set=recorded_set(recorded))
    else:
        recorded, problems = price_models_by_file(client, recorded, series, region=pricing.region)
        print_notices([f"CO2e by {series.source}, each training by its own times.", *problems])
    if write.format in ("csv", "json"):  # the others have it below the table
        print_notices(f"CO2e by {price.label}." for price in prices)
    listed = price_models(
        recorded,
        max_co2e_kg=max_co2e_kg,
        intensity=prices[0] if prices else None,
        pue=pricing.pue,
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
    if measured.empty:
        write(measured, "")
    else:
        footer = models_footer(measured, is_asked=equivalents)
        told = f"\n{recorded_prices(measured)}{one_pue(measured)}"
        write(measured, Report.of(models_table(measured), told, footer))
