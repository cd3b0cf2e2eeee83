"""Hourly carbon intensity from the user's own file, and its mean over a run's own time stamps."""

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.units import (
    SECONDS_PER_HOUR,
    g_per_kwh_from_pounds_per_mwh,
    unix_s_from_iso8601,
)

DIRECT, LIFECYCLE = "direct", "lifecycle"
BASES = (DIRECT, LIFECYCLE)
FILE_SET = "file"

_TIMESTAMP_NAMES = ("timestamp", "datetime", "time")
_INTENSITY_NAMES = ("g_per_kwh", "g/kwh", "intensity_g_per_kwh", "carbon_intensity_g_per_kwh")


@dataclass(frozen=True)
class Slot:
    """A stretch of time in s since 1970 (UTC) with one intensity."""

    start_s: float
    end_s: float
    g_per_kwh: float


@dataclass(frozen=True)
class IntensitySeries:
    """Slots in order of time, possibly with holes between them."""

    slots: tuple[Slot, ...]
    basis: str
    source: str


@dataclass(frozen=True)
class EnergySpan:
    """Energy that was spent at constant power between two times in s since 1970."""

    start_s: float
    end_s: float
    energy_kwh: float


@dataclass(frozen=True)
class _Format:
    """The columns of a file that hold time and intensity, and its factor to g/kWh."""

    timestamp: str
    intensity: str
    basis: str
    source: str
    to_g_per_kwh: Callable[[float], float]


def read_intensity_file(path: Path | str, *, basis: str = DIRECT) -> IntensitySeries:
    """Returns the intensities of a CSV file: our own format, or an export.

    - own: ``timestamp,g_per_kwh``; ISO 8601, UTC where no offset is given;
    - Electricity Maps: ``Datetime (UTC)`` and ``Carbon intensity gCO₂eq/kWh (direct)`` and
      ``(Life cycle)``, or ``(LCA)`` in older exports;
    - WattTime: ``point_time,value`` (v3) or ``timestamp,MOER`` (v2), pounds of CO2 per MWh of the
      marginal plants, which is another basis than the rest.

    A slot lasts until the next time stamp, but never longer than the file's shortest slot, so
    that a missing row leaves a hole instead of doubling the hour before it.

    Args:
        path: the file.
        basis: which column of an Electricity Maps export to take, ``direct`` or ``lifecycle``.

    Raises:
        InvalidInputError: the file cannot be read, lacks these columns, or has a wrong row.
    """
    if basis not in BASES:
        raise InvalidInputError(
            f"basis is {basis!r}; use one of {', '.join(BASES)}.", arguments=["intensity_basis"]
        )
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"The intensity file {str(path)!r} cannot be read: {error}.",
            arguments=["intensity_file"],
        ) from error
    reader = csv.DictReader(text.splitlines())
    layout = _format_of(list(reader.fieldnames or ()), basis, path)
    points = sorted(_points(reader, layout, path))
    return IntensitySeries(
        slots=tuple(slots_of(points, of=f"The intensity file {str(path)!r}")),
        basis=layout.basis,
        source=f"{layout.source} ({Path(path).name})",
    )


def mean_g_per_kwh(series: IntensitySeries, start_s: float, end_s: float) -> float:
    """Returns the mean intensity in g/kWh between two times in s since 1970, weighted by time.

    Raises:
        NoIntensityError: the series does not cover the whole interval.
        InvalidInputError: the end is before the start.
    """
    if not end_s >= start_s:
        raise InvalidInputError(f"The stretch from {time_text(start_s)} ends before it starts.")
    first = bisect_right(series.slots, start_s, key=lambda slot: slot.start_s) - 1
    if start_s == end_s:
        end_s = math.nextafter(start_s, math.inf)  # a moment lies in one slot
    covered_s, weighted = 0.0, 0.0
    reached_s = start_s
    for slot in series.slots[max(first, 0) :]:
        if slot.start_s >= end_s:
            break
        if slot.end_s <= start_s:
            continue
        if slot.start_s > reached_s:
            break
        part_s = min(slot.end_s, end_s) - max(slot.start_s, start_s)
        covered_s += part_s
        weighted += part_s * slot.g_per_kwh
        reached_s = slot.end_s
    if reached_s < end_s:
        raise NoIntensityError(
            f"The intensity file has nothing for {time_text(reached_s)}; it covers "
            f"{time_text(series.slots[0].start_s)} to {time_text(series.slots[-1].end_s)}"
            f"{_holes(series)}. Give a file that covers the run."
        )
    return weighted / covered_s


def intensity_of_spans(
    series: IntensitySeries, spans: Iterable[EnergySpan], *, region: str
) -> CarbonIntensity:
    """Returns the intensity of a run, each stretch of it weighted by its energy.

    Args:
        series: hourly intensities.
        spans: the run's windows, or the run as a whole, with their own time stamps.
        region: the place that the series is for, kept as the result's region.

    Raises:
        NoIntensityError: the series does not cover every span.
        InvalidInputError: there is no span, or an energy is negative or not finite.
    """
    listed = list(spans)
    if not listed:
        raise InvalidInputError("There is no measured stretch to weight the intensity by.")
    for span in listed:
        if not (math.isfinite(span.energy_kwh) and span.energy_kwh >= 0):
            raise InvalidInputError(
                f"energy_kwh is {span.energy_kwh} at {time_text(span.start_s)}; "
                "give a finite number, 0 or more."
            )
    total_kwh = math.fsum(span.energy_kwh for span in listed)
    means = [mean_g_per_kwh(series, span.start_s, span.end_s) for span in listed]
    if total_kwh > 0:
        weights = [span.energy_kwh / total_kwh for span in listed]
    else:
        weights = [1 / len(listed)] * len(listed)
    start_s = min(span.start_s for span in listed)
    end_s = max(span.end_s for span in listed)
    return CarbonIntensity(
        g_per_kwh=math.fsum(w * mean for w, mean in zip(weights, means, strict=True)),
        region=region,
        period=f"{time_text(start_s)}/{time_text(end_s)}",
        intensity_set=FILE_SET,
        basis=series.basis,
        source=series.source,
        source_url="",
        licence="",
    )


def slots_of(points: list[tuple[float, float]], *, of: str) -> Iterator[Slot]:
    """Yields the slots of intensities; each lasts until the next, but no longer than the shortest.

    Args:
        points: time in s since 1970 and intensity in g/kWh, in order of time.
        of: whose they are, as the subject of a sentence.

    Raises:
        InvalidInputError: there is no point, or two of one time.
    """
    if not points:
        raise InvalidInputError(f"{of} has no row with an intensity.")
    gaps_s = [after[0] - before[0] for before, after in pairwise(points)]
    shortest_s = min(gaps_s, default=SECONDS_PER_HOUR)
    if shortest_s == 0:
        twice = next(time for (time, _), gap in zip(points, gaps_s, strict=False) if gap == 0)
        raise InvalidInputError(
            f"{of} has {time_text(twice)} twice; give each time once, one region a file."
        )
    for start_s, g_per_kwh in points:
        yield Slot(start_s, start_s + shortest_s, g_per_kwh)


def _format_of(columns: list[str], basis: str, path: Path | str) -> _Format:
    by_name = {" ".join(column.split()).casefold(): column for column in columns}
    if "datetime (utc)" in by_name:
        wanted = ("(direct)",) if basis == DIRECT else ("(life cycle)", "(lca)")
        for name, column in by_name.items():
            if name.startswith("carbon intensity gco") and name.endswith(wanted):
                return _Format(
                    timestamp=by_name["datetime (utc)"],
                    intensity=column,
                    basis=f"consumption; {basis}",
                    source="Electricity Maps export",
                    to_g_per_kwh=lambda value: value,
                )
    for time_name, value_name in (("point_time", "value"), ("timestamp", "moer")):
        if time_name in by_name and value_name in by_name:
            return _Format(
                timestamp=by_name[time_name],
                intensity=by_name[value_name],
                basis="marginal; direct CO2",
                source="WattTime export",
                to_g_per_kwh=g_per_kwh_from_pounds_per_mwh,
            )
    for time_name in _TIMESTAMP_NAMES:
        for value_name in _INTENSITY_NAMES:
            if time_name in by_name and value_name in by_name:
                return _Format(
                    timestamp=by_name[time_name],
                    intensity=by_name[value_name],
                    basis="as given",
                    source="own file",
                    to_g_per_kwh=lambda value: value,
                )
    raise InvalidInputError(
        f"The intensity file {str(path)!r} has columns {', '.join(columns) or 'none'}; "
        "give timestamp,g_per_kwh, or an export of Electricity Maps or WattTime."
    )


def _points(
    reader: "csv.DictReader[str]", layout: _Format, path: Path | str
) -> Iterator[tuple[float, float]]:
    """Yields time in s since 1970 and intensity in g/kWh of every row with an intensity."""
    for row in reader:
        text = (row[layout.intensity] or "").strip()
        if not text:
            continue  # a hole: exports leave an unknown intensity empty
        place = f"line {reader.line_num} of {str(path)!r}"
        try:
            time_s = unix_s_from_iso8601((row[layout.timestamp] or "").strip())
            g_per_kwh = layout.to_g_per_kwh(float(text))
        except ValueError as error:
            raise InvalidInputError(
                f"In {place}: {error}. Give an ISO 8601 time and a number."
            ) from error
        if not (math.isfinite(g_per_kwh) and g_per_kwh >= 0):
            raise InvalidInputError(
                f"In {place}: the intensity is {text}; give a finite number, 0 or more."
            )
        yield time_s, g_per_kwh


def _holes(series: IntensitySeries) -> str:
    num_holes = sum(after.start_s > before.end_s for before, after in pairwise(series.slots))
    return f", with {num_holes} missing stretches" if num_holes else ""


def time_text(time_s: float) -> str:
    """Returns a time in s since 1970 as ``2022-02-01T13:00Z``."""
    moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=time_s)
    return moment.strftime("%Y-%m-%dT%H:%MZ")
