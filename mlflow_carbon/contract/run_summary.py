"""The few figures of a run that a comparison needs, read from a hundred thousand runs in a row."""

from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import MAX_AMOUNT
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import MAX_COVERAGE_FRACTION, Total
from mlflow_carbon.errors import BadRecordError
from mlflow_carbon.units import grams_from_kg

_VERSION_1 = "1"
_NUM_KEPT = 4096  # texts of tags that are kept, as the runs of a kind share theirs

Derived = TypeVar("Derived")


class PerTags(Generic[Derived]):
    """What follows from tags, kept for the runs that share one and the same mapping of them."""

    def __init__(self, derive: Callable[[Mapping[str, str]], Derived]) -> None:
        """Starts with nothing kept.

        Args:
            derive: returns what follows from the tags.
        """
        self._derive = derive
        # the tags are kept beside it, so that no other mapping gets their id
        self._kept: dict[int, tuple[Mapping[str, str], Derived]] = {}

    def of(self, tags: Mapping[str, str]) -> Derived:
        """Returns what follows from these tags."""
        kept = self._kept.get(id(tags))
        if kept is None:
            if len(self._kept) >= _NUM_KEPT:
                self._kept.clear()
            kept = self._kept[id(tags)] = (tags, self._derive(tags))
        return kept[1]


class RunSummary(NamedTuple):
    """A run's figures in kWh, s, g and g/kWh, as in its record; ``None`` where not recorded.

    ``energy_kwh_per_unit`` and its spread are of the run's own unit.
    """

    energy_kwh: float | None = None
    duration_s: float | None = None
    co2e_g: float | None = None
    coverage_fraction: float | None = None
    pue: float | None = None
    intensity_g_per_kwh: float | None = None
    num_units: float | None = None
    num_windows: float | None = None
    num_distinct_readings: float | None = None
    energy_kwh_per_unit: float | None = None
    energy_kwh_per_unit_std_within: float | None = None

    @classmethod
    def of(cls, record: RunRecord) -> "RunSummary":
        """Returns the summary of a record."""
        total = record.total or Total(None)
        per_unit = record.energy_per_unit.get(record.unit or "")
        return cls(
            total.energy_kwh,
            total.duration_s,
            record.co2e_g,
            total.coverage_fraction,
            record.pue,
            None if record.intensity is None else record.intensity.g_per_kwh,
            record.num_units,
            record.num_windows,
            record.num_distinct_readings,
            None if per_unit is None else per_unit.energy_kwh,
            None if per_unit is None else per_unit.std_kwh,
        )


class SummaryReader:
    """Reads the summaries of many runs; what is in tags that runs share is read once."""

    def __init__(self) -> None:
        """Starts without runs."""
        self._records = PerTags(_record_of_tags)

    def read(
        self, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> RunSummary:
        """Returns ``RunSummary.of(RunRecord.parse(run_id, metrics, tags))``, only sooner.

        Version 1 never changes, and has a metric for each figure. So a record of its tags alone,
        with the figures that are metrics put in, is the run's, if no figure is impossible.

        Raises:
            BadRecordError: a figure is one that no run can have measured.
        """
        record = self._records.of(tags)
        if record is None or not _are_possible(metrics):
            return RunSummary.of(RunRecord.parse(run_id, metrics, tags))
        get = metrics.get
        energy_kwh, duration_s, mass_g = (
            get(keys.ENERGY_KWH),
            get(keys.DURATION_S),
            get(keys.CO2E_G),
        )
        if mass_g is None and keys.CO2E_KG in metrics:
            mass_g = grams_from_kg(metrics[keys.CO2E_KG])
        has_total = energy_kwh is not None or duration_s is not None
        intensity, unit = record.intensity, record.unit
        per_unit = None if unit is None else keys.energy_kwh_per_unit(unit)
        per_unit_kwh = None if per_unit is None else get(per_unit)
        return RunSummary(
            energy_kwh,
            duration_s,
            mass_g,
            get(keys.COVERAGE_FRACTION) if has_total else None,
            get(keys.PUE, record.pue),
            get(keys.INTENSITY_G_PER_KWH, None if intensity is None else intensity.g_per_kwh),
            record.num_units,
            record.num_windows,
            record.num_distinct_readings,
            per_unit_kwh,
            None if per_unit is None or per_unit_kwh is None else get(keys.std_of(per_unit)),
        )


def _record_of_tags(tags: Mapping[str, str]) -> RunRecord | None:
    """Returns a record without its metrics; ``None`` if these alone do not complete it."""
    if tags.get(keys.TAG_SCHEMA) != _VERSION_1:
        return None
    try:
        record = RunRecord.parse("", {}, tags)
    except BadRecordError:
        return None
    return None if record.parts else record


def _are_possible(metrics: Mapping[str, float]) -> bool:
    """Returns whether no figure can be one that ``RunRecord.parse`` refuses."""
    for value in metrics.values():
        if not 0.0 <= value <= MAX_AMOUNT:  # true for NaN too
            return False
    is_pue = MIN_PUE <= metrics.get(keys.PUE, MIN_PUE) <= MAX_PUE
    return is_pue and metrics.get(keys.COVERAGE_FRACTION, 0.0) <= MAX_COVERAGE_FRACTION
