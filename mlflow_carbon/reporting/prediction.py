"""Forecasts more of a run's work from its windows, in any region, as a frame and as text."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mlflow_carbon.accounting.forecast import EnergyForecast, forecast_energy, price
from mlflow_carbon.accounting.functional_unit import (
    Device,
    SoftwareCarbonIntensity,
    software_carbon_intensity,
)
from mlflow_carbon.accounting.uncertainty import cautions, unit_statistics
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.grid.intensity import CarbonIntensity, price_label
from mlflow_carbon.reporting.everyday import footer_report
from mlflow_carbon.reporting.report import Column, Report, Table
from mlflow_carbon.reporting.tables import (
    ABSENT,
    ENERGY_SCALES,
    MASS_SCALES,
    Scale,
    choose_scale,
)
from mlflow_carbon.store.run_windows import MeteredRun, pue_of


@dataclass(frozen=True)
class Prediction:
    """The forecast of some units of a run's work.

    Attributes:
        run: what was measured.
        energy: the forecast in kWh.
        table: one row a region, every figure in kWh and g, with what it rests on.
        unit_costs: SCI by region; empty unless a device was given.
        cautions: what a reader must know, a sentence each.
    """

    run: MeteredRun
    energy: EnergyForecast
    table: pd.DataFrame
    unit_costs: tuple[SoftwareCarbonIntensity, ...]
    cautions: tuple[str, ...]


def predict(
    run: MeteredRun,
    num_units: float,
    *,
    intensities: Sequence[CarbonIntensity],
    pue: float | None = None,
    device: Device | None = None,
) -> Prediction:
    """Returns the expected energy and CO2e of ``num_units`` units, with spread and interval.

    Args:
        run: whose windows were measured.
        num_units: how many units, of the run's own kind.
        intensities: to price with, one row each.
        pue: ``None`` takes the recorded one.
        device: whose making is shared out over the units' time; ``None`` leaves it out.

    Raises:
        InvalidInputError: the run has one window and so no spread, or a figure is outside what
            it may be.
    """
    statistics = unit_statistics(run.windows)
    if statistics.std_kwh is None:
        raise InvalidInputError(
            f"There is one window in {run.title}: it has no spread and says nothing of the next. "
            "Mark two windows or more, five for a spread worth the name."
        )
    used_pue = pue_of(run, pue)
    energy = forecast_energy(statistics, num_units)
    rows, unit_costs = [], []
    for intensity in intensities:
        row = _row(run, energy, intensity, used_pue)
        if device is not None:
            cost = software_carbon_intensity(
                row["co2e_g"],
                num_units,
                unit=run.unit,
                duration_s=run.window_duration_s / run.num_units * num_units,
                devices=[device],
            )
            unit_costs.append(cost)
            row |= {"embodied_g": cost.embodied_g, "sci_g_per_unit": cost.g_per_unit}
        rows.append(row)
    return Prediction(
        run=run,
        energy=energy,
        table=pd.DataFrame(rows),
        unit_costs=tuple(unit_costs),
        cautions=cautions(statistics, run.coverage_fraction),
    )


def _row(
    run: MeteredRun, energy: EnergyForecast, intensity: CarbonIntensity, pue: float
) -> dict[str, Any]:
    """Returns a forecast in one region, every figure with its unit, and what it rests on."""
    priced = price(energy, pue=pue, intensity_g_per_kwh=intensity.g_per_kwh)
    statistics, interval = energy.statistics, energy.interval
    assert interval is not None  # two windows or more
    return {
        "run_id": run.run_id,
        "unit": run.unit,
        "num_units": energy.num_units,
        "region": intensity.region,
        "energy_kwh": energy.energy_kwh,
        "energy_kwh_spread": energy.spread_kwh,
        "energy_kwh_prediction_low": interval.low_kwh,
        "energy_kwh_prediction_high": interval.high_kwh,
        "co2e_g": priced.co2e_g,
        "co2e_g_spread": priced.spread_g,
        "co2e_g_prediction_low": priced.low_g,
        "co2e_g_prediction_high": priced.high_g,
        "confidence_fraction": interval.confidence_fraction,
        "interval_method": interval.method,
        "num_windows": statistics.num_windows,
        "effective_num_windows": statistics.effective_num_windows,
        "num_distinct_readings": statistics.num_distinct_readings,
        "coverage_fraction": run.coverage_fraction,
        "pue": pue,
        "intensity_g_per_kwh": intensity.g_per_kwh,
        "period": intensity.period,
        "intensity_set": intensity.intensity_set,
        "intensity_basis": intensity.basis,
        "intensity_source": intensity.source,
    }


def prediction_report(prediction: Prediction, *, with_equivalents: bool = False) -> Report:
    """Returns the forecast as tables for people: figures, and what they rest on.

    Args:
        prediction: of one run.
        with_equivalents: adds everyday quantities below one phone charge, too.
    """
    energy, table, run = prediction.energy, prediction.table, prediction.run
    assert energy.interval is not None
    masses_g = list(table["co2e_g"])
    regions = Column("region", list(table["region"]), is_text=True)
    unit_costs: list[str | Table] = []
    if prediction.unit_costs:
        unit_costs = ["\n", *_unit_costs(prediction, regions)]
    return Report.of(
        f"{energy.num_units:.10g} {run.unit}s, by {run.title}\n",
        Table(tuple(_columns(prediction)), num_keys=2),
        f"\n{_meaning(prediction)}",
        *unit_costs,
        footer_report(
            "The expected CO2e is as much as", [regions], masses_g, is_asked=with_equivalents
        ),
    )


def _columns(prediction: Prediction) -> list[Column]:
    """Returns a line for the energy, the same everywhere, then one for each region's CO2e."""
    table = prediction.table
    first = table.iloc[0]
    energy_scale = choose_scale(table["energy_kwh"], ENERGY_SCALES)
    mass_scale = choose_scale(table["co2e_g"], MASS_SCALES)
    energy = _figures(first, "energy_kwh", energy_scale)
    lines = [(f"energy ({energy_scale.symbol})", "", *energy, ABSENT, ABSENT)]
    for _, row in table.iterrows():
        mass = _figures(row, "co2e_g", mass_scale)
        assumed = f"{row['pue']:g}", f"{row['intensity_g_per_kwh']:.6g}"
        lines.append((f"CO2e ({mass_scale.symbol})", row["region"], *mass, *assumed))
    interval = f"{first['confidence_fraction']:.0%} prediction interval"
    heads = ("", "region", "expected", "± spread", interval, "PUE", "g/kWh")
    return [
        Column(head, [line[position] for line in lines], is_text=position < 2)
        for position, head in enumerate(heads)
    ]


def _figures(row: "pd.Series[Any]", quantity: str, scale: Scale) -> tuple[str, str, str]:
    """Returns the expected total, the spread and the prediction interval as texts."""
    low, high = row[f"{quantity}_prediction_low"], row[f"{quantity}_prediction_high"]
    return (
        scale.text(row[quantity]),
        scale.text(row[f"{quantity}_spread"], 2),
        f"{scale.text(low, 3)} to {scale.text(high, 3)}",
    )


def _meaning(prediction: Prediction) -> str:
    """Returns the basis of the figures, and the meaning of each of the two errors."""
    statistics, interval = prediction.energy.statistics, prediction.energy.interval
    assert interval is not None
    readings = statistics.num_distinct_readings
    coverage = prediction.run.coverage_fraction
    return (
        f"{_prices(prediction.table)}"
        f"n: {statistics.num_windows} windows of {statistics.num_units:g} {prediction.run.unit}s "
        f"in all; effective n {statistics.effective_num_windows:.3g}; distinct power readings "
        f"{ABSENT if readings is None else readings}; "
        f"coverage {ABSENT if coverage is None else f'{coverage:.0%}'}\n"
        f"spread: std per {prediction.run.unit} of the windows x "
        f"{prediction.energy.num_units:.10g}, "
        "what the paper prints as ±; not the error of the total\n"
        f"{interval.method}: the total lies there with "
        f"{interval.confidence_fraction:.0%} probability\n"
    )


def _prices(table: pd.DataFrame) -> str:
    """Returns lines with the intensity that each region's CO2e rests on, its year and set."""
    columns = ["intensity_g_per_kwh", "region", "period", "intensity_set"]
    listed = [
        price_label(region, g_per_kwh, period=period, intensity_set=name)
        for g_per_kwh, region, period, name in table[columns].itertuples(index=False)
    ]
    return "".join(f"{line}\n" for line in textwrap.wrap(f"CO2e by {'; '.join(listed)}", 80))


def _unit_costs(prediction: Prediction, regions: Column) -> tuple[str, Table]:
    costs = prediction.unit_costs
    scale = choose_scale([cost.g_per_unit for cost in costs], MASS_SCALES)
    columns = (
        regions,
        Column(f"SCI ({scale.symbol})", [scale.text(cost.g_per_unit) for cost in costs]),
        Column("operational", [scale.text(cost.operational_g / cost.num_units) for cost in costs]),
        Column("embodied", [scale.text(cost.embodied_g / cost.num_units) for cost in costs]),
    )
    return f"SCI (ISO/IEC 21031) per {prediction.run.unit}\n", Table(columns, num_keys=1)
