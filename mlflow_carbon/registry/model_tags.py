"""The tags of the contract on model versions and registered models: all of them, or none."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_carbon.accounting.amounts import mass_text
from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import MAX_AMOUNT, MAX_SHOWN
from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.registry.inference import SampleCost, inference_tags, is_inference_tag
from mlflow_carbon.registry.lineage import Lineage
from mlflow_carbon.registry.model_uris import versions_of
from mlflow_carbon.store.access import write_twice_if_raced
from mlflow_carbon.units import grams_from_kg

_MAX_TAG_LENGTH = 5000  # MLflow refuses longer values
_METHOD_PREFIX = keys.method_tag("")

Writer = Callable[[str, str | None], None]  # sets a tag, or deletes it for None

# Tags of the run that its model gets too, in addition to the tags of its methods.
_RUN_TAGS = (keys.TAG_PERIOD, keys.TAG_INTENSITY_SET, keys.TAG_INTENSITY_BASIS)

# The tags that this package writes on models; other carbon.* tags are left alone.
_OWN_TAGS = {
    keys.TAG_MODEL_CO2E,
    keys.TAG_MODEL_CO2E_KG,
    keys.TAG_MODEL_ENERGY_KWH,
    keys.TAG_MODEL_PUE,
    keys.TAG_MODEL_LINEAGE_CO2E_KG,
    keys.TAG_MODEL_LINEAGE_PROBLEM,
    keys.TAG_REGION,
    *_RUN_TAGS,
    keys.TAG_MODEL_BAND,
    *(keys.under_tag(limit_kg) for limit_kg in keys.LIMITS_KG),
}


def version_tags(
    footprint: Footprint | None, lineage: Lineage, costs: Sequence[SampleCost]
) -> dict[str, str]:
    """Returns the tags of a model version; an unknown figure has no tag.

    Args:
        footprint: of the version's own training.
        lineage: of that training and all it rests on.
        costs: of a sample, by the runs that used the version.
    """
    tags = inference_tags(costs)
    if footprint is None:
        return tags
    tags[keys.TAG_MODEL_CO2E] = mass_text(grams_from_kg(footprint.co2e_kg))
    tags |= keys.emission_tags(footprint.co2e_kg, footprint.energy_kwh, footprint.region)
    tags[keys.TAG_MODEL_PUE] = f"{footprint.pue:.6g}"
    for key, value in footprint.run.data.tags.items():
        if key in _RUN_TAGS or key.startswith(_METHOD_PREFIX):
            tags[key] = value
    if lineage.problems:
        tags[keys.TAG_MODEL_LINEAGE_PROBLEM] = "; ".join(lineage.problems)[:_MAX_TAG_LENGTH]
    elif lineage.num_runs > 1:
        tags[keys.TAG_MODEL_LINEAGE_CO2E_KG] = f"{lineage.priced_kg():.6g}"
    return tags


def own_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Returns the tags of a model that this package writes."""
    return {
        key: value
        for key, value in tags.items()
        if key in _OWN_TAGS or key.startswith(_METHOD_PREFIX) or is_inference_tag(key)
    }


def tag_version(client: MlflowClient, version: ModelVersion, wanted: Mapping[str, str]) -> bool:
    """Gives a version the wanted tags, removes our other tags; returns whether any changed.

    Raises:
        MlflowException: the registry refuses; the version then has its former tags.
    """
    return _replace(own_tags(version.tags), wanted, _version_writer(client, version))


def show_version(
    client: MlflowClient,
    name: str,
    *,
    show: str | None = None,
    versions: Sequence[ModelVersion] | None = None,
) -> bool:
    """Gives a registered model the tags of the version that it shows, and removes older ones.

    It shows its newest version or the version of least CO2e, as its tag ``carbon.shows`` says.

    Args:
        client: of the registry.
        name: of the registered model.
        show: ``newest`` or ``best`` from now on; ``None`` leaves the choice as it is.
        versions: all that the model has, where they have just been read; ``None`` reads them.

    Returns:
        Whether anything changed.

    Raises:
        MlflowException: the registry refuses; the model then has its former tags.
    """
    tags = client.get_registered_model(name).tags
    current = own_tags(tags) | _shows(tags)
    rule = show or tags.get(keys.TAG_MODEL_SHOWS, keys.SHOWS_NEWEST)
    versions = versions_of(client, name) if versions is None else versions
    if rule == keys.SHOWS_BEST:
        shown = min(versions, key=_co2e_kg, default=None)
    else:
        shown = max(versions, key=lambda version: int(version.version), default=None)
    wanted = {} if shown is None else own_tags(shown.tags)
    if rule != keys.SHOWS_NEWEST:
        wanted[keys.TAG_MODEL_SHOWS] = rule
    return _replace(current, wanted, _model_writer(client, name))


def _shows(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if key == keys.TAG_MODEL_SHOWS}


def _co2e_kg(version: ModelVersion) -> tuple[bool, float, int]:
    """Returns the sort key that puts the version of least CO2e first, unmeasured ones last."""
    co2e_kg = number(version.tags, keys.TAG_MODEL_CO2E_KG)
    order = -int(version.version)  # the newest of equals
    if co2e_kg is None or not math.isfinite(co2e_kg):
        return (True, 0.0, order)
    return (False, co2e_kg, order)


def _replace(current: Mapping[str, str], wanted: Mapping[str, str], write: Writer) -> bool:
    """Turns one set of tags into another, or back into the first if the registry refuses."""
    names = sorted(current.keys() | wanted.keys())
    changes = [key for key in names if current.get(key) != wanted.get(key)]
    for position, change in enumerate(changes):
        try:
            write_twice_if_raced(partial(write, change, wanted.get(change)))
        except Exception:
            for key in changes[:position]:
                with suppress(Exception):  # only the first error is reported
                    write(key, current.get(key))
            raise
    return bool(changes)


def _version_writer(client: MlflowClient, version: ModelVersion) -> Writer:
    """Returns a function that sets a version's tag, or deletes it for ``None``."""
    name, number = version.name, str(version.version)

    def write(key: str, value: str | None) -> None:
        if value is None:
            client.delete_model_version_tag(name, number, key)
        else:
            client.set_model_version_tag(name, number, key, value)

    return write


def _model_writer(client: MlflowClient, name: str) -> Writer:
    """Returns a function that sets a registered model's tag, or deletes it for ``None``."""

    def write(key: str, value: str | None) -> None:
        if value is None:
            client.delete_registered_model_tag(name, key)
        else:
            client.set_registered_model_tag(name, key, value)

    return write


def fault_of_tags(
    tags: Mapping[str, str], number_tags: Iterable[str], *, pue_tag: str | None = None
) -> str | None:
    """Returns the first model tag with no number or an impossible one; ``None`` if all are fine."""
    for tag in number_tags:
        value = number(tags, tag)
        lowest, highest = (MIN_PUE, MAX_PUE) if tag == pue_tag else (0.0, MAX_AMOUNT)
        if value is not None and not lowest <= value <= highest:  # true for NaN too
            return f"{tag} is {tags[tag]!r:.{MAX_SHOWN}}"
    return None


def number(tags: Mapping[str, str], tag: str) -> float | None:
    """Returns the number in a tag; ``None`` without such a tag, NaN if the tag has no number."""
    text = tags.get(tag)
    try:
        return None if text is None else float(text)
    except ValueError:
        return math.nan
