"""``mlflow-carbon gate``: exits with 1 if a model emitted too much, or is unmeasured."""

import math

import click

from mlflow_carbon.commands.options import example, lineage_option, tracking_uri_option
from mlflow_carbon.commands.output import print_line
from mlflow_carbon.commands.pricing import Pricing, model_intensities, price_options


def percentage(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """Returns an option's ``10%`` as 0.1."""
    if text is None:
        return None
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else math.nan
    except ValueError:
        return math.nan


@click.command(epilog=example("mlflow-carbon gate models:/small/1 --max-co2e-kg 5"))
@click.argument("model")
@click.option("--max-co2e-kg", type=float, help="The limit, in kg.")
@click.option("--against", metavar="MODEL", help="A model to compare with.")
@click.option(
    "--max-increase",
    metavar="PERCENT",
    callback=percentage,
    help="How much more than --against MODEL may emit, as 10%.",
)
@lineage_option
@price_options()
@tracking_uri_option
def gate(
    model: str,
    max_co2e_kg: float | None,
    against: str | None,
    max_increase: float | None,
    lineage: bool,
    pricing: Pricing,
    tracking_uri: str | None,
) -> None:
    """Refuses MODEL (models:/name/3, models:/name@alias) where it emitted too much.

    Too much is more than a limit in kg, or more than another model by a percentage and by more than
    both trainings vary. Exits with 0 and says on stdout what passed, or with 1 and says on stderr
    why not: the limit, or that the model or its emissions are not known. Wrong usage exits with 2.
    """
    _check_usage(max_co2e_kg, against, max_increase, lineage)
    from mlflow_carbon.accounting.emissions import checked
    from mlflow_carbon.reporting.gate import judge
    from mlflow_carbon.reporting.increase_gate import judge_increase
    from mlflow_carbon.reporting.model_footprint import read_model_footprint
    from mlflow_carbon.store.access import open_client
    from mlflow_carbon.store.run_windows import read_metered_run

    if max_co2e_kg is not None:
        checked("max_co2e_kg", max_co2e_kg)
    client = open_client(tracking_uri)
    judged = read_model_footprint(client, model)
    intensity_of = model_intensities(pricing, client, judged)
    verdicts = []
    if max_co2e_kg is not None:
        verdicts.append(
            judge(
                judged,
                max_co2e_kg=max_co2e_kg,
                with_lineage=lineage,
                intensity_of=intensity_of,
                pue=pricing.pue,
            )
        )
    if against is not None and max_increase is not None:
        verdicts.append(
            judge_increase(
                judged,
                read_model_footprint(client, against),
                max_increase_fraction=max_increase,
                windows_of=lambda training: read_metered_run(client, training.run),
                intensity_of=intensity_of,
                pue=pricing.pue,
            )
        )
    refusals = [verdict.sentence for verdict in verdicts if not verdict.is_passed]
    if refusals:
        raise click.ClickException(" ".join(refusals))
    for verdict in verdicts:
        print_line(verdict.sentence)


def _check_usage(
    max_co2e_kg: float | None, against: str | None, max_increase: float | None, lineage: bool
) -> None:
    """Raises ``click.UsageError`` where the limits given make no question."""
    if max_co2e_kg is None and against is None:
        raise click.UsageError("Give --max-co2e-kg, or --against MODEL with --max-increase 10%.")
    if (against is None) != (max_increase is None):
        raise click.UsageError("--against and --max-increase go together.")
    if max_increase is not None and not max_increase >= 0:
        raise click.UsageError("--max-increase needs a percentage of 0 or more, as 10%.")
    if lineage and max_co2e_kg is None:
        raise click.UsageError("--lineage goes with --max-co2e-kg.")
