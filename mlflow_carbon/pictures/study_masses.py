"""CO2e of a study's cells for the paper's amounts, by the paper's price, as its figures show it."""

from collections.abc import Sequence

import numpy as np

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.steps_model import StepsModel
from mlflow_carbon.grid.intensity import lookup_intensity
from mlflow_carbon.reporting.study_amounts import UNIT_BY_TASK
from mlflow_carbon.reporting.study_cells import PAPER_UNITS, StudyCell
from mlflow_carbon.units import kg_from_grams

PAPER_PUE, PAPER_SET, PAPER_REGION = 1.55, "paper_table1", "EU27"  # sections 2.4 and 3.1


def fitted_kg(model: StepsModel, steps: np.ndarray) -> np.ndarray:
    """Returns the CO2e in kg of 10,000 samples on the fitted line; NaN where that is below 0."""
    energy_kwh = model.fixed_kwh.value + steps * model.step_kwh.value
    kg = np.array([priced_kg(each * PAPER_UNITS["sample"]) for each in np.maximum(energy_kwh, 0)])
    return np.where(energy_kwh > 0, kg, np.nan)


def kg_of(cell: StudyCell, region: str = PAPER_REGION) -> float:
    """Returns the CO2e in kg of the paper's number of units, by the paper's price."""
    assert cell.statistics is not None  # only measured cells come here
    num_units = PAPER_UNITS[UNIT_BY_TASK[cell.task]]
    return priced_kg(cell.statistics.mean_kwh * num_units, region)


def spreads_kg(cells: Sequence[StudyCell]) -> np.ndarray:
    """Returns the lengths of error bars below and above; none reaches 0."""
    heights = np.array([kg_of(cell) for cell in cells])
    shares = np.array(
        [
            0.0
            if (it := cell.statistics) is None or it.std_kwh is None
            else it.std_kwh / it.mean_kwh
            for cell in cells
        ]
    )
    return np.stack([heights * np.minimum(shares, 0.999), heights * shares])


def priced_kg(energy_kwh: float, region: str = PAPER_REGION) -> float:
    """Returns the CO2e in kg of IT energy, by the paper's PUE and a region of its Table 1."""
    intensity = lookup_intensity(region, intensity_set=PAPER_SET)
    return kg_from_grams(
        co2e_g(float(energy_kwh), pue=PAPER_PUE, intensity_g_per_kwh=intensity.g_per_kwh)
    )
