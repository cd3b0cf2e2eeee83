"""``mlflow-carbon doctor``: what can be measured on this machine, how well, and what is missed."""

import json
import os
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mlflow_carbon.commands.options import example
from mlflow_carbon.commands.pricing import assumption_options
from mlflow_carbon.inert import json_text, shown_lines

if TYPE_CHECKING:
    from mlflow_carbon.contract.assumptions import Assumptions
    from mlflow_carbon.metering.examination import Examination

MAX_PROBE_S = 3600.0
LINE_WIDTH = 80


@click.command(epilog=example("mlflow-carbon doctor --region Sweden --pue 1.2"))
@click.option(
    "--probe",
    "probe_s",
    metavar="SECONDS",
    type=click.FloatRange(1, MAX_PROBE_S),
    help="Measures for so long and prints each device's mean power.",
)
@click.option("--components", default="all", show_default=True, help="all, gpu, cpu or gpu,cpu.")
@click.option(
    "--attribution",
    type=click.Choice(("auto", "whole_node", "process_share", "gpu_only")),
    default="auto",
    show_default=True,
    help="What of a shared node would be counted. auto: MLFLOW_CARBON_ATTRIBUTION, else whole_node "
    "by counters and process_share of an estimated CPU.",
)
@click.option("--cpu-tdp-w", type=float, help="TDP of one CPU package, in place of the table's.")
@click.option(
    "--cpu-threads",
    type=click.IntRange(1),
    help="Hardware threads of that package; a virtual machine shows only some.",
)
@assumption_options
@click.option("--format", type=click.Choice(("table", "json")), default="table", show_default=True)
@click.pass_context
def doctor(
    context: click.Context,
    probe_s: float | None,
    components: str,
    attribution: str,
    cpu_tdp_w: float | None,
    cpu_threads: int | None,
    assumptions: "Assumptions",
    format: str,
) -> None:
    """Says what can be measured on this machine, how well, and what is missed.

    Exits with 1 if nothing can be measured.
    """
    from mlflow_carbon.metering.examination import GLANCE_S, examine
    from mlflow_carbon.metering.meter import Meter, MeterSettings
    from mlflow_carbon.tracking.mlflow_seams import features_off

    settings = MeterSettings(
        components=components,
        attribution=attribution,
        cpu_tdp_w=cpu_tdp_w,
        cpu_threads=cpu_threads,
    )
    settings = settings.over_environment(os.environ)
    examination = examine(Meter(settings), duration_s=probe_s or GLANCE_S)
    has_power, off = probe_s is not None, features_off()
    if format == "json":
        found = _json_object(examination, assumptions, has_power=has_power)
        found["features_off"] = list(off)
        click.echo(json_text(json.dumps(found, indent=2, ensure_ascii=False)))
    else:
        text = examination_text(examination, assumptions, has_power=has_power, features_off=off)
        click.echo(shown_lines(text))
    if not examination.devices:
        context.exit(1)


def examination_text(
    examination: "Examination",
    assumptions: "Assumptions",
    *,
    has_power: bool,
    features_off: tuple[str, ...] = (),
) -> str:
    """Returns the examination for reading, one screen.

    Args:
        examination: what was found.
        assumptions: what would turn energy into CO2e.
        has_power: whether each device's W are shown.
        features_off: what does not work with the installed MLflow.
    """
    lines = [f"Energy on this machine: {examination.verdict}", ""]
    lines += [*_device_lines(examination, has_power=has_power), ""]
    lines += [*_fact_lines(examination), ""]
    lines += _listed("What is wrong", examination.description.problems)
    lines += _listed("What no figure will hold", examination.missed)
    lines += _listed("What does not work with this MLflow", features_off)
    lines += _price_lines(assumptions)
    return "\n".join(lines)


def _device_lines(examination: "Examination", *, has_power: bool) -> list[str]:
    from mlflow_carbon.reporting.report import Column, text_table

    devices = _devices(examination, has_power=has_power)
    if not devices:
        return ["No device."]
    columns = [
        Column("device", [f"{it['component']} {it['index']}" for it in devices], is_text=True),
        Column("method", [it["method"] for it in devices], is_text=True),
    ]
    if has_power:
        powers_w = [it["power_w"] for it in devices]
        texts = ["-" if power_w is None else f"{power_w:.2f}" for power_w in powers_w]
        columns.append(Column("power (W)", texts))
    return text_table(columns).splitlines()


def _fact_lines(examination: "Examination") -> Iterator[str]:
    description, reading = examination.description, examination.reading
    facts = {
        "hardware": description.hardware,
        "coverage": None
        if reading.coverage_fraction is None
        else f"counters and samples see {reading.coverage_fraction:.0%} of the devices' time",
        "CPU's TDP": description.cpu_tdp_source,
        "idle CPU": _watts(description.cpu_idle_power_w),
        "attribution": description.attribution,
        "meter": description.tracker,
    }
    for name, fact in facts.items():
        if fact:
            yield from _wrapped(fact, f"{name:<13}")


def _price_lines(assumptions: "Assumptions") -> Iterator[str]:
    intensity = assumptions.intensity
    yield "CO2e = energy × PUE × carbon intensity"
    pue = "default" if "pue" in assumptions.defaulted else "given"
    yield from _wrapped(f"{assumptions.pue:g} ({pue})", f"{'PUE':<13}")
    region = "default" if "region" in assumptions.defaulted else "given"
    yield from _wrapped(
        f"{intensity.label} ({region})",
        f"{'intensity':<13}",
    )
    yield from _wrapped(
        f"{intensity.source}; {intensity.basis}; {intensity.licence}", f"{'source':<13}"
    )
    if assumptions.notice is not None:
        yield from _wrapped(assumptions.notice, f"{'notice':<13}")


def _listed(title: str, sentences: tuple[str, ...]) -> list[str]:
    if not sentences:
        return []
    return [title, *(line for sentence in sentences for line in _wrapped(sentence, "- ")), ""]


def _wrapped(text: str, head: str) -> list[str]:
    return textwrap.wrap(
        text,
        LINE_WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _devices(examination: "Examination", *, has_power: bool) -> list[dict[str, Any]]:
    return [
        {"component": device.component, "index": device.index, "method": device.method}
        | ({"power_w": device.power_w} if has_power else {})
        for device in examination.devices
    ]


def _watts(power_w: float | None) -> str | None:
    return None if power_w is None else f"{power_w:.2f} W of the estimate"


def _json_object(
    examination: "Examination", assumptions: "Assumptions", *, has_power: bool
) -> dict[str, Any]:
    description, intensity = examination.description, assumptions.intensity
    return {
        "verdict": examination.verdict,
        "devices": _devices(examination, has_power=has_power),
        "duration_s": examination.reading.duration_s,
        "coverage_fraction": examination.reading.coverage_fraction,
        "hardware": description.hardware,
        "cpu_tdp_source": description.cpu_tdp_source,
        "cpu_idle_power_w": description.cpu_idle_power_w,
        "unread": list(description.unread),
        "attribution": description.attribution,
        "tracker": description.tracker,
        "problems": list(description.problems),
        "missed": list(examination.missed),
        "pue": assumptions.pue,
        "intensity_g_per_kwh": intensity.g_per_kwh,
        "region": intensity.region,
        "period": intensity.period,
        "intensity_set": intensity.intensity_set,
        "intensity_basis": intensity.basis,
        "intensity_source": intensity.source,
        "intensity_source_url": intensity.source_url,
        "intensity_licence": intensity.licence,
        "intensity_notice": assumptions.notice,
        "defaulted": list(assumptions.defaulted),
    }
