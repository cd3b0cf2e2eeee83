"""One metered run as a store holds it: written to metrics and tags, and read from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE, co2e_g
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import SETTINGS, Assumptions
from mlflow_carbon.contract.curves import read_curves
from mlflow_carbon.contract.figures import Figures, worded
from mlflow_carbon.contract.measurement import MeterDescription
from mlflow_carbon.contract.totals import (
    ENDED,
    RUNNING,
    NodePart,
    Total,
    energy_per_unit_tags,
    read_energy_per_unit,
    read_parts,
)
from mlflow_carbon.contract.windows import UnitEnergy, Window, WindowColumns, without_overlap
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, grams_from_kg

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run


IS_PARTIAL, NOT_PARTIAL = "true", "false"  # "false": was partial, until the run was resumed
_PART_START = "part_start_ms"


@dataclass(frozen=True)
class RunRecord:
    """One run's measurements, assumptions and methods; ``None`` or empty where not recorded.

    Attributes:
        run_id: MLflow's.
        scope: ``parent`` for a run whose energy contains that of metered child runs.
        total: of the whole metered interval; ``None`` while the metering goes on.
        so_far: of the interval up to the newest window, while the metering goes on.
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
        total_end_ms: newest time stamp of ``total`` or ``so_far``; ``None`` for a run of version 1
            unless the history of its duration was given.
        part_start_ms: when the newest part of the run began to be metered.
        last_step: of the points of its windows and its total; 0 unless the histories were given.
    """

    run_id: str
    scope: str | None = None
    total: Total | None = None
    so_far: Total | None = None
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
    part_start_ms: int | None = None
    last_step: int = 0

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
        """Returns the newest points of the run's curves: energy, CO2e, CO2e per unit."""
        if self.total is None or self.total.energy_kwh is None:
            return {}
        values = {} if self.co2e_g is None else {keys.CO2E_G: self.co2e_g}
        values[keys.ENERGY_KWH] = self.total.energy_kwh
        per_unit = self.energy_per_unit.get(self.unit or "")
        if per_unit is None or self.unit is None or self.unit == keys.UNIT_MINUTE:
            return values
        if self.pue is not None and self.intensity is not None:
            g_per_kwh = self.pue * self.intensity.g_per_kwh
            values[keys.co2e_g_per_unit(self.unit)] = per_unit.energy_kwh * g_per_kwh
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
        tags |= self.total_tags()
        tags |= self.window_tags()
        tags |= self.node_tags()
        return tags | self.partial_tags()

    def total_tags(self) -> dict[str, str]:
        """Returns the tags of the total and of the energy per unit, in full precision."""
        state, total = (ENDED, self.total) if self.total is not None else (RUNNING, self.so_far)
        if total is None:
            return {}
        words = {} if self.part_start_ms is None else {_PART_START: self.part_start_ms}
        text = f"{state} {self.total_end_ms or 0} {worded(words | total.words())}".rstrip()
        return {keys.TAG_TOTAL: text, **energy_per_unit_tags(self.energy_per_unit)}

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

    # Reading.

    @classmethod
    def read(
        cls, run: "Run", histories: Mapping[str, Sequence["Metric"]] = {}
    ) -> "RunRecord":  # read only
        """Returns the record of an MLflow run.

        Args:
            run: metered or not.
            histories: of ``store.run_records.keys_of_histories``, for ``windows`` and, in version
                1, for ``total_end_ms``.

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
        pue, intensity = _pue(figures), _intensity(figures)
        found = _totals(figures)
        windows: dict[int, Window] = {}
        ends = [] if found.end_ms is None else [found.end_ms]
        if histories:
            windows = Window.read(figures, histories, unit=unit, first_step=first_step)
            windows |= read_curves(
                figures,
                histories,
                unit=unit,
                first_step=first_step,
                g_per_kwh=None if pue is None or intensity is None else pue * intensity.g_per_kwh,
                before=[window for window in windows.values() if window.unit is not None],
            )
            if keys.TAG_TOTAL not in tags:
                ends = [ms for _, ms in figures.points(keys.DURATION_S, histories).values()]
        missing = tags.get(keys.TAG_MISSING_NODES)
        return cls(
            run_id=run_id,
            scope=tags.get(keys.TAG_SCOPE),
            total=found.total,
            so_far=found.so_far,
            energy_per_unit=read_energy_per_unit(figures),
            co2e_g=None if found.so_far is not None else _co2e_g(figures),
            pue=pue,
            intensity=intensity,
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
            part_start_ms=found.part_start_ms,
            last_step=max((point.step for it in histories.values() for point in it), default=0),
        )

    def or_lower_bound(self) -> "RunRecord":
        """Returns the record; if it has no total, with what is known so far as a lower bound.

        A killed run has its energy up to its last window, or in version 1 only its windows, of
        which those that overlap count once.
        """
        has_total = self.total is not None and self.total.energy_kwh is not None
        total, end_ms, windows = self.so_far, self.total_end_ms, list(self.windows.values())
        if has_total or not (windows or total):
            return self
        if total is None or total.energy_kwh is None:
            total = Total.of_windows(without_overlap(windows))
            ends_ms = [round(window.end_unix_s * MILLISECONDS_PER_SECOND) for window in windows]
            end_ms = max(ends_ms, default=end_ms)
        mass_g = None
        if self.pue is not None and self.intensity is not None and total.energy_kwh is not None:
            mass_g = co2e_g(
                total.energy_kwh, pue=self.pue, intensity_g_per_kwh=self.intensity.g_per_kwh
            )
        record = replace(
            self, total=total, so_far=None, co2e_g=mass_g, is_partial=True, total_end_ms=end_ms
        )
        newest = [window for window in self.windows.values() if window.unit is not None]
        return record.summing(WindowColumns(newest), self.unit) if self.unit else record


@dataclass(frozen=True)
class _Totals:
    """What the tag of the total says, or in version 1 the metrics."""

    total: Total | None = None
    so_far: Total | None = None
    end_ms: int | None = None
    part_start_ms: int | None = None


def _totals(figures: Figures) -> _Totals:
    text = figures.tags.get(keys.TAG_TOTAL)
    if text is None:
        is_of_version_1 = figures.tags.get(keys.TAG_SCHEMA) != keys.SCHEMA_VERSION
        has_total = is_of_version_1 or keys.DURATION_S in figures.metrics  # version 1 goes on
        return _Totals(Total.read(figures) if has_total else None)
    figures.amount(keys.ENERGY_KWH)  # refuses what no run can have measured
    state, _, rest = text.partition(" ")
    end_text, _, described = rest.partition(" ")
    end_ms = figures.time_ms(keys.TAG_TOTAL, end_text) or None
    words = figures.words(keys.TAG_TOTAL, described)
    part_start_ms = words.pop(_PART_START, None)
    start_ms = None if part_start_ms is None else int(part_start_ms)
    total = Total.of_words(figures, keys.TAG_TOTAL, words)
    if state == ENDED:
        return _Totals(total, None, end_ms, start_ms)
    return _Totals(None, total, end_ms, start_ms)


def _co2e_g(figures: Figures) -> float | None:
    mass_g, mass_kg = figures.amount(keys.CO2E_G), figures.amount(keys.CO2E_KG)
    return grams_from_kg(mass_kg) if mass_g is None and mass_kg is not None else mass_g


def _pue(figures: Figures) -> float | None:
    """Returns the PUE in the tag; in version 1 the metric logged with the totals comes first."""
    of_total = figures.amount(keys.PUE, MIN_PUE, MAX_PUE)
    of_start = figures.tagged_amount(keys.TAG_PUE, MIN_PUE, MAX_PUE)
    return _newest(figures, of_start, of_total)


def _newest(figures: Figures, tagged: float | None, metric: float | None) -> float | None:
    """Returns the tag of version 2; of version 1 the metric, and before there is one the tag."""
    if tagged is None or (metric is not None and keys.TAG_TOTAL not in figures.tags):
        return metric
    return tagged


def _intensity(figures: Figures) -> CarbonIntensity | None:
    """Returns the intensity as recorded; its source is empty where the run does not name it."""
    of_total = figures.amount(keys.INTENSITY_G_PER_KWH)
    of_start = figures.tagged_amount(keys.TAG_INTENSITY_G_PER_KWH)
    g_per_kwh = _newest(figures, of_start, of_total)
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
