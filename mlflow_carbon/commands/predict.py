"""``mlflow-carbon predict``: energy and CO2e of more of the work that a run measured."""

import click

from mlflow_carbon.commands.options import equivalents_option, example, tracking_uri_option
from mlflow_carbon.commands.output import Writer, output_options, print_notices
from mlflow_carbon.commands.pricing import Pricing, price_options, run_intensities


@click.command(epilog=example("mlflow-carbon predict latest --units 10000 --region EU27,Sweden"))
@click.argument("run", metavar="RUN")
@click.option("--iterations", type=int, help="So many iterations, of a run that counts these.")
@click.option("--samples", type=int, help="So many samples, of a run that counts these.")
@click.option("--units", type=float, help="So many of whatever the run counts.")
@price_options(has_many_regions=True)
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
@equivalents_option
@output_options
@tracking_uri_option
def predict(
    run: str,
    iterations: int | None,
    samples: int | None,
    units: float | None,
    pricing: Pricing,
    embodied_kg: float | None,
    device_lifetime_years: float | None,
    device_share_fraction: float,
    experiment: tuple[str, ...],
    equivalents: bool,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Forecasts energy and CO2e of more units of the work that RUN measured.

    RUN is a run's id, its name where only one run has it, or latest. Prints the expected total,
    the spread (std x N, the paper's ±) and the prediction interval, each under its own name.
    """
    if iterations is None and samples is None and units is None:
        raise click.UsageError("Give --iterations, --samples or --units: of how much work?")
    from mlflow_carbon.accounting.forecast import num_units_asked, work_asked
    from mlflow_carbon.accounting.functional_unit import Device
    from mlflow_carbon.grid.intensity import basis_notice
    from mlflow_carbon.reporting.prediction import predict as predict_run
    from mlflow_carbon.reporting.prediction import prediction_report
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.run_windows import find_run, read_metered_run

    work_asked(iterations=iterations, samples=samples, units=units)
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
        pue=pricing.pue,
        device=device,
    )
    bases = ((intensity.region, intensity.basis) for intensity in intensities)
    print_notices(filter(None, [basis_notice(bases), *prediction.cautions]))
    report = prediction_report(prediction, with_equivalents=equivalents)
    write(prediction.table, report)
