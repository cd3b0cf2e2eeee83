"""What a run's description says of its CO2e, between markers beside what the user wrote."""

import re
from collections.abc import Callable, Mapping

from mlflow_carbon.accounting.amounts import energy_text, mass_text
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord

# A word joiner shows nowhere, neither on the run's page nor in the table of runs, which shows
# descriptions as they are written; the second marker is behind the line.
START, END = "\u2060", "<!-- carbon -->"
_MARKED = re.compile(f"{START}[^{START}\n]*{END}")
SHORTEST_NOTED_S = 1.0  # a look at the description costs a shorter run too much
METHOD_WORDS = {
    keys.METHOD_COUNTER: "counted",
    keys.METHOD_SAMPLED: "sampled",
    keys.METHOD_TDP: "estimated",
    keys.METHOD_SIMULATED: "simulated",
    keys.METHOD_BACKFILLED: "backfilled",
    keys.METHOD_UNAVAILABLE: "not measured",
}


def sentence(record: RunRecord, *, num_steps: int | None = None) -> str | None:
    """Returns a line of what the run cost and how that was measured; ``None`` if it is not known.

    So: ``17.6 mg CO2e (491 mWh) · SE 35.82 g/kWh (2024, ember) · CPU estimated · 20 samples at
    200 steps, 880 µg each``.

    Args:
        record: of the run.
        num_steps: denoising steps of a sample, if known.
    """
    total, intensity = record.total, record.intensity
    if total is None or total.energy_kwh is None or record.co2e_g is None or intensity is None:
        return None
    price = intensity.label
    if record.pue is not None and record.pue != 1:
        price += f" × PUE {record.pue:g}"
    parts = [f"{mass_text(record.co2e_g)} CO2e ({energy_text(total.energy_kwh)})", price]
    methods = {} if record.description is None else record.description.method_by_component
    if methods:
        parts.append(words_of_methods(methods))
    per_unit = record.energy_per_unit.get(record.unit or "")
    if per_unit is not None and record.num_units and record.unit != keys.UNIT_MINUTE:
        each_g = per_unit.energy_kwh * (record.pue or 1.0) * intensity.g_per_kwh
        plural = "" if record.num_units == 1 else "s"
        at = "" if num_steps is None or record.unit != "sample" else f" at {num_steps} steps"
        parts.append(f"{record.num_units:g} {record.unit}{plural}{at}, {mass_text(each_g)} each")
    if record.is_partial:
        parts.append("at least: the run was killed")
    return " · ".join(parts)


def words_of_methods(methods: Mapping[str, str]) -> str:
    """Returns how each component's energy was got: ``CPU estimated, GPU not measured``."""
    return ", ".join(
        f"{component.upper()} {METHOD_WORDS.get(method, method)}"
        for component, method in sorted(methods.items())
    )


def with_sentence(description: str, line: str) -> str:
    """Returns a description with our line in place of an earlier one, or after the user's text."""
    marked = f"{START}{line} {END}"
    if _MARKED.search(description):
        return _MARKED.sub(lambda _earlier: marked, description, count=1)
    return f"{description}\n\n{marked}" if description.strip() else marked


def note_tags(
    record: RunRecord,
    *,
    steps_of: Callable[[], int | None],
    cheaper_of: Callable[[RunRecord], str],
) -> dict[str, str]:
    """Returns the line on its way to the description; empty for a trial, which it would slow.

    Args:
        record: of the run.
        steps_of: says how many denoising steps a sample took, if known. Trials do not ask.
        cheaper_of: says what would have cost less; empty where nothing is known. Trials do not ask.
    """
    duration_s = None if record.total is None else record.total.duration_s
    if (duration_s or 0.0) < SHORTEST_NOTED_S:
        return {}
    line = sentence(record, num_steps=steps_of())
    if line is None:
        return {}
    cheaper = cheaper_of(record)
    return {keys.TAG_NOTE: f"{line} · cheaper: {cheaper}" if cheaper else line}
