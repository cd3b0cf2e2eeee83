"""One metered run as a store holds it: written to metrics and tags, and read from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE, co2e_g, facility_energy_kwh
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import SETTINGS, Assumptions
from mlflow_carbon.contract.figures import Figures
from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.totals import NodePart, Total, read_energy_per_unit, read_parts
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowColumns, without_overlap
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.units import grams_from_kg, kg_from_grams

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run


IS_PARTIAL, NOT_PARTIAL = "true", "false"  # "false": was partial, until the run was resumed


@dataclass(frozen=True)
class RunRecord:
    """One run's measurements, assumptions and methods; ``None`` or empty where not recorded.

    Attributes:
        run_id: MLflow's.
        scope: ``parent`` for a run whose energy contains that of metered child runs.
        total: of the whole metered interval.
        energy_per_unit: by unit, from the windows.
        co2e_g: as recorded; by Eq. 1 when written for the first time.
        pue: as recorded.
        intensity: as recorded.
        defaulted: settings that the user did not choose.
        fallback_reason: why the intensity is not the live one asked for.
        description: how the run was measured.
        error: what could not be measured.
        unit: what the windows count.
        num_units: units of all windows of ``unit``.
        num_windows: number of windows of ``unit``.
        num_distinct_readings: number of different mean powers of these windows.
        first_window_step: step of the first window of ``unit``; earlier windows count another.
        num_nodes: number of nodes, if more than one; 0 for a run on one node.
        missing_nodes: nodes whose energy is not in the total, or not all of it.
        parts: each node's figures, by its index.
        is_partial: whether the total is a lower bound: the sum of a killed run's windows.
        windows: windows of every unit; empty unless the histories of their series were given.
        total_end_ms: newest time stamp of the total; ``None`` unless its history was given.
    """

    run_id: str
    scope: str | None = None
    total: Total | None = None
    energy_per_unit: Mapping[str, UnitEnergy] = field(default_factory=dict)
    co2e_g: float | None = None
    pue: float | None = None
    intensity: CarbonIntensity | None = None
    defaulted: tuple[str, ...] = ()
    fallback_reason: str | None = None
    description: MeterDescription | None = None
    error: str | None = None
    unit: str | None = None
    num_units: float | None = None
    num_windows: int | None = None
    num_distinct_readings: int | None = None
    first_window_step: int = 1
    num_nodes: int = 0
    missing_nodes: tuple[str, ...] = ()
    parts: Mapping[int, NodePart] = field(default_factory=dict)
    is_partial: bool = False
    windows: Mapping[int, Window] = field(default_factory=dict)  # by step
    total_end_ms: int | None = None

    # Writing.

    def assuming(self, assumptions: Assumptions) -> "RunRecord":
        """Returns the record priced by these assumptions."""
        energy_kwh = None if self.total is None else self.total.energy_kwh
        g_per_kwh = assumptions.intensity.g_per_kwh
        mass_g = None
        if energy_kwh is not None:
            mass_g = co2e_g(energy_kwh, pue=assumptions.pue, intensity_g_per_kwh=g_per_kwh)
        return replace(
            self,
            co2e_g=mass_g,
            pue=assumptions.pue,
            intensity=assumptions.intensity,
            defaulted=assumptions.defaulted,
            fallback_reason=assumptions.fallback_reason,
        )

    def summing(self, windows: WindowColumns, unit: str) -> "RunRecord":
        """Returns the record with the sums of its windows of one unit, if it has windows."""
        if not len(windows):
            return self
        energy = windows.energy_per_unit()
        is_known = (
            energy is not None and self.total is not None and self.total.energy_kwh is not None
        )
        return replace(
            self,
            unit=unit,
            num_units=windows.num_units,
            num_windows=len(windows),
            num_distinct_readings=windows.num_distinct_readings,
            energy_per_unit={unit: energy} if is_known and energy is not None else {},
        )

    def metrics(self) -> dict[str, float]:
        """Returns the run's totals: energy by component and device, CO2e and the assumptions."""
        values = {} if self.total is None else self.total.metrics()
        energy_kwh = values.get(keys.ENERGY_KWH)
        if energy_kwh is not None and self.total is not None:
            values |= self.total.power_metrics() | self._assumed()
            if self.pue is not None:
                values[keys.FACILITY_ENERGY_KWH] = facility_energy_kwh(energy_kwh, self.pue)
            if self.co2e_g is not None:
                values[keys.CO2E_G] = self.co2e_g
                values[keys.CO2E_KG] = kg_from_grams(self.co2e_g)
        values |= self._per_unit_metrics()
        for index, part in self.parts.items():
            values |= part.metrics(index)
            if part.total is not None and part.total.energy_kwh is not None:
                values |= self._assumed()
        return values

    def tags(self) -> dict[str, str]:
        """Returns the tags that the run gets at its end."""
        tags = {keys.TAG_SCHEMA: keys.SCHEMA_VERSION}
        if self.scope is not None:
            tags[keys.TAG_SCOPE] = self.scope
        if self.intensity is not None and self.pue is not None:
            assumptions = Assumptions(
                self.intensity, self.pue, self.defaulted, self.fallback_reason
            )
            tags |= assumptions.tags() | assumptions.default_tags()
        if self.error is not None:
            tags[keys.TAG_ERROR] = self.error
        tags |= {} if self.description is None else self.description.tags()
        tags |= self.window_tags()
        tags |= self.node_tags()
        return tags | self.partial_tags()

    def partial_tags(self) -> dict[str, str]:
        """Returns the tag of a total that is a lower bound; empty for a complete total."""
        return {keys.TAG_PARTIAL: IS_PARTIAL} if self.is_partial else {}

    def node_tags(self) -> dict[str, str]:
        """Returns the tags of a run on several nodes; empty for a run on one node."""
        tags = {} if not self.num_nodes else {keys.TAG_NUM_NODES: str(self.num_nodes)}
        if self.missing_nodes:
            tags[keys.TAG_MISSING_NODES] = ",".join(self.missing_nodes)
        for index, part in self.parts.items():
            tags |= part.tags(index)
        return tags

    def window_tags(self) -> dict[str, str]:
        """Returns the tags with the numbers of windows and units behind the per-unit figures."""
        tags = {} if self.unit is None else {keys.TAG_UNIT: self.unit}
        if self.first_window_step > 1:
            tags[keys.TAG_FIRST_WINDOW_STEP] = str(self.first_window_step)
        if self.num_units is not None:
            tags[keys.TAG_NUM_UNITS] = f"{self.num_units:g}"
        if self.num_windows is not None:
            tags[keys.TAG_NUM_WINDOWS] = str(self.num_windows)
        if self.num_distinct_readings is not None:
            tags[keys.TAG_NUM_DISTINCT_READINGS] = str(self.num_distinct_readings)
        return tags

    def _assumed(self) -> dict[str, float]:
        pue = {} if self.pue is None else {keys.PUE: self.pue}
        if self.intensity is None:
            return pue
        return {keys.INTENSITY_G_PER_KWH: self.intensity.g_per_kwh, **pue}

    def _per_unit_metrics(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for unit, energy in self.energy_per_unit.items():
            figures = {"": energy.energy_kwh}
            if energy.std_kwh is not None:
                figures["_std"] = energy.std_kwh
            for suffix, energy_kwh in figures.items():
                values[keys.energy_kwh_per_unit(unit) + suffix] = energy_kwh
                if self.pue is not None and self.intensity is not None:
                    mass_g = energy_kwh * (self.pue * self.intensity.g_per_kwh)
                    values[keys.co2e_g_per_unit(unit) + suffix] = mass_g
        return values

    # Reading.

    @classmethod
    def read(
        cls, run: "Run", histories: Mapping[str, Sequence["Metric"]] = {}
    ) -> "RunRecord":  # read only
        """Returns the record of an MLflow run.

        Args:
            run: metered or not.
            histories: of the window series, for ``windows``; of the duration, for
                ``total_end_ms``.

        Raises:
            BadRecordError: a figure is one that no run can have measured.
        """
        return cls.parse(run.info.run_id, run.data.metrics, run.data.tags, histories)

    @classmethod
    def parse(
        cls,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        histories: Mapping[str, Sequence["Metric"]] = {},  # read only
    ) -> "RunRecord":
        """Returns the record in a run's metrics and tags, wherever they come from; see ``read``."""
        figures = Figures(run_id, metrics, tags)
        unit = tags.get(keys.TAG_UNIT)
        first_step = figures.tagged_count(keys.TAG_FIRST_WINDOW_STEP) or 1
        windows: dict[int, Window] = {}
        ends: list[int] = []
        if histories:
            windows = Window.read(figures, histories, unit=unit, first_step=first_step)
            ends = [end_ms for _, end_ms in figures.points(keys.DURATION_S, histories).values()]
        missing = tags.get(keys.TAG_MISSING_NODES)
        return cls(
            run_id=run_id,
            scope=tags.get(keys.TAG_SCOPE),
            total=Total.read(figures),
            energy_per_unit=read_energy_per_unit(figures),
            co2e_g=_co2e_g(figures),
            pue=_pue(figures),
            intensity=_intensity(figures),
            defaulted=tuple(name for name in SETTINGS if keys.default_tag(name) in tags),
            fallback_reason=tags.get(keys.TAG_INTENSITY_FALLBACK),
            description=MeterDescription.read(tags),
            error=tags.get(keys.TAG_ERROR),
            unit=unit,
            num_units=figures.tagged_amount(keys.TAG_NUM_UNITS),
            num_windows=figures.tagged_count(keys.TAG_NUM_WINDOWS),
            num_distinct_readings=figures.tagged_count(keys.TAG_NUM_DISTINCT_READINGS),
            first_window_step=first_step,
            num_nodes=figures.tagged_count(keys.TAG_NUM_NODES) or 0,
            missing_nodes=tuple(missing.split(",")) if missing else (),
            parts=read_parts(figures),
            is_partial=tags.get(keys.TAG_PARTIAL) == IS_PARTIAL,
            windows=windows,
            total_end_ms=max(ends, default=None),
        )

    def or_lower_bound(self) -> "RunRecord":
        """Returns the record; if it has no total, with the sum of its windows as a lower bound.

        A killed run has windows and no total. Of windows that overlap only one counts.
        """
        has_total = self.total is not None and self.total.energy_kwh is not None
        if has_total or not self.windows:
            return self
        summed = without_overlap(list(self.windows.values()))
        mass_g = None
        total = Total.of_windows(summed)
        if self.pue is not None and self.intensity is not None and total.energy_kwh is not None:
            mass_g = co2e_g(
                total.energy_kwh, pue=self.pue, intensity_g_per_kwh=self.intensity.g_per_kwh
            )
        end_ms = max(round(window.end_unix_s * 1000) for window in self.windows.values())
        record = replace(self, total=total, co2e_g=mass_g, is_partial=True, total_end_ms=end_ms)
        newest = [window for window in self.windows.values() if window.unit is not None]
        return record.summing(WindowColumns(newest), self.unit) if self.unit else record


def _co2e_g(figures: Figures) -> float | None:
    mass_g, mass_kg = figures.amount(keys.CO2E_G), figures.amount(keys.CO2E_KG)
    return grams_from_kg(mass_kg) if mass_g is None and mass_kg is not None else mass_g


def _pue(figures: Figures) -> float | None:
    """Returns the PUE logged with the totals; before there are totals, the PUE of the start."""
    pue = figures.amount(keys.PUE, MIN_PUE, MAX_PUE)
    return figures.tagged_amount(keys.TAG_PUE, MIN_PUE, MAX_PUE) if pue is None else pue


def _intensity(figures: Figures) -> CarbonIntensity | None:
    """Returns the intensity as recorded; its source is empty where the run does not name it."""
    g_per_kwh = figures.amount(keys.INTENSITY_G_PER_KWH)
    if g_per_kwh is None:
        g_per_kwh = figures.tagged_amount(keys.TAG_INTENSITY_G_PER_KWH)
    if g_per_kwh is None:
        return None
    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        region=figures.tags.get(keys.TAG_REGION, ""),
        period=figures.tags.get(keys.TAG_PERIOD, ""),
        intensity_set=figures.tags.get(keys.TAG_INTENSITY_SET, ""),
        basis=figures.tags.get(keys.TAG_INTENSITY_BASIS, ""),
        source=figures.tags.get(keys.TAG_INTENSITY_SOURCE, ""),
        source_url="",
        licence="",
    )
