"""A model's footprint for its card: Hugging Face metadata, and a paragraph that can be quoted."""

import re
from typing import Any

import yaml

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.grid.intensity import price_label
from mlflow_carbon.grid.regions import region_name
from mlflow_carbon.inert import markdown, shown
from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.reporting.model_footprint import ModelFootprint
from mlflow_carbon.reporting.tables import ENERGY_SCALES, MASS_SCALES, Scale, choose_scale
from mlflow_carbon.units import (
    SECONDS_PER_HOUR,
    SECONDS_PER_MINUTE,
    grams_from_kg,
    watts_from_kwh,
)

TRAINING_TYPES = ("pre-training", "fine-tuning")  # Hugging Face's words

_HOW = {
    keys.METHOD_COUNTER: "read from energy counters",
    keys.METHOD_SAMPLED: "integrated from power samples",
    keys.METHOD_TDP: "estimated from its design power and its use",
    keys.METHOD_SIMULATED: "simulated",
    keys.METHOD_BACKFILLED: "integrated afterwards from MLflow's system metrics",
    keys.METHOD_UNAVAILABLE: "not measured",
}
_METHOD_PREFIX = keys.method_tag("")
_YAML_ESCAPES = {"<": r"\x3C", ">": r"\x3E"}


def model_card(model: ModelFootprint, *, training_type: str, with_lineage: bool = False) -> str:
    """Returns the head of a Hugging Face model card and its paragraph on emissions.

    Args:
        model: whose training was measured.
        training_type: one of ``TRAINING_TYPES``.
        with_lineage: the head's emissions are those of all trainings that the model rests on.

    Raises:
        NoRunsError: its emissions, or with lineage theirs, are not known.
    """
    own = measured(model)
    co2e_kg: float | None = own.co2e_kg
    if with_lineage:
        co2e_kg = model.lineage.priced_kg()
    if co2e_kg is None:
        raise NoRunsError(
            f"The lineage of {model.title} is not known: {'; '.join(model.lineage.problems)}."
        )
    block: dict[str, float | str] = {"emissions": float(f"{grams_from_kg(co2e_kg):.6g}")}
    block |= {"source": _Quotable(_source(own)), "training_type": training_type}
    if keys.default_tag("region") not in own.run.data.tags:  # a default is no place
        block["geographical_location"] = _Quotable(region_name(own.region))
    if hardware := own.run.data.tags.get(keys.TAG_HARDWARE):
        block["hardware_used"] = _Quotable(shown(hardware))
    return (
        f"---\n{_yaml({'co2_eq_emissions': block})}---\n\n## Emissions\n\n{paragraph(model, own)}\n"
    )


def measured(model: ModelFootprint) -> Footprint:
    """Returns the footprint of a model's own training.

    Raises:
        NoRunsError: it is not known.
    """
    if model.own is None:
        raise NoRunsError(f"No emissions of {model.title} are known: {model.reason}.")
    return model.own


def paragraph(model: ModelFootprint, own: Footprint) -> str:
    """Returns a paragraph to quote: figures, method, source of the intensity, spread."""
    sentences = [_total(model, own), _per_unit(own), _method(own), _assumed(own), _lineage(model)]
    tag = keys.TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE
    if per_sample_g := model.version.tags.get(tag):
        way = model.version.tags.get(keys.TAG_MODEL_INFERENCE_WAY)
        of_the_model = f"of the model ({way})" if way else "of the model"
        mass = _text(float(per_sample_g), MASS_SCALES, unit="CO2e")
        sentences.append(f"A sample {of_the_model} costs {mass}.")
    return " ".join(sentence for sentence in sentences if sentence)


def _total(model: ModelFootprint, own: Footprint) -> str:
    tags = own.run.data.tags
    total = RunRecord.read(own.run).total
    duration_s = None if total is None else total.duration_s
    during = "" if duration_s is None else f" in {_duration(duration_s)}"
    basis = tags.get(keys.TAG_INTENSITY_BASIS, "basis not recorded")
    source = tags.get(keys.TAG_INTENSITY_SOURCE, "source not recorded")
    return (
        f"Training {markdown(model.title)} took {_text(own.energy_kwh, ENERGY_SCALES)} of IT "
        f"energy{during}. "
        f"By energy × PUE × carbon intensity, with PUE {own.pue:g} and "
        f"{own.intensity_g_per_kwh:g} g CO2e/kWh ({markdown(region_name(own.region))} "
        f"{markdown(tags.get(keys.TAG_PERIOD, ''))}; {_set_text(own)}{markdown(source)}; "
        f"{markdown(basis)}), "
        "that is "
        f"{_text(grams_from_kg(own.co2e_kg), MASS_SCALES, unit='CO2e')}."
    )


def _set_text(own: Footprint) -> str:
    """Returns the name of the set that the intensity is from, before its source."""
    name = own.run.data.tags.get(keys.TAG_INTENSITY_SET, "")
    return f"set {markdown(name)}: " if name else ""


def _per_unit(own: Footprint) -> str:
    """Returns the energy of one unit with its spread; the total alone has none."""
    tags = own.run.data.tags
    unit = tags.get(keys.TAG_UNIT, "")
    num_windows = markdown(tags.get(keys.TAG_NUM_WINDOWS, "0"))
    energy = RunRecord.read(own.run).energy_per_unit.get(unit)
    if energy is None:
        return "The run holds no windows, so no spread is known."
    scale, std_kwh = choose_scale([energy.energy_kwh], ENERGY_SCALES), energy.std_kwh
    if std_kwh is None and unit == keys.UNIT_MINUTE:  # the whole run, which may be shorter
        power_w = watts_from_kwh(energy.energy_kwh, SECONDS_PER_MINUTE)
        return f"Its mean power was {power_w:.4g} W, of one window: no spread is known."
    if std_kwh is None:
        return (
            f"One {markdown(unit)} took {scale.text(energy.energy_kwh)} {scale.symbol} "
            f"(n = {num_windows} window: no spread is known)."
        )
    figure = scale.text_with_std(energy.energy_kwh, std_kwh)
    return (
        f"One {markdown(unit)} took {figure} {scale.symbol} "
        f"(mean ± sample standard deviation of the windows inside this run, "
        f"n = {num_windows} windows)."
    )


def _method(own: Footprint) -> str:
    tags = own.run.data.tags
    how = [
        f"{markdown(key.removeprefix(_METHOD_PREFIX))} energy was "
        f"{_HOW.get(value) or markdown(value)}"
        for key, value in sorted(tags.items())
        if key.startswith(_METHOD_PREFIX)
    ]
    tracker = markdown(tags.get(keys.TAG_TRACKER, "an unnamed tool"))
    sentence = f"By {tracker}: {', '.join(how)}"
    total = RunRecord.read(own.run).total
    coverage = None if total is None else total.coverage_fraction
    if coverage is not None:
        sentence += f"; counters or samples observed {coverage:.0%} of the time"
    return f"{sentence}."


def _assumed(own: Footprint) -> str:
    """Returns the settings that were left to their defaults, as a sentence."""
    prefix = keys.default_tag("")
    settings = sorted(key for key in own.run.data.tags if key.startswith(prefix))
    names = [key.removeprefix(prefix).replace("_", " ").replace("pue", "PUE") for key in settings]
    return f"Assumed, not chosen: {', '.join(map(markdown, names))}." if names else ""


def _lineage(model: ModelFootprint) -> str:
    if model.lineage.num_runs < 2:
        return ""
    co2e_kg = model.lineage.priced_kg()
    if co2e_kg is None:
        problems = "; ".join(map(markdown, model.lineage.problems))
        return f"Its whole lineage is not known: {problems}."
    mass = _text(grams_from_kg(co2e_kg), MASS_SCALES, unit="CO2e")
    return f"With all {model.lineage.num_runs} trainings that it rests on: {mass}."


class _Quotable(str):
    """Text from a store, in a YAML file."""


class _Dumper(yaml.SafeDumper):
    """Writes text that holds HTML in double quotes, where it can be escaped."""


def _represent(dumper: yaml.SafeDumper, text: _Quotable) -> Any:
    has_html = any(char in text for char in _YAML_ESCAPES)
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", str(text), style='"' if has_html else None
    )


_Dumper.add_representer(_Quotable, _represent)


def _yaml(content: dict[str, Any]) -> str:
    """Returns YAML that holds no HTML: the same values, written by escapes."""
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return re.sub("[<>]", lambda found: _YAML_ESCAPES[found[0]], text)


def _source(own: Footprint) -> str:
    tags = own.run.data.tags
    tracker = tags.get(keys.TAG_TRACKER, "mlflow-carbon")
    price = price_label(
        own.region,
        own.intensity_g_per_kwh,
        period=tags.get(keys.TAG_PERIOD),
        intensity_set=tags.get(keys.TAG_INTENSITY_SET),
    )
    source = tags.get(keys.TAG_INTENSITY_SOURCE, "source not recorded")
    return shown(f"{tracker} by mlflow-carbon; {price} by {source}, PUE {own.pue:g}")


def _text(value: float, scales: tuple[Scale, ...], *, unit: str = "") -> str:
    scale = choose_scale([value], scales)
    return f"{scale.text(value)} {scale.symbol} {unit}".strip()


def _duration(duration_s: float) -> str:
    if duration_s < SECONDS_PER_MINUTE:
        return f"{duration_s:.3g} s"
    if duration_s < SECONDS_PER_HOUR:
        return f"{duration_s / SECONDS_PER_MINUTE:.3g} min"
    return f"{duration_s / SECONDS_PER_HOUR:.4g} h"
