"""``mlflow-carbon paper-check``: the paper's claims against its own figures."""

import click

from mlflow_carbon.commands.options import example
from mlflow_carbon.commands.output import Writer, output_options


@click.command(epilog=example("mlflow-carbon paper-check"))
@output_options
def paper_check(write: Writer) -> None:
    """Replays every numeric claim of the paper from the figures that it prints itself.

    Verdicts: holds, rounding (within 1 %), contradicted, cannot be derived. The paper is
    Seyfarth et al. 2024, arXiv:2407.14892.
    """
    from mlflow_carbon.reporting.paper_claims import check_claims, claims_text
    from mlflow_carbon.reporting.tables import records_frame

    claims = check_claims()
    write(records_frame(claims), claims_text(claims))
