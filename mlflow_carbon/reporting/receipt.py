"""What a run cost, as a record for programs, four lines for people and HTML for notebooks."""

import html
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mlflow_carbon.accounting.amounts import (
    change_text,
    duration_text,
    energy_text,
    mass_text,
)
from mlflow_carbon.accounting.cheaper import Change
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.measurement_error import Bounds, bounds_of
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_description import METHOD_WORDS
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.metering.other_load import NOTABLE_FRACTION
from mlflow_carbon.reporting.fitted_lines import Piece, fitted_line

_SHARE = "process_share"
_HEAD = "mlflow-carbon"


@dataclass(frozen=True)
class Part:
    """Other metered runs that belong to a run: how many, their energy in kWh and CO2e in g."""

    num_runs: int = 0
    energy_kwh: float = 0.0
    co2e_g: float = 0.0

    def plus(self, footprint: "RunFootprint") -> "Part":
        """Returns the part with one more run."""
        return Part(
            self.num_runs + 1,
            self.energy_kwh + (footprint.energy_kwh or 0.0),
            self.co2e_g + (footprint.co2e_g or 0.0),
        )

    def with_part(self, other: "Part") -> "Part":
        """Returns both parts as one."""
        return Part(
            self.num_runs + other.num_runs,
            self.energy_kwh + other.energy_kwh,
            self.co2e_g + other.co2e_g,
        )


@dataclass(frozen=True, repr=False)
class RunFootprint:
    """What one run cost; ``None`` or empty where it is not known.

    Attributes:
        run_id: MLflow's.
        name: of the run.
        energy_kwh: measured IT energy of all components, the whole metered interval.
        energy_bounds: within which it lies, by the methods that measured it.
        co2e_g: that energy times PUE times carbon intensity.
        co2e_bounds_g: the same of the bounds.
        duration_s: of the metered interval.
        energy_kwh_by_component: ``cpu``, ``gpu``, ``dram``.
        method_by_component: how each was measured.
        unit: what the windows count.
        num_units: units of all windows.
        energy_kwh_per_unit: run value.
        energy_kwh_per_unit_std: sample std of the per-unit window values.
        co2e_g_per_unit: run value.
        intensity: with its region, period and set.
        pue: facility energy over IT energy.
        defaulted: settings that nobody chose.
        attribution: what of a shared node is counted.
        other_cpu_fraction: share of the node's CPU that other processes used meanwhile.
        children: metered runs inside this one; their energy is part of its own.
        trainings: runs that this one set off, and those that they did; their energy comes on top.
        changes: what would have been cheaper, the best first.
        problem: what could not be measured.
        where: the address of the run in MLflow's UI, and how to get there.
        all_runs: that of the experiment's runs, with their CO2e as columns.
    """

    run_id: str
    name: str | None = None
    energy_kwh: float | None = None
    energy_bounds: Bounds | None = None
    co2e_g: float | None = None
    co2e_bounds_g: tuple[float, float] | None = None
    duration_s: float | None = None
    energy_kwh_by_component: Mapping[str, float] = field(default_factory=dict)
    method_by_component: Mapping[str, str] = field(default_factory=dict)
    unit: str | None = None
    num_units: float | None = None
    energy_kwh_per_unit: float | None = None
    energy_kwh_per_unit_std: float | None = None
    co2e_g_per_unit: float | None = None
    intensity: CarbonIntensity | None = None
    pue: float | None = None
    defaulted: tuple[str, ...] = ()
    attribution: str | None = None
    other_cpu_fraction: float | None = None
    children: Part = Part()
    trainings: Part = Part()
    changes: tuple[Change, ...] = ()
    problem: str | None = None
    where: str | None = None
    all_runs: str | None = None

    def __str__(self) -> str:
        """Returns the receipt."""
        return "\n".join(receipt_lines(self))

    def __repr__(self) -> str:
        """Returns the cost in a line."""
        return f"<{type(self).__name__} {shown(_cost(self))}, run {self.run_id}>"

    def _repr_html_(self) -> str:
        """Returns a small table, for notebooks."""
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(shown(text))}</td></tr>"
            for name, text in _rows(self)
        )
        return f"<table>{rows}</table>"


def footprint_of(record: RunRecord) -> RunFootprint:
    """Returns the cost of a run, from its record."""
    total, description = record.total, record.description
    energy_kwh = None if total is None else total.energy_kwh
    by_component = {} if total is None else dict(total.energy_kwh_by_component)
    methods = {} if description is None else dict(description.method_by_component)
    bounds = None if energy_kwh is None else bounds_of(by_component, methods)
    per_unit = record.energy_per_unit.get(record.unit or "")
    price = _price(record)
    return RunFootprint(
        run_id=record.run_id,
        energy_kwh=energy_kwh,
        energy_bounds=bounds,
        co2e_g=record.co2e_g,
        co2e_bounds_g=_priced(bounds, record),
        duration_s=None if total is None else total.duration_s,
        energy_kwh_by_component=by_component,
        method_by_component=methods,
        unit=record.unit,
        num_units=record.num_units,
        energy_kwh_per_unit=None if per_unit is None else per_unit.energy_kwh,
        energy_kwh_per_unit_std=None if per_unit is None else per_unit.std_kwh,
        co2e_g_per_unit=None if per_unit is None or price is None else per_unit.energy_kwh * price,
        intensity=record.intensity,
        pue=record.pue,
        defaulted=record.defaulted,
        attribution=None if description is None else description.attribution,
        problem=record.error
        or (" ".join(description.problems) if description and description.problems else None),
    )


def receipt_lines(footprint: RunFootprint, *, columns: int | None = None) -> list[str]:
    """Returns the receipt: four lines at most, without line breaks or escapes of others in them.

    Args:
        footprint: what the run cost.
        columns: width of the terminal, which each line but that of addresses fits by shorter
            words; ``None`` where there is none.
    """
    cost = (_cost(footprint), _cost(footprint, is_short=True))
    lines = [fitted_line(f"{_HEAD}: ", [cost, *_belonging(footprint)], columns=columns)]
    if footprint.energy_kwh is not None:
        lines.append(fitted_line("  ", list(_how(footprint)), columns=columns))
        if footprint.changes:
            best, *more = map(_change, footprint.changes)
            changes: list[Piece] = [(best,), *((change, "") for change in more)]
            lines.append(fitted_line("  cheaper: ", changes, columns=columns))
    if footprint.where is not None:
        others = "" if footprint.all_runs is None else f" · all runs: {footprint.all_runs}"
        lines.append(f"  {footprint.where}{others}")
    return [shown(line) for line in lines]


def changes_text(changes: Iterable[Change]) -> str:
    """Returns changes and what each saves: ``in Sweden −92 % · 20 steps up to −90 %``."""
    return " · ".join(map(_change, changes))


def _price(record: RunRecord) -> float | None:
    """Returns g of CO2e for a kWh of IT energy."""
    if record.pue is None or record.intensity is None:
        return None
    return record.pue * record.intensity.g_per_kwh


def _priced(bounds: Bounds | None, record: RunRecord) -> tuple[float, float] | None:
    if bounds is None or record.pue is None or record.intensity is None:
        return None
    low_g, high_g = (
        co2e_g(kwh, pue=record.pue, intensity_g_per_kwh=record.intensity.g_per_kwh)
        for kwh in (bounds.low_kwh, bounds.high_kwh)
    )
    return low_g, high_g


def _cost(footprint: RunFootprint, *, is_short: bool = False) -> str:
    """Returns CO2e and energy, how far both may be off, and unless short the time they took."""
    if footprint.energy_kwh is None:
        return f"no energy measured: {(footprint.problem or 'no device answered').rstrip('.')}"
    amounts = [] if footprint.co2e_g is None else [f"{mass_text(footprint.co2e_g)} CO2e"]
    cost = " · ".join([*amounts, energy_text(footprint.energy_kwh)]) + _error_text(footprint)
    if footprint.duration_s is None or is_short:
        return cost
    return f"{cost} in {duration_text(footprint.duration_s)}"


def _error_text(footprint: RunFootprint, *, each: str = "each ") -> str:
    """Returns the uncertainty of energy and CO2e as text: `` (each ± 5 %)``."""
    bounds, energy_kwh = footprint.energy_bounds, footprint.energy_kwh
    if bounds is None or not energy_kwh or bounds.low_kwh == bounds.high_kwh:
        return ""
    below, above = (100 * abs(kwh / energy_kwh - 1) for kwh in (bounds.low_kwh, bounds.high_kwh))
    if round(below) == round(above):
        return f" ({each}± {above:.0f} %)"
    return f" ({each}−{below:.0f} to +{above:.0f} %)"


def _bounds_text(footprint: RunFootprint) -> str:
    if footprint.co2e_bounds_g is None:
        return ""
    low_g, high_g = footprint.co2e_bounds_g
    return "" if low_g == high_g else f" ({mass_text(low_g)} to {mass_text(high_g)})"


def _belonging(footprint: RunFootprint) -> Iterator[Piece]:
    """Yields whose the cost is, and what other runs are in it or come on top."""
    if footprint.name:
        name = f"run {shown(footprint.name, max_chars=MAX_NAME_CHARS)}"
        yield name, name, ""
    children, trainings = footprint.children, footprint.trainings
    if children.num_runs:
        text = _runs(children.num_runs, "child run")
        yield f"{text} included", f"with {text}"
    if trainings.num_runs:
        added, more = _runs(trainings.num_runs, "training"), mass_text(trainings.co2e_g)
        yield f"its {added}: {more} more", f"+ {more} of training"


def _runs(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _how(footprint: RunFootprint) -> Iterator[Piece]:
    """Yields how the energy was measured, how it was priced and what a unit took."""
    components = [
        (component, method)
        for component, method in footprint.method_by_component.items()
        if component in footprint.energy_kwh_by_component
    ]
    if components:
        yield (
            ", ".join(
                f"{part.upper()} {_method(part, how, footprint)}" for part, how in components
            ),
            ", ".join(f"{part.upper()} {METHOD_WORDS.get(how, how)}" for part, how in components),
        )
    if (footprint.other_cpu_fraction or 0.0) > NOTABLE_FRACTION:
        percent = f"{100 * (footprint.other_cpu_fraction or 0.0):.0f} %"
        short = f"others {percent} of CPU"
        yield f"others used {percent} of the CPU", short, short, short, short, ""
    if footprint.intensity is not None and footprint.pue is not None:
        label, price = (
            footprint.intensity.label,
            f"{footprint.intensity.label}, PUE {footprint.pue:g}",
        )
        is_default = "region" in footprint.defaulted
        short = f"{price} (default)" if is_default else price
        yield f"{price}{_unchosen(footprint)}", short, price, price, label
    if footprint.unit not in (None, keys.UNIT_MINUTE) and footprint.energy_kwh_per_unit is not None:
        amount = f"{energy_text(footprint.energy_kwh_per_unit)} per {footprint.unit}"
        yield _per_unit(footprint), amount, amount, ""


def _method(component: str, method: str, footprint: RunFootprint) -> str:
    how = METHOD_WORDS.get(method, method)
    is_share = component == "cpu" and footprint.attribution == _SHARE
    return f"{how} (this process's share)" if is_share else how


def _unchosen(footprint: RunFootprint) -> str:
    return " (region is a default)" if "region" in footprint.defaulted else ""


def _per_unit(footprint: RunFootprint) -> str:
    assert footprint.energy_kwh_per_unit is not None
    amount = energy_text(footprint.energy_kwh_per_unit)
    std_kwh = footprint.energy_kwh_per_unit_std
    if std_kwh and footprint.energy_kwh_per_unit:
        amount += f" ± {100 * std_kwh / footprint.energy_kwh_per_unit:.2g} %"
    return f"{amount} per {footprint.unit}"


def _change(change: Change) -> str:
    most = "up to " if change.is_at_most else ""
    return f"{change.text} {most}{change_text(change.saving_fraction)}"


def _rows(footprint: RunFootprint) -> Iterator[tuple[str, str]]:
    """Yields name and text of each row of the table for notebooks."""
    if footprint.energy_kwh is None:
        yield "energy", _cost(footprint)
    else:
        if footprint.co2e_g is not None:
            yield "CO2e", mass_text(footprint.co2e_g) + _bounds_text(footprint)
        yield "energy", energy_text(footprint.energy_kwh) + _error_text(footprint, each="")
        for component, energy_kwh in footprint.energy_kwh_by_component.items():
            method = footprint.method_by_component.get(component, "")
            how = _method(component, method, footprint)
            yield component.upper(), f"{energy_text(energy_kwh)} {how}".rstrip()
        if footprint.unit is not None and footprint.energy_kwh_per_unit is not None:
            text = _per_unit(footprint).removesuffix(f" per {footprint.unit}")
            yield f"per {footprint.unit}", text
        if footprint.intensity is not None and footprint.pue is not None:
            yield "price", f"{footprint.intensity.label}, PUE {footprint.pue:g}"
        if footprint.changes:
            yield "cheaper", changes_text(footprint.changes)
    yield "run", footprint.where or footprint.run_id
