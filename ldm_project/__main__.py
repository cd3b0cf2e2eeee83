"""The command line of the project: ``python -m ldm_project vqgan|train|synth|estimate|...``."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ldm_project.checks import assumptions_of, check_settings
from ldm_project.config import (
    TRUTHS,
    EstimateConfig,
    QualityConfig,
    RunConfig,
    StudyConfig,
    SynthConfig,
    TrainRunConfig,
    VqganRunConfig,
)
from ldm_project.price import Price
from ldm_project.resolution import settings_of
from ldm_project.study.study_settings import study_settings
from mlflow_carbon.commands.options import WholeSentences
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.errors import MlflowCarbonError

_others_formatted = warnings.formatwarning


class _Group(WholeSentences):
    """Turns the project's errors into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except MlflowCarbonError as error:  # drops advice about arguments of track()
            raise click.ClickException(error.message) from error
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"{error}. The networks need more packages: pip install 'mlflow-carbon[ldm]'"
            ) from error


def parameters_of(config_class: type[RunConfig] | type[StudyConfig]) -> Callable[[Any], Any]:
    """Returns a decorator that gives a command one option per field of its configuration."""

    def add_options(command: Any) -> Any:
        if issubclass(config_class, RunConfig):
            command = click.option(
                "--dry-run", is_flag=True, help="Print the resolved parameters and stop."
            )(command)
        for parameter in reversed(fields(config_class)):
            choices = parameter.metadata["choices"]
            # `--dry-run` alone is `--dry-run true`, which MLproject needs
            bare: dict[str, Any] = {"flag_value": "true"} if choices == TRUTHS else {}
            command = click.option(
                f"--{parameter.name.replace('_', '-')}",
                default=parameter.default,
                type=click.Choice(choices) if choices else type(parameter.default),
                help=parameter.metadata["help"],
                show_default=True,
                is_flag=False,
                **bare,
            )(command)
        return command

    return add_options


@click.group(
    cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
def main() -> None:
    """Train and sample latent diffusion models of CT; MLflow shows what that costs in CO2e."""


@main.command(epilog="Example: python -m ldm_project vqgan --dims 3 --vqgan-iterations 300")
@parameters_of(VqganRunConfig)
def vqgan(dry_run: bool, **parameters: Any) -> None:
    """Train and register a VQ-GAN, the autoencoder that the diffusion model works in."""
    _run(VqganRunConfig(**parameters), dry_run)


@main.command(epilog="Example: python -m ldm_project train --dims 3 --iterations 600")
@parameters_of(TrainRunConfig)
def train(dry_run: bool, **parameters: Any) -> None:
    """Train and register a latent diffusion model on a frozen VQ-GAN's latents."""
    _run(TrainRunConfig(**parameters), dry_run)


@main.command(epilog="Example: python -m ldm_project synth --dims 2 --steps 200 --region Germany")
@parameters_of(SynthConfig)
def synth(dry_run: bool, **parameters: Any) -> None:
    """Sample CT images and measure what each of them costs."""
    _run(SynthConfig(**parameters), dry_run)


@main.command(epilog="Example: python -m ldm_project estimate --size 512 --model-size medium")
@parameters_of(EstimateConfig)
def estimate(dry_run: bool, **parameters: Any) -> None:
    """Predict what synth would take, from a few denoising steps and one decoding."""
    _run(EstimateConfig(**parameters), dry_run)


@main.command(epilog="Example: python -m ldm_project quality --samplers unipc --step-counts 50,20")
@parameters_of(QualityConfig)
def quality(dry_run: bool, **parameters: Any) -> None:
    """Judge samplers and step counts beside what they emit; find the least for equal quality."""
    _run(QualityConfig(**parameters), dry_run)


@main.command(epilog="Example: python -m ldm_project study --preset ci --dry-run")
@parameters_of(StudyConfig)
def study(**parameters: Any) -> None:
    """Run the paper's grid of trainings and syntheses, each measured in a run of its own."""
    settings = study_settings(StudyConfig(**parameters))
    # what has no figures is refused here
    Price(region=settings.region, month=settings.month, pue=settings.pue).assumptions()
    _prepare()
    from ldm_project.runs.study import run_study

    for line in run_study(settings):
        click.echo(line)


@main.command("study-cell", hidden=True)
@click.argument("cell")
def study_cell(cell: str) -> None:
    """Do one process's share of a study's cell; the study starts it."""
    _prepare()
    from ldm_project.runs.study_cell import join_cell

    join_cell(cell)


def priced_by(assumptions: Assumptions) -> dict[str, str]:
    """Returns the parameters that price energy, each with the value that ``auto`` has."""
    intensity = assumptions.intensity
    return {
        "region": intensity.region,
        "month": intensity.period,
        "pue": f"{assumptions.pue:g}",
        "intensity_set": intensity.intensity_set,
    }


def _run(config: RunConfig, dry_run: bool) -> None:
    """Turns the parameters into settings, runs their command and prints its cost."""
    settings = settings_of(config)
    check_settings(settings)
    if dry_run:
        assumptions = assumptions_of(settings)
        click.echo(json.dumps(settings.resolved() | priced_by(assumptions), indent=2))
        click.echo(assumptions.sentence(), err=True)
        return
    _prepare()
    # Imported late: torch takes seconds to load, and bad parameters are refused at once.
    from ldm_project.runs.commands import run_command

    for line in run_command(settings):
        click.echo(line)


def _prepare() -> None:
    """Sets what torch, MONAI and MLflow look at when they are loaded."""
    # MLflow's bars for the files it copies would overwrite our progress bar.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Waiting threads sleep: spinning ones would take shared cores from working threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # MONAI would load it where it is installed, for seconds; none of our networks needs it.
    sys.modules.setdefault("transformers", None)  # type: ignore[arg-type]
    warnings.formatwarning = formatted


def formatted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Returns a warning as a user reads it: one of ours without its place in the code."""
    if Path(filename).is_relative_to(Path(__file__).parent):
        return f"Warning: {message}\n"
    return _others_formatted(message, category, filename, lineno, line)


if __name__ == "__main__":
    main(prog_name="python -m ldm_project")
