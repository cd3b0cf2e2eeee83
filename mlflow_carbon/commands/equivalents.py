"""``mlflow-carbon equivalents``: a mass of CO2e as everyday quantities."""

import click

from mlflow_carbon.accounting.equivalents import POPULATION, REMAINING_BUDGET_GT, YEARS_LEFT
from mlflow_carbon.commands.options import example
from mlflow_carbon.commands.output import Writer, output_options


@click.command(epilog=example("mlflow-carbon equivalents 12.3"))
@click.argument("co2e_kg", metavar="KG", type=float)
@click.option(
    "--remaining-gt",
    type=float,
    default=REMAINING_BUDGET_GT,
    show_default=True,
    help="CO2 that may still be emitted for 1.5 °C, in Gt.",
)
@click.option(
    "--population", type=float, default=POPULATION, show_default=True, help="People who share it."
)
@click.option(
    "--years", type=float, default=YEARS_LEFT, show_default=True, help="Years it must last."
)
@output_options
def equivalents(
    co2e_kg: float, remaining_gt: float, population: float, years: float, write: Writer
) -> None:
    """Says what KG kg CO2e are in km driven, phones charged, km flown, trees and climate budget.

    The range is that of the quantity over all editions of its factor that are known here.
    """
    from mlflow_carbon.accounting.equivalents import budget_share
    from mlflow_carbon.accounting.equivalents import equivalents as amounts_of
    from mlflow_carbon.reporting.everyday import equivalents_frame, equivalents_report

    share = budget_share(co2e_kg, remaining_gt=remaining_gt, population=population, years=years)
    frame = equivalents_frame(amounts_of(co2e_kg), share)
    write(frame, equivalents_report(frame))
