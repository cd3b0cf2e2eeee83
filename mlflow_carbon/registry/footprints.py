"""The energy and CO2e of one run, as shown on the models that it trained."""

from dataclasses import dataclass

from mlflow.entities import Run

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import BadRecordError
from mlflow_carbon.units import kg_from_grams


@dataclass(frozen=True)
class Footprint:
    """Energy and CO2e of one metered run, and what was assumed about it.

    ``end_ms`` is the time stamp of the total, ``None`` in version 1.
    """

    run: Run
    energy_kwh: float
    co2e_kg: float
    pue: float
    intensity_g_per_kwh: float
    region: str
    end_ms: int | None = None

    def priced_kg(
        self, *, intensity_g_per_kwh: float | None = None, pue: float | None = None
    ) -> float:
        """Returns the run's emissions in kg by Eq. 1; ``None`` keeps the recorded factor.

        Raises:
            InvalidInputError: the PUE or the intensity is out of range.
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
    """Returns a run's recorded footprint.

    Returns:
        ``None`` if the run was not measured, or not to its end, or has an impossible figure.
    """
    try:
        record = RunRecord.read(run)
    except BadRecordError:
        return None
    energy_kwh = None if record.total is None else record.total.energy_kwh
    mass_g, pue, intensity = record.co2e_g, record.pue, record.intensity
    if energy_kwh is None or mass_g is None or pue is None:
        return None
    if intensity is None or not intensity.region:
        return None
    return Footprint(
        run,
        energy_kwh=energy_kwh,
        co2e_kg=kg_from_grams(mass_g),
        pue=pue,
        intensity_g_per_kwh=intensity.g_per_kwh,
        region=intensity.region,
        end_ms=record.total_end_ms,
    )


def why_unmeasured(run: Run) -> str:
    """Returns the reason why a run has no footprint."""
    tags = run.data.tags
    try:
        RunRecord.read(run)
    except BadRecordError as bad:
        return bad.reason
    if error := tags.get(keys.TAG_ERROR):
        return f"run {run.info.run_id} could not be measured: {error}"
    if keys.TAG_SCHEMA not in tags:
        return f"run {run.info.run_id} was not metered"
    return f"run {run.info.run_id} has no figures ({run.info.status})"
