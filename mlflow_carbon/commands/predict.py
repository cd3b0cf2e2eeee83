"""``mlflow-carbon predict``: energy and CO2e of more of the work that a run measured."""

import click

from mlflow_carbon.commands.options import (
    carbon_intensity_option,
    example,
    format_option,
    intensity_set_option,
    month_option,
    print_frame,
    print_notices,
    pue_option,
    split_items,
    tracking_uri_option,
)
from mlflow_carbon.commands.pricing import (
    Pricing,
    intensity_basis_option,
    intensity_file_option,
    provider_option,
    run_intensities,
)


@click.command(epilog=example("mlflow-carbon predict latest --units 10000 --region EU27,Sweden"))
@click.argument("run", metavar="RUN")
@click.option("--iterations", type=int, help="So many iterations, of a run that counts these.")
@click.option("--samples", type=int, help="So many samples, of a run that counts these.")
@click.option("--units", type=float, help="So many of whatever the run counts.")
@click.option(
    "--region",
    multiple=True,
    callback=split_items,
    help="Prices in these regions, comma-separated or repeated. Default: as recorded.",
)
@month_option
@pue_option
@intensity_set_option
@carbon_intensity_option
@intensity_file_option
@intensity_basis_option
@provider_option
@click.option("--embodied-kg", type=float, help="CO2e of making the device; adds the SCI per unit.")
@click.option("--device-lifetime-years", type=float, help="How long the device will serve.")
@click.option(
    "--device-share-fraction",
    type=float,
    default=1.0,
    show_default=True,
    help="Part of the device that is reserved for this work.",
)
@click.option("--experiment", multiple=True, help="Where to look for names. Default: everywhere.")
@format_option
@tracking_uri_option
def predict(
    run: str,
    iterations: int | None,
    samples: int | None,
    units: float | None,
    region: tuple[str, ...],
    month: str | None,
    pue: float | None,
    intensity_set: str | None,
    carbon_intensity_g_per_kwh: float | None,
    intensity_file: str | None,
    intensity_basis: str,
    provider: str | None,
    embodied_kg: float | None,
    device_lifetime_years: float | None,
    device_share_fraction: float,
    experiment: tuple[str, ...],
    format: str,
    tracking_uri: str | None,
) -> None:
    """Forecasts energy and CO2e of more units of the work that RUN measured.

    RUN is a run's id, its name where only one run has it, or latest. Prints the expected total,
    the spread (std x N, the paper's ±) and the prediction interval, each under its own name.
    """
    from mlflow_carbon.accounting.forecast import num_units_asked
    from mlflow_carbon.accounting.functional_unit import Device
    from mlflow_carbon.grid.intensity import basis_notice
    from mlflow_carbon.reporting.prediction import predict as predict_run
    from mlflow_carbon.reporting.prediction import prediction_text
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.run_windows import find_run, read_metered_run

    pricing = Pricing(
        regions=region,
        month=month,
        intensity_set=intensity_set,
        carbon_intensity_g_per_kwh=carbon_intensity_g_per_kwh,
        intensity_file=intensity_file,
        intensity_basis=intensity_basis,
        provider=provider,
    )
    if (embodied_kg is None) != (device_lifetime_years is None):
        raise click.UsageError("--embodied-kg and --device-lifetime-years go together.")
    device = None
    if embodied_kg is not None and device_lifetime_years is not None:
        device = Device(embodied_kg, device_lifetime_years, device_share_fraction)
    client = open_client(tracking_uri)
    measured = read_metered_run(client, find_run(client, run, experiment_names=experiment))
    intensities = run_intensities(pricing, measured)
    prediction = predict_run(
        measured,
        num_units_asked(measured.unit, iterations=iterations, samples=samples, units=units),
        intensities=intensities,
        pue=pue,
        device=device,
    )
    bases = ((intensity.region, intensity.basis) for intensity in intensities)
    print_notices(filter(None, [basis_notice(bases), *prediction.cautions]))
    print_frame(prediction.table, prediction_text(prediction), format)
