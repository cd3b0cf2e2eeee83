"""The few figures of a run that a comparison needs, read from a hundred thousand runs in a row."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from mlflow_carbon.accounting.emissions import MAX_PUE, MIN_PUE
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import MAX_AMOUNT, MAX_COUNT, MAX_TIME_MS
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import (
    COVERAGE,
    DURATION,
    ENDED,
    ENERGY,
    MAX_COVERAGE_FRACTION,
    STD,
    Total,
)
from mlflow_carbon.errors import BadRecordError
from mlflow_carbon.units import grams_from_kg

# Tags with figures of a run's own, which runs of a kind do not share.
_COUNT_TAGS = (keys.TAG_NUM_UNITS, keys.TAG_NUM_WINDOWS, keys.TAG_NUM_DISTINCT_READINGS)
_TOTAL_TAGS = (keys.TAG_TOTAL, keys.TAG_ENERGY_KWH_PER_UNIT)
FIGURE_TAGS = (*_TOTAL_TAGS, *_COUNT_TAGS)
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
        """Returns the value that is derived from these tags."""
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
        self,
        run_id: str,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        figure_tags: Mapping[str, str] = {},  # read only
    ) -> RunSummary:
        """Returns ``RunSummary.of(RunRecord.parse(run_id, metrics, all_tags))``, only sooner.

        A record of the shared tags alone, with the run's own figures put in, is the run's, if no
        figure is impossible. Version 1 has a metric for each figure, version 2 two tags.

        Args:
            run_id: MLflow's.
            metrics: of the run, the newest of each.
            tags: of the run, but those of ``FIGURE_TAGS``.
            figure_tags: those of ``FIGURE_TAGS``.

        Raises:
            BadRecordError: a figure is one that no run can have measured.
        """
        record = self._records.of(tags)
        summary = None
        if record is not None and _are_possible(metrics):
            of_version = _version_1 if tags[keys.TAG_SCHEMA] == _VERSION_1 else _version_2
            summary = of_version(record, metrics, figure_tags)
        if summary is None:
            return RunSummary.of(RunRecord.parse(run_id, metrics, {**tags, **figure_tags}))
        return summary


def _record_of_tags(tags: Mapping[str, str]) -> RunRecord | None:
    """Returns a record without its own figures; ``None`` if these alone do not complete it."""
    if tags.get(keys.TAG_SCHEMA) not in (_VERSION_1, keys.SCHEMA_VERSION):
        return None
    try:
        record = RunRecord.parse("", {}, tags)
    except BadRecordError:
        return None
    return None if record.parts else record


def _version_1(
    record: RunRecord, metrics: Mapping[str, float], figure_tags: Mapping[str, str]
) -> RunSummary | None:
    """Returns the summary of a run of version 1; ``None`` if it has tags of version 2."""
    if any(tag in figure_tags for tag in _TOTAL_TAGS):
        return None
    counts = _counts(*map(figure_tags.get, _COUNT_TAGS))
    if counts is None:
        return None
    get = metrics.get
    energy_kwh, duration_s = get(keys.ENERGY_KWH), get(keys.DURATION_S)
    has_total = energy_kwh is not None or duration_s is not None
    intensity, unit = record.intensity, record.unit
    per_unit = None if unit is None else keys.energy_kwh_per_unit(unit)
    per_unit_kwh = None if per_unit is None else get(per_unit)
    return RunSummary(
        energy_kwh,
        duration_s,
        _co2e_g(metrics),
        get(keys.COVERAGE_FRACTION) if has_total else None,
        get(keys.PUE, record.pue),
        get(keys.INTENSITY_G_PER_KWH, None if intensity is None else intensity.g_per_kwh),
        *counts,
        per_unit_kwh,
        None if per_unit is None or per_unit_kwh is None else get(keys.std_of(per_unit)),
    )


def _version_2(
    record: RunRecord, metrics: Mapping[str, float], figure_tags: Mapping[str, str]
) -> RunSummary | None:
    """Returns the summary of a run of version 2; ``None`` where only the whole record tells."""
    text, per_unit_text = map(figure_tags.get, _TOTAL_TAGS)
    if text is None or per_unit_text is None:
        return None
    total, energies = _total(text), _energies(per_unit_text, record.unit)
    counts = _counts(*map(figure_tags.get, _COUNT_TAGS))
    if total is None or energies is None or counts is None:
        return None
    intensity = record.intensity
    g_per_kwh = metrics.get(keys.INTENSITY_G_PER_KWH) if intensity is None else intensity.g_per_kwh
    energy_kwh, duration_s, coverage_fraction = total
    return RunSummary(
        energy_kwh,
        duration_s,
        _co2e_g(metrics),
        coverage_fraction,
        metrics.get(keys.PUE) if record.pue is None else record.pue,
        g_per_kwh,
        *counts,
        *energies,
    )


@lru_cache(maxsize=_NUM_KEPT)
def _counts(
    num_units: str | None, num_windows: str | None, num_readings: str | None
) -> tuple[float | None, float | None, float | None] | None:
    """Returns units, windows and distinct readings as numbers; ``None`` if in doubt."""
    counts: list[float | None] = []
    for text in (num_windows, num_readings):
        if text is not None and not _is_count(text, MAX_COUNT):
            return None
        counts.append(None if text is None else int(text))
    if num_units is None:
        return None, counts[0], counts[1]
    try:
        units = float(num_units)
    except ValueError:
        return None
    return (units, counts[0], counts[1]) if 0.0 <= units <= MAX_AMOUNT else None  # None for NaN too


def _total(text: str) -> tuple[float | None, float | None, float | None] | None:
    """Returns energy in kWh, duration in s and coverage of an ended run; ``None`` if in doubt."""
    state, _, rest = text.partition(" ")
    end_ms, _, described = rest.partition(" ")
    if state != ENDED or not _is_count(end_ms, MAX_TIME_MS) or not described:
        return None
    words = _words(described)
    if words is None or words.get(COVERAGE, 0.0) > MAX_COVERAGE_FRACTION:
        return None
    return words.get(ENERGY), words.get(DURATION), words.get(COVERAGE)


def _energies(text: str, unit: str | None) -> tuple[float | None, float | None] | None:
    """Returns energy per unit and its spread, in kWh; ``None`` if in doubt."""
    words = _words(text)
    if words is None or (unit or "").endswith(STD):
        return None
    energy_kwh = words.get(unit or "")
    return energy_kwh, None if energy_kwh is None else words.get(f"{unit}{STD}")


def _words(text: str) -> dict[str, float] | None:
    """Returns amounts by name, as ``Figures.words`` does; ``None`` if it would refuse one."""
    found = {}
    for word in text.split(" "):
        name, _, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            return None
        if not 0.0 <= value <= MAX_AMOUNT:  # true for NaN too
            return None
        if "/" in name and not _is_count(name.partition("/")[2], MAX_COUNT):
            return None
        found[name] = value
    return found


def _is_count(text: str, highest: int) -> bool:
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(highest))
    return is_number and int(text) <= highest


def _co2e_g(metrics: Mapping[str, float]) -> float | None:
    mass_g, mass_kg = metrics.get(keys.CO2E_G), metrics.get(keys.CO2E_KG)
    return grams_from_kg(mass_kg) if mass_g is None and mass_kg is not None else mass_g


def _are_possible(metrics: Mapping[str, float]) -> bool:
    """Returns whether no figure can be one that ``RunRecord.parse`` refuses."""
    for value in metrics.values():
        if not 0.0 <= value <= MAX_AMOUNT:  # true for NaN too
            return False
    is_pue = MIN_PUE <= metrics.get(keys.PUE, MIN_PUE) <= MAX_PUE
    return is_pue and metrics.get(keys.COVERAGE_FRACTION, 0.0) <= MAX_COVERAGE_FRACTION
