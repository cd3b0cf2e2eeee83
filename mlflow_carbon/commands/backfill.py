"""``mlflow-carbon backfill``: energy for runs without metering, from their system metrics."""

from typing import TYPE_CHECKING

import click

from mlflow_carbon.commands.options import example, tracking_uri_option
from mlflow_carbon.commands.output import print_line, print_notices
from mlflow_carbon.commands.pricing import assumption_options

if TYPE_CHECKING:
    from mlflow_carbon.contract.assumptions import Assumptions
    from mlflow_carbon.recording.backfill import Candidate, Survey


@click.command(
    epilog=example("mlflow-carbon backfill --experiment Default --region Germany --dry-run")
)
@click.option(
    "--experiment", multiple=True, required=True, help="Experiment to go through; repeatable."
)
@assumption_options
@click.option(
    "--cpu", help="Model of the node's one CPU, whose design power is looked up in a table."
)
@click.option(
    "--cpu-tdp-w",
    type=float,
    help="Design power of all the node's CPUs together, instead of --cpu.",
)
@click.option("--dry-run", is_flag=True, help="Prints what would be written, and stops.")
@tracking_uri_option
def backfill(
    experiment: tuple[str, ...],
    assumptions: "Assumptions",
    cpu: str | None,
    cpu_tdp_w: float | None,
    dry_run: bool,
    tracking_uri: str | None,
) -> None:
    """Gives ended runs that were never metered the energy of their system metrics.

    GPUs count by their logged power. The CPU counts by its use and its design power, where that
    is given, and a load curve measured on servers.
    Time without system metrics is not counted. The runs are tagged as backfilled; a second call
    finds nothing to do.
    """
    from mlflow.exceptions import MlflowException

    from mlflow_carbon.recording.backfill import cpu_power, survey, write
    from mlflow_carbon.redaction import reason_of
    from mlflow_carbon.registry.run_models import record_run_models
    from mlflow_carbon.store.access import open_client, store_errors
    from mlflow_carbon.store.experiments import find_experiment
    from mlflow_carbon.tracking.mlflow_seams import past_active_model, without_prompt_checks

    power = cpu_power(cpu, cpu_tdp_w)
    client = open_client(tracking_uri, is_for_writing=not dry_run)
    with store_errors(client):
        ids = [find_experiment(client, name).experiment_id for name in experiment]
        found = survey(client, ids, cpu=power)
    print_notices([assumptions.sentence(), *_left_alone(found)])
    num_problems = 0
    for candidate in found.candidates:
        became = "would be written" if dry_run else "written"
        if not candidate.has_energy:
            became = "left as it is"
        elif not dry_run:
            try:
                write(past_active_model(client), candidate, assumptions, cpu=power)
                record_run_models(without_prompt_checks(client), candidate.run.info.run_id)
            except MlflowException as error:
                became = f"not written: {reason_of(error)}"
                num_problems += 1
        print_line(_line(candidate, assumptions, became))
    if not found.candidates:
        print_line("Nothing to backfill.")
    if num_problems:
        raise click.ClickException(f"{num_problems} runs could not be written.")


def _left_alone(found: "Survey") -> list[str]:
    """Returns a sentence for each kind of run that there is nothing to do for."""
    nums = {
        "metered or backfilled already": found.num_metered,
        "without system metrics of power or CPU use": found.num_without_metrics,
        "not ended": found.num_running,
    }
    return [
        f"Left alone {num} {'run' if num == 1 else 'runs'} {which}."
        for which, num in nums.items()
        if num
    ]


def _line(candidate: "Candidate", assumptions: "Assumptions", became: str) -> str:
    """Returns one run's figures, what is missing in them, and what became of it."""
    from mlflow_carbon.accounting.emissions import co2e_g
    from mlflow_carbon.reporting.tables import ENERGY_SCALES, MASS_SCALES, choose_scale

    found, info = candidate.found, candidate.run.info
    title = f"run {info.run_id} ({info.run_name})"
    notes = list(found.problems)
    if found.num_gaps:
        gaps = "gap is" if found.num_gaps == 1 else "gaps are"
        notes.append(f"{found.num_gaps} {gaps} not counted.")
    energy_kwh = found.reading.energy_kwh
    if energy_kwh is None:
        return " ".join([f"{title}: no energy; {became}.", *notes])
    mass_g = co2e_g(
        energy_kwh, pue=assumptions.pue, intensity_g_per_kwh=assumptions.intensity.g_per_kwh
    )
    energy, mass = choose_scale([energy_kwh], ENERGY_SCALES), choose_scale([mass_g], MASS_SCALES)
    figures = (
        f"{energy.text(energy_kwh)} {energy.symbol}, {mass.text(mass_g)} {mass.symbol} CO2e; "
        f"{found.covered_s:.4g} s of {found.reading.duration_s:.4g} s covered; {became}."
    )
    return " ".join([f"{title}: {figures}", *notes])
