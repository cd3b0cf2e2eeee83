"""``mlflow-carbon card``: a model's emissions for its card, its paper and other programs."""

import json
import time
from typing import TYPE_CHECKING, Any

import click

from mlflow_carbon.commands.options import example, lineage_option, tracking_uri_option
from mlflow_carbon.commands.output import print_notices
from mlflow_carbon.inert import shown_lines

if TYPE_CHECKING:
    from mlflow_carbon.accounting.functional_unit import Device
    from mlflow_carbon.reporting.model_footprint import ModelFootprint

HUGGINGFACE, BOAMPS, CYCLONEDX, SCI = FORMATS = ("huggingface", "boamps", "cyclonedx", "sci")


@click.command(epilog=example("mlflow-carbon card models:/small/1 --format cyclonedx"))
@click.argument("model")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=HUGGINGFACE,
    show_default=True,
    help="Head of a model card, a report of BoAmps 1.1, a bill of CycloneDX 1.6, or the SCI.",
)
@click.option(
    "--training-type",
    type=click.Choice(("pre-training", "fine-tuning")),
    default="pre-training",
    show_default=True,
    help="What Hugging Face calls the kind of training.",
)
@click.option(
    "--task-family",
    default="other",
    show_default=True,
    help="For BoAmps: what the model is for, such as 'image generation'.",
)
@click.option("--embodied-kg", type=float, help="For the SCI: CO2e of making the device.")
@click.option("--device-lifetime-years", type=float, help="How long the device will serve.")
@lineage_option
@click.option("--bibtex", is_flag=True, help="Prints the sources to cite instead.")
@tracking_uri_option
def card(
    model: str,
    form: str,
    training_type: str,
    task_family: str,
    embodied_kg: float | None,
    device_lifetime_years: float | None,
    lineage: bool,
    bibtex: bool,
    tracking_uri: str | None,
) -> None:
    """Prints the emissions of MODEL (models:/name/3, models:/name@alias) for its model card.

    First the metadata that Hugging Face reads (co2_eq_emissions), then a paragraph to quote. Other
    formats are JSON, of the model's own training.
    """
    from mlflow_carbon.reporting import card_formats, citations, model_card
    from mlflow_carbon.reporting.model_footprint import read_model_footprint
    from mlflow_carbon.store.access import open_client

    if (lineage or bibtex) and form != HUGGINGFACE:
        raise click.UsageError("--lineage and --bibtex go with --format huggingface only.")
    device = _device(form, embodied_kg, device_lifetime_years)
    described = read_model_footprint(open_client(tracking_uri), model)
    if bibtex:
        click.echo(shown_lines(citations.bibtex(model_card.measured(described))), nl=False)
    elif form == HUGGINGFACE:
        text = model_card.model_card(described, training_type=training_type, with_lineage=lineage)
        notice = card_formats.emissions_notice(model_card.measured(described).co2e_kg)
        print_notices([notice] if notice else [])
        click.echo(shown_lines(text), nl=False)
    else:
        content = _content(described, form, training_type, task_family, device)
        click.echo(json.dumps(content, indent=2))  # ASCII: what a store holds cannot bite


def _device(form: str, embodied_kg: float | None, lifetime_years: float | None) -> "Device | None":
    """Returns the device whose making counts; ``None`` if none is given."""
    from mlflow_carbon.accounting.functional_unit import Device

    if embodied_kg is None and lifetime_years is None:
        return None
    if form != SCI:
        raise click.UsageError("--embodied-kg and --device-lifetime-years go with --format sci.")
    if embodied_kg is None or lifetime_years is None:
        raise click.UsageError("--embodied-kg and --device-lifetime-years go together.")
    return Device(embodied_kg, lifetime_years)


def _content(
    model: "ModelFootprint",
    form: str,
    training_type: str,
    task_family: str,
    device: "Device | None",
) -> dict[str, Any]:
    from mlflow_carbon.reporting import card_formats

    now_s = time.time()
    if form == BOAMPS:
        return card_formats.boamps(
            model, training_type=training_type, task_family=task_family, now_s=now_s
        )
    if form == CYCLONEDX:
        return card_formats.cyclonedx(model, training_type=training_type, now_s=now_s)
    return card_formats.sci(model, device=device)
