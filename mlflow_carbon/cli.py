"""The command line: every command has a file of its own, where it parses, calls and prints."""

import re
from typing import Any

import click

from mlflow_carbon.commands.advise import advise
from mlflow_carbon.commands.backfill import backfill
from mlflow_carbon.commands.card import card
from mlflow_carbon.commands.compare import compare
from mlflow_carbon.commands.doctor import doctor
from mlflow_carbon.commands.equivalents import equivalents
from mlflow_carbon.commands.export import export
from mlflow_carbon.commands.gate import gate
from mlflow_carbon.commands.models import models
from mlflow_carbon.commands.options import WholeSentences, example
from mlflow_carbon.commands.output import Refusal
from mlflow_carbon.commands.paper_check import paper_check
from mlflow_carbon.commands.plot import plot
from mlflow_carbon.commands.predict import predict
from mlflow_carbon.commands.recover import recover
from mlflow_carbon.commands.report import report
from mlflow_carbon.commands.run import run
from mlflow_carbon.commands.study_report import study_report
from mlflow_carbon.commands.tag_models import tag_models
from mlflow_carbon.commands.total import total
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.inert import shown
from mlflow_carbon.tracking.mlflow_seams import require_supported


class _Group(WholeSentences):
    """Turns our errors into a message on one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            require_supported()
            return super().invoke(ctx)
        except MlflowCarbonError as error:
            command = self.commands.get(ctx.invoked_subcommand or "")
            raise Refusal(told_as_options(error, command)) from error
        except click.UsageError:
            raise
        except click.ClickException as error:
            raise Refusal(shown(error.message)) from error


def told_as_options(error: MlflowCarbonError, command: click.Command | None) -> str:
    """Returns an error's message on one line, with the options of a command for its arguments.

    Args:
        error: what the library raised; it speaks of Python's arguments.
        command: whose options are named; arguments without an option are left out.
    """
    options = {} if command is None else {it.name: it.opts[0] for it in command.params}
    message = error.message
    untold = []
    for argument in error.arguments:
        option = options.get(argument, "")
        if not option.startswith("-"):
            continue
        told = re.sub(rf"\b{argument}\b", option, message, count=1)
        if told == message or "_" in argument:  # the message has the words of another language
            untold.append(option)
        else:
            message = told
    if untold:
        message = f"{message.removesuffix('.')} ({', '.join(untold)})."
    if error.instead in options:
        message += f" Or pass {options[error.instead]}."
    return shown(message)


@click.group(cls=_Group, epilog=example("mlflow-carbon compare --help"))
@click.version_option(package_name="mlflow-carbon")
def cli() -> None:
    """Energy and CO2e of MLflow runs and registered models."""


COMMANDS = (
    run,
    compare,
    export,
    total,
    models,
    tag_models,
    gate,
    card,
    predict,
    advise,
    equivalents,
    paper_check,
    study_report,
    doctor,
    recover,
    backfill,
    plot,
    report,
)
for command in COMMANDS:
    cli.add_command(command)
