"""What one run used and emitted, as the models that it trained show it."""

import math
from dataclasses import dataclass

from mlflow.entities import Run

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import keys
from mlflow_carbon.units import kg_from_grams

_METRICS = (keys.ENERGY_KWH, keys.CO2E_KG, keys.PUE, keys.INTENSITY_G_PER_KWH)


@dataclass(frozen=True)
class Footprint:
    """Energy and CO2e of one metered run, and what was assumed about it."""

    run: Run
    energy_kwh: float
    co2e_kg: float
    pue: float
    intensity_g_per_kwh: float
    region: str

    def priced_kg(
        self, *, intensity_g_per_kwh: float | None = None, pue: float | None = None
    ) -> float:
        """Returns its emissions in kg by Eq. 1; ``None`` keeps what the run recorded.

        Raises:
            InvalidInputError: the PUE or the intensity is outside what it may be.
        """
        if intensity_g_per_kwh is None and pue is None:
            return self.co2e_kg
        intensity = self.intensity_g_per_kwh if intensity_g_per_kwh is None else intensity_g_per_kwh
        mass_g = co2e_g(
            self.energy_kwh,
            pue=self.pue if pue is None else pue,
            intensity_g_per_kwh=intensity,
        )
        return kg_from_grams(mass_g)


def read_footprint(run: Run) -> Footprint | None:
    """Returns what a run recorded; ``None`` if it was not measured, or not to the end."""
    metrics, region = run.data.metrics, run.data.tags.get(keys.TAG_REGION)
    values = [metrics.get(key, math.nan) for key in _METRICS]
    if region is None or not all(map(math.isfinite, values)):
        return None
    energy_kwh, co2e_kg, pue, intensity_g_per_kwh = values
    return Footprint(run, energy_kwh, co2e_kg, pue, intensity_g_per_kwh, region)


def why_unmeasured(run: Run) -> str:
    """Returns why a run has no footprint."""
    tags = run.data.tags
    if error := tags.get(keys.TAG_ERROR):
        return f"run {run.info.run_id} could not be measured: {error}"
    if keys.TAG_SCHEMA not in tags:
        return f"run {run.info.run_id} was not metered"
    return f"run {run.info.run_id} has no figures ({run.info.status})"
