"""A model's footprint in the formats that other programs read: BoAmps, CycloneDX, the SCI."""

import uuid
from datetime import datetime, timezone
from typing import Any

from mlflow_carbon import __version__
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.functional_unit import Device, software_carbon_intensity
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.errors import NoRunsError
from mlflow_carbon.grid.regions import region_name
from mlflow_carbon.inert import shown
from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.reporting.model_card import measured, paragraph
from mlflow_carbon.reporting.model_footprint import ModelFootprint
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, kg_from_grams, tonnes_from_kg

# Source: https://github.com/Boavizta/BoAmps, model/*.json and RELEASENOTE.md
BOAMPS_VERSION = "1.1.0"
BOAMPS_URI = "https://github.com/Boavizta/BoAmps/tree/main/model"
CYCLONEDX_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
SCI_SPECIFICATION = "Software Carbon Intensity 1.1 (ISO/IEC 21031:2024)"
UNKNOWN, OTHER = "unknown", "other"  # words of those formats
FINE_TUNING = "fine-tuning"


def boamps(
    model: ModelFootprint, *, training_type: str, task_family: str, now_s: float
) -> dict[str, Any]:
    """Returns a report of BoAmps 1.1 on a model's own training.

    What neither the run nor the user says is left out; of what must be there, ``other`` is said.

    Args:
        model: whose training was measured.
        training_type: ``pre-training`` or ``fine-tuning``.
        task_family: what the model is for, as ``image generation``.
        now_s: the time of the report, in s since 1970.

    Raises:
        NoRunsError: its emissions are not known.
    """
    own = measured(model)
    tags, total = own.run.data.tags, _total(own)
    method, _, version = tags.get(keys.TAG_TRACKER, "mlflow-carbon").partition(" ")
    measure = {
        "measurementMethod": shown(method),
        "version": shown(version) or None,
        "cpuTrackingMode": tags.get(keys.method_tag("cpu")),
        "gpuTrackingMode": tags.get(keys.method_tag("gpu")),
        "powerConsumption": own.energy_kwh,  # kWh, whatever the name says
        "measurementDuration": total.duration_s,
        "measurementDateTime": _run_time(own),
    }
    return _known(
        {
            "header": {
                "formatVersion": BOAMPS_VERSION,
                "formatVersionSpecificationUri": BOAMPS_URI,
                "reportId": str(_id_of(model, own)),
                "reportDatetime": _time(now_s),
                "reportStatus": "draft",
            },
            "task": {
                "taskStage": "finetuning" if training_type == FINE_TUNING else "training",
                "taskFamily": task_family,
                "algorithms": [{"algorithmName": model.version.name, **_epochs(own)}],
                "dataset": _datasets(own),
                "taskDescription": paragraph(model, own),
            },
            "measures": [_known(measure)],
            "infrastructure": {"infraType": OTHER, "components": _components(own)},
            "environment": _environment(own),
        }
    )


def cyclonedx(model: ModelFootprint, *, training_type: str, now_s: float) -> dict[str, Any]:
    """Returns a bill of materials of CycloneDX 1.6 that holds the model with its energy.

    Args:
        model: whose training was measured.
        training_type: ``pre-training`` or ``fine-tuning``.
        now_s: the time of the bill, in s since 1970.

    Raises:
        NoRunsError: its emissions are not known.
    """
    own = measured(model)
    facility = {"value": _facility_kwh(own), "unit": "kWh"}
    told = {
        "it_energy_kwh": f"{own.energy_kwh:.6g}",
        "pue": f"{own.pue:g}",
        "intensity_g_per_kwh": f"{own.intensity_g_per_kwh:g}",
        "region": own.region,
        "method": paragraph(model, own),
    }
    consumption = {
        "activity": FINE_TUNING if training_type == FINE_TUNING else "training",
        "energyProviders": [
            {
                "description": _grid(own),
                "organization": {"name": UNKNOWN},
                "energySource": UNKNOWN,
                "energyProvided": facility,
            }
        ],
        "activityEnergyCost": facility,
        "co2CostEquivalent": {"value": tonnes_from_kg(own.co2e_kg), "unit": "tCO2eq"},
        "properties": [
            {"name": f"mlflow-carbon:{name}", "value": shown(text)} for name, text in told.items()
        ],
    }
    name, version = model.version.name, str(model.version.version)
    return {
        "$schema": CYCLONEDX_SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{_id_of(model, own)}",
        "version": 1,
        "metadata": {
            "timestamp": _moment(now_s).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {
                "components": [
                    {"type": "application", "name": "mlflow-carbon", "version": __version__}
                ]
            },
        },
        "components": [
            {
                "type": "machine-learning-model",
                "bom-ref": f"models:/{name}/{version}",
                "name": name,
                "version": version,
                "modelCard": {
                    "considerations": {
                        "environmentalConsiderations": {"energyConsumptions": [consumption]}
                    }
                },
            }
        ],
    }


def sci(model: ModelFootprint, *, device: Device | None) -> dict[str, Any]:
    """Returns the Software Carbon Intensity of one training, with the terms that it is made of.

    Args:
        model: whose training was measured.
        device: that it ran on, for the embodied part; ``None`` leaves that out, and says so.

    Raises:
        NoRunsError: its emissions, or with a device its duration, are not known.
    """
    own = measured(model)
    total = _total(own)
    if device is not None and total.duration_s is None:
        raise NoRunsError(f"The duration of {model.title} is not known, so neither is its M.")
    operational_g = co2e_g(own.energy_kwh, pue=own.pue, intensity_g_per_kwh=own.intensity_g_per_kwh)
    score = software_carbon_intensity(
        operational_g,
        1,
        unit="training",
        duration_s=total.duration_s or 0.0,
        devices=() if device is None else (device,),
    )
    components = ", ".join(_component_names(own)) or UNKNOWN
    terms = {
        "specification": SCI_SPECIFICATION,
        "software": model.title,
        "boundary": f"one training, from its start to its end; energy of: {components}; "
        "embodied emissions " + ("not counted" if device is None else "as given"),
        "functional_unit": score.unit,
        "R": score.num_units,
        "E_kwh": _facility_kwh(own),
        "I_g_per_kwh": own.intensity_g_per_kwh,
        "I_source": _grid(own),
        "O_g": score.operational_g,
        "M_g": None if device is None else score.embodied_g,
        "SCI_g_per_functional_unit": score.g_per_unit,
        "is_operational_only": device is None,
        "method": paragraph(model, own),
    }
    return _known(terms)


def _total(own: Footprint) -> Total:
    return RunRecord.read(own.run).total or Total(None)


def _facility_kwh(own: Footprint) -> float:
    """Returns the energy with that of cooling and supply, in kWh."""
    return own.energy_kwh * own.pue


def _datasets(own: Footprint) -> list[dict[str, str]]:
    """Returns the datasets that the run logged; one of an unknown kind if it logged none."""
    inputs = () if own.run.inputs is None else own.run.inputs.dataset_inputs or ()
    unknown = {"dataUsage": "input", "dataType": OTHER}
    found = [_sourced(unknown, str(it.dataset.source)) for it in inputs]
    return found or [unknown]


def _sourced(dataset: dict[str, str], source: str) -> dict[str, str]:
    """Returns a dataset with its address where that is public: paths are nobody's business."""
    is_address = source.startswith(("https://", "http://")) and "@" not in source
    return {**dataset, "sourceUri": source} if is_address else dataset


def _components(own: Footprint) -> list[dict[str, Any]]:
    """Returns the kinds of devices whose energy was counted, and how many of each."""
    total, hardware = _total(own), own.run.data.tags.get(keys.TAG_HARDWARE)
    names = _component_names(own) or [OTHER]
    counted = [
        {
            "componentType": name,
            "nbComponent": sum(device.component == name for device in total.devices) or 1,
        }
        for name in names
    ]
    if hardware and len(names) == 1:  # the tag tells all devices at once
        counted[0]["componentName"] = shown(hardware)
    return counted


def _component_names(own: Footprint) -> list[str]:
    """Returns the components whose energy is in the total."""
    prefix = keys.method_tag("")
    names = {
        key.removeprefix(prefix)
        for key, method in own.run.data.tags.items()
        if key.startswith(prefix) and method != keys.METHOD_UNAVAILABLE
    }
    return sorted(map(shown, names | set(_total(own).energy_kwh_by_component)))


def _environment(own: Footprint) -> dict[str, Any] | None:
    """Returns the place of the power supply; ``None`` where the region is only a default."""
    if keys.default_tag("region") in own.run.data.tags:
        return None
    return {
        "country": shown(region_name(own.region)),
        "powerSourceCarbonIntensity": own.intensity_g_per_kwh,
    }


def _epochs(own: Footprint) -> dict[str, float]:
    record = RunRecord.read(own.run)
    if record.unit != keys.UNIT_EPOCH or record.num_units is None:
        return {}
    return {"epochsNumber": record.num_units}


def _grid(own: Footprint) -> str:
    tags = own.run.data.tags
    period = tags.get(keys.TAG_PERIOD, "")
    source = tags.get(keys.TAG_INTENSITY_SOURCE, "source not recorded")
    basis = tags.get(keys.TAG_INTENSITY_BASIS, "basis not recorded")
    place = f"{region_name(own.region)} {period}".strip()
    set_name = tags.get(keys.TAG_INTENSITY_SET)
    origin = f"{set_name}: {source}" if set_name else source
    return shown(f"electricity of {place}: {own.intensity_g_per_kwh:g} g/kWh ({origin}; {basis})")


def _id_of(model: ModelFootprint, own: Footprint) -> uuid.UUID:
    """Returns an id that is the same for each report on one version and its run."""
    name = f"models:/{model.version.name}/{model.version.version}?run={own.run.info.run_id}"
    return uuid.uuid5(uuid.NAMESPACE_URL, name)


def _run_time(own: Footprint) -> str | None:
    end_ms = own.run.info.end_time
    return None if end_ms is None else _time(end_ms / MILLISECONDS_PER_SECOND)


def _time(time_s: float) -> str:
    return _moment(time_s).strftime("%Y-%m-%d %H:%M:%S")


def _moment(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s, tz=timezone.utc)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values that are known: missing is absent."""
    return {key: value for key, value in values.items() if value is not None}


def emissions_notice(co2e_kg: float) -> str | None:
    """Returns a warning where Hugging Face's filter of emissions takes another figure for it.

    The filter of ``huggingface_hub`` reads the first number in the figure's text, which below
    0.1 mg is that before the exponent, and passes over 0.
    """
    if co2e_kg >= kg_from_grams(1e-4):
        return None
    return (
        "Below 0.1 mg, list_models(emissions_thresholds=…) of huggingface_hub does not read the "
        "figure rightly: 5.8e-05 g counts as 5.8 g."
    )
