"""A limit on how much more a model may emit than another, within the noise of both."""

import math
from collections.abc import Callable

from mlflow_carbon.accounting.emissions import checked
from mlflow_carbon.accounting.uncertainty import (
    DEFAULT_CONFIDENCE_FRACTION,
    prediction_interval,
    unit_statistics,
)
from mlflow_carbon.registry.footprints import Footprint
from mlflow_carbon.reporting.gate import (
    IntensityOf,
    Verdict,
    as_recorded,
    kg_text,
    price_text,
    priced_kg,
)
from mlflow_carbon.reporting.model_footprint import ModelFootprint
from mlflow_carbon.store.run_windows import MeteredRun

ReadWindows = Callable[[Footprint], MeteredRun]


def judge_increase(
    model: ModelFootprint,
    base: ModelFootprint,
    *,
    max_increase_fraction: float,
    windows_of: ReadWindows,
    intensity_of: IntensityOf = as_recorded,
    pue: float | None = None,
) -> Verdict:
    """Judges how much more a model's own training emitted than another's.

    The model passes if the increase is at or under the limit, or above it by no more than the
    windows of both trainings vary (95 % confidence).

    Args:
        model: to be judged.
        base: to be judged against.
        max_increase_fraction: the limit; 0.1 allows 10 % more.
        windows_of: reads a training's windows.
        intensity_of: returns the intensity that re-prices a training's recorded energy by Eq. 1,
            or ``None`` to keep the recorded intensity.
        pue: re-prices with this PUE; ``None`` keeps the recorded PUE.

    Raises:
        InvalidInputError: the limit is negative, or the PUE is outside 1 to 3.
        MlflowCarbonError: whatever the two functions raise.
    """
    checked("max_increase", max_increase_fraction)
    if model.own is None:
        return Verdict(False, f"{model.title} is refused: {model.reason}.")
    if base.own is None:
        return Verdict(False, f"{model.title} is refused: of {base.title}, {base.reason}.")

    def margin_kg(training: Footprint, co2e_kg: float) -> float | None:
        margin_kwh = repeat_margin_kwh(windows_of(training))
        if margin_kwh is None or not training.energy_kwh:
            return None
        return margin_kwh * co2e_kg / training.energy_kwh

    own_kg, base_kg = (priced_kg(training, intensity_of, pue) for training in (model.own, base.own))
    if base_kg == 0:
        return Verdict(
            False, f"{model.title} is refused: {base.title} emitted nothing to compare with."
        )
    margins_kg = [margin_kg(model.own, own_kg), margin_kg(base.own, base_kg)]
    noise = math.hypot(*(margin or 0.0 for margin in margins_kg)) / math.sqrt(2) / base_kg
    increase = own_kg / base_kg - 1
    is_passed = increase - noise <= max_increase_fraction
    if increase <= max_increase_fraction:
        relation = "at or under the limit of"
    else:
        relation = "within the noise of the limit of" if is_passed else "above the limit of"
    known = f"noise of both ±{noise:.1%}" if None not in margins_kg else "noise not fully known"
    own_price = price_text(model.own, intensity_of(model.own), pue)
    base_price = price_text(base.own, intensity_of(base.own), pue)
    prices = own_price if own_price == base_price else f"{own_price}; against {base_price}"
    return Verdict(
        is_passed,
        f"{model.title} {'passes' if is_passed else 'is refused'}: {kg_text(own_kg)} CO2e of its "
        f"own training, {increase:+.1%} against {kg_text(base_kg)} of {base.title}, is {relation} "
        f"+{max_increase_fraction:.0%} ({known}; {prices}).",
    )


def repeat_margin_kwh(run: MeteredRun) -> float | None:
    """Returns half the width of the interval in which the same training's energy would lie again.

    That interval holds the error of two totals, of this training and of the next.

    Returns:
        ``None`` for a run with fewer than two windows, which has no spread.
    """
    interval = prediction_interval(
        unit_statistics(run.windows),
        run.num_units,
        confidence_fraction=DEFAULT_CONFIDENCE_FRACTION,
    )
    if interval is None:
        return None
    return interval.high_kwh - sum(window.energy_kwh for window in run.windows)
