"""A limit on a model's emissions, so that a pipeline can refuse its promotion."""

from collections.abc import Callable
from dataclasses import dataclass

from mlflow_carbon.accounting.amounts import mass_text
from mlflow_carbon.accounting.emissions import checked
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.reporting.model_footprint import ModelFootprint
from mlflow_carbon.units import grams_from_kg

IntensityOf = Callable[[Footprint], CarbonIntensity | None]


def as_recorded(_: Footprint) -> None:
    """Keeps the recorded price of every training."""


@dataclass(frozen=True)
class Verdict:
    """Whether a model may pass, and one sentence that says why."""

    is_passed: bool
    sentence: str


def judge(
    model: ModelFootprint,
    *,
    max_co2e_kg: float,
    with_lineage: bool = False,
    intensity_of: IntensityOf = as_recorded,
    pue: float | None = None,
) -> Verdict:
    """Judges a model: its emissions must be known, and at or under a limit in kg.

    Args:
        model: to be judged.
        max_co2e_kg: the limit.
        with_lineage: counts the trainings of all that the model was built from, too.
        intensity_of: returns the intensity that re-prices a training's recorded energy by Eq. 1,
            or ``None`` to keep the recorded intensity.
        pue: re-prices with this PUE; ``None`` keeps the recorded PUE.

    Raises:
        InvalidInputError: the limit is negative, or the PUE is outside 1 to 3.
        MlflowCarbonError: whatever ``intensity_of`` raises.
    """
    checked("max_co2e_kg", max_co2e_kg)
    if model.own is None:
        return Verdict(False, f"{model.title} is refused: {model.reason}.")
    co2e_kg: float | None = priced_kg(model.own, intensity_of, pue)
    what = "its own training"
    if with_lineage:
        co2e_kg = model.lineage.priced_kg(lambda training: priced_kg(training, intensity_of, pue))
        num = model.lineage.num_runs
        what = f"the {'one training' if num == 1 else f'{num} trainings'} that it rests on"
    if co2e_kg is None:
        problems = "; ".join(model.lineage.problems)
        return Verdict(False, f"{model.title} is refused: its lineage is not known: {problems}.")
    is_passed = co2e_kg <= max_co2e_kg
    verb, relation = ("passes", "at or under") if is_passed else ("is refused", "above")
    return Verdict(
        is_passed,
        f"{model.title} {verb}: {kg_text(co2e_kg)} CO2e of {what} is {relation} the limit of "
        f"{kg_text(max_co2e_kg)} ({price_text(model.own, intensity_of(model.own), pue)}).",
    )


def kg_text(mass_kg: float) -> str:
    """Returns a mass given in kg in the unit that fits: ``22 mg``."""
    return mass_text(grams_from_kg(mass_kg))


def priced_kg(training: Footprint, intensity_of: IntensityOf, pue: float | None) -> float:
    """Returns a training's emissions in kg, by its recorded price or by the one asked for."""
    intensity = intensity_of(training)
    g_per_kwh = None if intensity is None else intensity.g_per_kwh
    return training.priced_kg(intensity_g_per_kwh=g_per_kwh, pue=pue)


def price_text(own: Footprint, intensity: CarbonIntensity | None, pue: float | None) -> str:
    """Returns the region, intensity, period, set and PUE that priced a training, as text."""
    recorded = RunRecord.read(own.run).intensity if intensity is None else intensity
    label = "" if recorded is None else recorded.label
    priced_by = f"as recorded: {label}" if intensity is None else label
    return f"{priced_by}, PUE {own.pue if pue is None else pue:g}"
