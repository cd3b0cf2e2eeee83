"""``mlflow-carbon total``: the whole footprint of a project, runs that failed included."""

import click

from mlflow_carbon.commands.options import example, given_time, tracking_uri_option
from mlflow_carbon.commands.output import Writer, output_options
from mlflow_carbon.commands.pricing import Pricing, chosen_intensities, price_options
from mlflow_carbon.commands.progress import ReadingProgress


@click.command(epilog=example("mlflow-carbon total --experiment Default --since 2026-01-01"))
@click.option("--experiment", multiple=True, help="Experiment to add up; repeatable.")
@click.option(
    "--since",
    metavar="TIME",
    callback=given_time,
    help="Runs that started then or later: 2026-01-01. Without --experiment, of all experiments.",
)
@click.option(
    "--embodied-kg",
    type=click.FloatRange(min=0),
    help="Embodied emissions (M) of the hardware during these runs; nobody measures them.",
)
@click.option(
    "--functional-units",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="How many functional units (R) came of it.",
)
@click.option(
    "--functional-unit", default="project", show_default=True, help="What one is: model, image."
)
@price_options()
@output_options
@tracking_uri_option
def total(
    experiment: tuple[str, ...],
    since: float | None,
    embodied_kg: float | None,
    functional_units: float,
    functional_unit: str,
    pricing: Pricing,
    write: Writer,
    tracking_uri: str | None,
) -> None:
    """Adds up every metered run of a project, as the SCI for AI asks for.

    Failed, killed and early-stopped runs count with what they spent; sweeps count once, not once
    by their parent and again by their trials. Says how many runs are not in it, and why.
    """
    from mlflow_carbon.grid.intensity import DEFAULT_SET
    from mlflow_carbon.reporting.total import read_total
    from mlflow_carbon.reporting.total_report import total_frame, total_report
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.units import grams_from_kg

    if not experiment and since is None:
        raise click.UsageError("Say what to add up: --experiment NAME, --since TIME, or both.")
    if pricing.series is not None:
        raise click.UsageError("--intensity-file prices single runs; give --region or a figure.")
    client = open_client(tracking_uri)
    intensity = next(iter(chosen_intensities(pricing, preferred_set=DEFAULT_SET)), None)
    found = read_total(
        client,
        experiment_names=experiment,
        since_unix_s=since,
        intensity=intensity,
        pue=pricing.pue,
        on_progress=ReadingProgress(),
    )
    frame = total_frame(found)
    report = total_report(
        found,
        frame,
        embodied_g=None if embodied_kg is None else grams_from_kg(embodied_kg),
        num_functional_units=functional_units,
        functional_unit=functional_unit,
    )
    write(frame, report)
