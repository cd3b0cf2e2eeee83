"""Model versions listed with their emissions, in any region, by Eq. 1."""

import logging
import math

import pandas as pd
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from mlflow_carbon.accounting.emissions import checked, co2e_g, validate_pue
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.grid.hourly import IntensitySeries
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.registry.model_tags import fault_of_tags, number
from mlflow_carbon.reporting.hourly_prices import file_intensity
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.listing import all_versions
from mlflow_carbon.store.run_columns import methods
from mlflow_carbon.store.run_windows import read_metered_run
from mlflow_carbon.store.runs import Cell, told
from mlflow_carbon.units import kg_from_grams

_logger = logging.getLogger("mlflow.carbon")

_TAG_BY_NUMBER_COLUMN = {
    "co2e_kg": keys.TAG_MODEL_CO2E_KG,
    "energy_kwh": keys.TAG_MODEL_ENERGY_KWH,
    "pue": keys.TAG_MODEL_PUE,
    "lineage_co2e_kg": keys.TAG_MODEL_LINEAGE_CO2E_KG,
    "inference_co2e_g_per_sample": keys.TAG_MODEL_INFERENCE_CO2E_G_PER_SAMPLE,
}
_TAG_BY_TEXT_COLUMN = {
    "region": keys.TAG_REGION,
    "period": keys.TAG_PERIOD,
    "intensity_set": keys.TAG_INTENSITY_SET,
    "intensity_basis": keys.TAG_INTENSITY_BASIS,
    "band": keys.TAG_MODEL_BAND,
}
MODEL_COLUMNS = (
    "name",
    "version",
    *_TAG_BY_TEXT_COLUMN,
    *_TAG_BY_NUMBER_COLUMN,
    "methods",
    "run_id",
)


def read_models(client: MlflowClient) -> pd.DataFrame:
    """Returns one row a model version, with the emissions of its own training.

    Columns: ``MODEL_COLUMNS``; a version without emissions has none in them. A version with a
    figure that cannot be (no number, a PUE below 1) is left out by name.

    Raises:
        TrackingStoreError: the registry cannot be read.
    """
    with store_errors(client):
        versions = all_versions(client)
    faults = []
    rows = []
    for version in versions:
        fault = fault_of_tags(
            version.tags, _TAG_BY_NUMBER_COLUMN.values(), pue_tag=keys.TAG_MODEL_PUE
        )
        if fault is None:
            rows.append(_model_row(version))
        else:
            faults.append(f"version {version.version} of model {version.name!r}: {fault}")
    if faults:
        _logger.warning("Left out %s", told(faults))
    models = pd.DataFrame(rows, columns=list(MODEL_COLUMNS))
    return models.astype(dict.fromkeys(_TAG_BY_NUMBER_COLUMN, "float64"))


def price_models(
    models: pd.DataFrame,
    *,
    max_co2e_kg: float | None = None,
    intensity: CarbonIntensity | None = None,
    pue: float | None = None,
) -> pd.DataFrame:
    """Returns models with their emissions in another place, or those under a limit, or both.

    Args:
        models: as ``read_models`` returns them.
        max_co2e_kg: only versions at or under this limit, and so only those with emissions.
        intensity: re-prices the recorded energy by Eq. 1; the lineage and the samples, of which
            no energy is recorded, are then left out. ``None`` keeps each version's own CO2e.
        pue: re-prices with this PUE instead of the recorded one.

    Raises:
        InvalidInputError: the limit is negative, or the PUE is outside 1 to 3.
    """
    if intensity is not None or pue is not None:
        models = _repriced(models, intensity, pue)
    models["band"] = [None if pd.isna(kg) else keys.band(kg) for kg in models["co2e_kg"]]
    if max_co2e_kg is not None:
        models = models[models["co2e_kg"] <= checked("max_co2e_kg", max_co2e_kg)]
    return models.reset_index(drop=True)


def price_models_by_file(
    client: MlflowClient, models: pd.DataFrame, series: IntensitySeries, *, region: str | None
) -> tuple[pd.DataFrame, list[str]]:
    """Returns models as if each training had recorded what a file says of its own times.

    Args:
        client: of the store that holds the trainings.
        models: as ``read_models`` returns them.
        series: what the file holds.
        region: names the prices; the file says nothing of where it is for.

    Returns:
        The models, without emissions where the file does not cover the training, and a sentence
        for each of these.
    """
    priced, problems = [], []
    for index, model in models.iterrows():
        row = models.loc[[index]]
        if pd.notna(model["co2e_kg"]):
            try:
                with store_errors(client):
                    run = read_metered_run(client, client.get_run(model["run_id"]))
                row = _repriced(row, file_intensity(series, run, region=region), None)
            except MlflowCarbonError as error:
                problems.append(f"{model['name']} {model['version']}: {error}")
                row = row.assign(co2e_kg=math.nan)
        priced.append(row)
    return (pd.concat(priced) if priced else models), problems


def _model_row(version: ModelVersion) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        column: number(version.tags, tag) for column, tag in _TAG_BY_NUMBER_COLUMN.items()
    }
    return row | {
        "name": version.name,
        "version": int(version.version),  # text over HTTP, a number from sqlite
        "methods": methods(version.tags) or None,
        "run_id": version.run_id,
        **{column: version.tags.get(tag) for column, tag in _TAG_BY_TEXT_COLUMN.items()},
    }


def _repriced(
    models: pd.DataFrame, intensity: CarbonIntensity | None, pue: float | None
) -> pd.DataFrame:
    """Returns the models with CO2e = recorded energy x PUE x intensity (Eq. 1)."""
    models = models.assign(lineage_co2e_kg=math.nan, inference_co2e_g_per_sample=math.nan)
    if pue is not None:
        models["co2e_kg"] *= validate_pue(pue) / models["pue"]
        models["pue"] = pue
    if intensity is not None:
        models["region"] = intensity.region
        models["period"], models["intensity_set"] = intensity.period, intensity.intensity_set
        models["intensity_basis"] = intensity.basis
        models["co2e_kg"] = [
            _co2e_kg(energy_kwh, pue, intensity.g_per_kwh)
            for energy_kwh, pue in zip(models["energy_kwh"], models["pue"], strict=True)
        ]
    return models


def _co2e_kg(energy_kwh: float, pue: float, g_per_kwh: float) -> float:
    """Returns emissions in kg; NaN where nothing was measured."""
    if math.isnan(energy_kwh) or math.isnan(pue):
        return math.nan
    return kg_from_grams(co2e_g(energy_kwh, pue=pue, intensity_g_per_kwh=g_per_kwh))
