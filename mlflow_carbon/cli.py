"""The command line: every command has a file of its own, where it parses, calls and prints."""

from typing import Any

import click

from mlflow_carbon.commands.advise import advise
from mlflow_carbon.commands.backfill import backfill
from mlflow_carbon.commands.card import card
from mlflow_carbon.commands.compare import compare
from mlflow_carbon.commands.doctor import doctor
from mlflow_carbon.commands.equivalents import equivalents
from mlflow_carbon.commands.gate import gate
from mlflow_carbon.commands.models import models
from mlflow_carbon.commands.options import example
from mlflow_carbon.commands.paper_check import paper_check
from mlflow_carbon.commands.predict import predict
from mlflow_carbon.commands.recover import recover
from mlflow_carbon.commands.tag_models import tag_models
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.tracking.mlflow_seams import require_supported


class _Group(click.Group):
    """Turns our errors into a message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            require_supported()
            return super().invoke(ctx)
        except MlflowCarbonError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group, epilog=example("mlflow-carbon compare --help"))
@click.version_option(package_name="mlflow-carbon")
def cli() -> None:
    """Energy and CO2e of MLflow runs and registered models."""


COMMANDS = (
    compare,
    models,
    tag_models,
    gate,
    card,
    predict,
    advise,
    equivalents,
    paper_check,
    doctor,
    recover,
    backfill,
)
for command in COMMANDS:
    cli.add_command(command)
