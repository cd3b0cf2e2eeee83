"""BibTeX of what a model's footprint rests on; nothing that its source does not say."""

import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.grid.intensity import CarbonIntensity, lookup_intensity
from mlflow_carbon.inert import MAX_NAME_CHARS
from mlflow_carbon.inert import bibtex as bibtex_text
from mlflow_carbon.registry.footprints import Footprint

_CARBONTRACKER = "carbontracker"


def bibtex(footprint: Footprint) -> str:
    """Returns the entries of a footprint: its equation, its meter and its carbon intensity.

    The meter's entry is the one that its own package asks to be cited by.
    """
    tags = footprint.run.data.tags
    equation = (files("mlflow_carbon") / "data" / "citations.bib").read_text(encoding="utf-8")
    entries = [equation]
    if tags.get(keys.TAG_TRACKER, "").startswith(_CARBONTRACKER):
        entries += _entries_of_package(_CARBONTRACKER)
    entries.append(_intensity_entry(footprint))
    return "\n\n".join(entry.strip() for entry in entries) + "\n"


def recorded_intensity(tags: Mapping[str, str]) -> CarbonIntensity | None:
    """Returns the known figure that a run was priced with; ``None`` where it was another."""
    period = tags.get(keys.TAG_PERIOD, "")
    try:
        return lookup_intensity(
            tags[keys.TAG_REGION],
            month=period if "-" in period else None,
            year=int(period) if period.isdecimal() else None,
            intensity_set=tags.get(keys.TAG_INTENSITY_SET),
        )
    except MlflowCarbonError:
        return None


def _entries_of_package(name: str) -> list[str]:
    """Returns the BibTeX entries in the description of an installed package."""
    try:
        description = distribution(name).read_text("METADATA") or ""
    except PackageNotFoundError:
        return []
    return re.findall(r"^@\w+\{.*?\}\s*\}$", description, re.DOTALL | re.MULTILINE)


def _intensity_entry(footprint: Footprint) -> str:
    tags = footprint.run.data.tags
    period, intensity_set = tags.get(keys.TAG_PERIOD, ""), tags.get(keys.TAG_INTENSITY_SET, "")
    source = tags.get(keys.TAG_INTENSITY_SOURCE, "source not recorded")
    notes = [f"{footprint.intensity_g_per_kwh:g} g/kWh", f"{footprint.region} {period}".strip()]
    notes += [tags[key] for key in (keys.TAG_INTENSITY_BASIS,) if key in tags]
    fields = {"title": bibtex_text(f"Carbon intensity of electricity: {source}")}
    known = recorded_intensity(tags)
    if known is not None:
        notes.append(known.licence)
        fields["howpublished"] = rf"\url{{{known.source_url}}}"
    fields["note"] = bibtex_text("; ".join(notes))
    lines = [f"  {key}={{{value}}}," for key, value in fields.items()]
    key = re.sub(r"\W+", "", f"intensity-{intensity_set}-{footprint.region}-{period}")
    key = key[:MAX_NAME_CHARS]
    return "\n".join([f"@misc{{{key},", *lines, "}"])
