"""Carbon intensity of electricity by region and period, each value with its set and its source."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from mlflow_carbon.errors import InvalidInputError, NoIntensityError
from mlflow_carbon.grid.regions import OWN_FIGURE, region_label, resolve_region
from mlflow_carbon.shipped_tables import shipped_rows

YEARLY_FILE = "carbon_intensity_yearly.csv"
MONTHLY_FILE = "electricity_maps_monthly.csv"

DEFAULT_SET = "ember"
# Monthly figures come in two bases; the direct one is what the paper's Fig. 3b implies.
MONTHLY_SET_BY_BASIS = {
    "direct": "electricity_maps",
    "lifecycle": "electricity_maps_lifecycle",
}
MONTHLY_SETS = tuple(MONTHLY_SET_BY_BASIS.values())
FALLBACK_YEARLY_SETS = (DEFAULT_SET, "eea")
GIVEN = "given"  # set, period and basis of a figure that the user brings


@dataclass(frozen=True)
class CarbonIntensity:
    """One carbon intensity with its origin.

    Attributes:
        g_per_kwh: CO2e per kWh of electricity.
        region: ISO 3166-1 alpha-2, ``EU27`` or ``WORLD``.
        period: ``2022`` or ``2022-02``.
        intensity_set: the data set; figures of one set compare, figures of two sets may not.
        basis: direct or life-cycle, production or consumption.
        source: the publisher.
        source_url: address of the publication.
        licence: licence under which the package ships the figure.
    """

    g_per_kwh: float
    region: str
    period: str
    intensity_set: str
    basis: str
    source: str
    source_url: str
    licence: str

    @property
    def label(self) -> str:
        """The region with its figure, period and set: ``SE 35.8 g/kWh (2024, ember)``."""
        return price_label(
            self.region, self.g_per_kwh, period=self.period, intensity_set=self.intensity_set
        )


def price_label(
    region: str | None,
    g_per_kwh: float,
    *,
    period: str | None = None,
    intensity_set: str | None = None,
) -> str:
    """Returns a region beside its figure, period and set: ``SE 35.82 g/kWh (2024, ember)``.

    Args:
        region: a code or a name; ``None`` or empty where the user gave the figure alone.
        g_per_kwh: CO2e per kWh of electricity.
        period: a year, a month or other words; ``None`` or empty where it is not known.
        intensity_set: the data set; ``None`` or empty where it is not known.
    """
    origin = ", ".join(dict.fromkeys(it for it in (period, intensity_set) if it))
    return f"{region or GIVEN} {g_per_kwh:.4g} g/kWh" + (f" ({origin})" if origin else "")


def lookup_intensity(
    region: str,
    *,
    month: str | None = None,
    year: int | None = None,
    intensity_set: str | None = None,
    preferred_set: str = DEFAULT_SET,
) -> CarbonIntensity:
    """Returns the carbon intensity of a region in a year or month.

    Args:
        region: anything ``resolve_region`` takes.
        month: ``2022-02``, or a year: ``2022``; only the monthly sets have months.
        year: ``None`` takes the latest year of the set.
        intensity_set: look in this set only.
        preferred_set: look here first, then in the worldwide yearly sets.

    Raises:
        NoIntensityError: none of the sets searched has the region and period.
        InvalidInputError: ``month`` is no month and no year, or there is no such set.
    """
    code = resolve_region(region)
    _check_set(intensity_set)
    if month is not None and re.fullmatch(r"\d{4}", month):
        year, month = int(month), None
    if month is not None:
        return _monthly(code, _checked_month(month), intensity_set)
    if intensity_set in MONTHLY_SETS:
        raise NoIntensityError(
            f"The set {intensity_set!r} has months only. Give a month ({_known_months(code)}), "
            f"or another set."
        )
    sets = (intensity_set,) if intensity_set else (preferred_set, *FALLBACK_YEARLY_SETS)
    for name in sets:
        found = [
            value for value in _years_of(name, code) if year is None or value.period == str(year)
        ]
        if found:
            return max(found, key=lambda value: value.period)
    when = f" in {year}" if year else ""
    raise NoIntensityError(
        f"No carbon intensity for {code}{when} in {' or '.join(dict.fromkeys(sets))}. "
        f"Known: {_known_years(code)}.",
        instead=OWN_FIGURE,
    )


def check_lookup(
    regions: Iterable[str], *, month: str | None = None, intensity_set: str | None = None
) -> None:
    """Checks regions, a month and a set before the preferred set is known.

    Raises:
        NoIntensityError: none of the sets searched has a region in that month or year.
        InvalidInputError: ``month`` is no month and no year, or there is no such set.
    """
    _check_set(intensity_set)
    if month is not None and not re.fullmatch(r"\d{4}", month):
        _checked_month(month)
    for region in regions:
        problems = []
        for preferred_set in dict.fromkeys((DEFAULT_SET, *yearly_sets())):
            try:
                lookup_intensity(
                    region, month=month, intensity_set=intensity_set, preferred_set=preferred_set
                )
                break
            except NoIntensityError as error:
                problems.append(error)
        else:
            raise problems[0]


def stage_of(basis: str) -> str | None:
    """Returns ``direct`` or ``life-cycle`` for a basis; ``None`` if the basis is neither.

    Direct figures count a plant's own emissions, life-cycle figures also those of its fuel supply
    and its construction.
    """
    folded = basis.casefold()
    if "life-cycle" in folded or "lifecycle" in folded:
        return "life-cycle"
    return "direct" if "direct" in folded else None


def stage_notice(intensity: CarbonIntensity, *, expected_set: str = DEFAULT_SET) -> str | None:
    """Returns a warning where a figure is direct and the expected set life-cycle, or inverse.

    Args:
        intensity: the figure that was found.
        expected_set: the set of the other figures, which lacks this one.
    """
    stage = stage_of(intensity.basis)
    if stage is None or intensity.intensity_set == expected_set:
        return None
    expected = {
        stage_of(value.basis)
        for value in (*_yearly(), *_months())
        if value.intensity_set == expected_set
        and (value.region == intensity.region or expected_set in MONTHLY_SETS)
    }
    if expected - {None} in (set(), {stage}):
        return None
    (other,) = expected - {None, stage}
    return (
        f"The intensity of {intensity.region} in {intensity.period} is {stage} "
        f"({intensity.intensity_set}), where {expected_set} is {other}: "
        "the two do not compare."
    )


def given_intensity(g_per_kwh: float, *, region: str = GIVEN) -> CarbonIntensity:
    """Returns the intensity for the user's own figure in g/kWh; any text will do as region.

    Raises:
        InvalidInputError: the figure is negative or not finite.
    """
    if not (math.isfinite(g_per_kwh) and g_per_kwh >= 0):
        raise InvalidInputError(
            f"{OWN_FIGURE} is {g_per_kwh}; give a finite number, 0 or more.",
            arguments=[OWN_FIGURE],
        )
    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        region=region_label(region),
        period=GIVEN,
        intensity_set=GIVEN,
        basis=GIVEN,
        source="the user's own figure",
        source_url="",
        licence="",
    )


def yearly_sets() -> tuple[str, ...]:
    """Returns the names of the sets with yearly figures."""
    return tuple(dict.fromkeys(value.intensity_set for value in _yearly()))


def latest_intensities(intensity_set: str = DEFAULT_SET) -> tuple[CarbonIntensity, ...]:
    """Returns the newest figure of every region of a yearly set, by region.

    Raises:
        InvalidInputError: there is no such set, or it has months only.
    """
    _check_set(intensity_set)
    newest: dict[str, CarbonIntensity] = {}
    for value in sorted(_yearly(), key=lambda value: (value.region, value.period)):
        if value.intensity_set == intensity_set:
            newest[value.region] = value
    if not newest:
        raise InvalidInputError(
            f"The set {intensity_set!r} has months only; name a yearly set.",
            arguments=["intensity_set"],
        )
    return tuple(newest.values())


def monthly_intensities(
    region: str, *, intensity_set: str = MONTHLY_SETS[0]
) -> tuple[CarbonIntensity, ...]:
    """Returns every known month of a region, oldest first.

    Raises:
        NoIntensityError: the region has no months in this set.
        InvalidInputError: there is no such set.
    """
    _check_set(intensity_set)
    code = resolve_region(region)
    found = [
        value for value in _months() if (value.intensity_set, value.region) == (intensity_set, code)
    ]
    if not found:
        raise NoIntensityError(
            f"No months for {code} in {intensity_set!r}. Known months: {_known_months(code)}."
        )
    return tuple(sorted(found, key=lambda value: value.period))


def basis_notice(bases: Iterable[tuple[str, str]]) -> str | None:
    """Returns a warning where intensities rest on more than one basis, else ``None``.

    Direct and life-cycle figures, CO2 and CO2e, or production and consumption do not compare.

    Args:
        bases: region and basis of each intensity.
    """
    regions_by_basis: dict[str, list[str]] = {}
    for region, basis in bases:
        regions = regions_by_basis.setdefault(basis, [])
        if region not in regions:
            regions.append(region)
    if len(regions_by_basis) < 2:
        return None
    listed = "; ".join(
        f"{', '.join(regions)}: {basis}" for basis, regions in regions_by_basis.items()
    )
    return f"Intensities rest on different bases and do not compare ({listed})."


def _monthly(code: str, month: str, intensity_set: str | None) -> CarbonIntensity:
    name = intensity_set or MONTHLY_SETS[0]
    for value in _months():
        if (value.intensity_set, value.region, value.period) == (name, code, month):
            return value
    if name not in MONTHLY_SETS:
        raise NoIntensityError(
            f"The set {name!r} has no months. Leave the month out, or use {MONTHLY_SETS[0]!r}."
        )
    raise NoIntensityError(
        f"No carbon intensity for {code} in {month}. Known months: {_known_months(code)}. "
        f"Leave the month out for the year's mean.",
        instead=OWN_FIGURE,
    )


def _known_months(code: str) -> str:
    by_region: dict[str, list[str]] = {}
    for value in _months():
        by_region.setdefault(value.region, []).append(value.period)
    chosen = {code: by_region[code]} if code in by_region else by_region
    return ", ".join(f"{region} {min(all_)} to {max(all_)}" for region, all_ in chosen.items())


def _known_years(code: str) -> str:
    known = [f"{value.intensity_set} {value.period}" for value in _yearly() if value.region == code]
    return ", ".join(known) or "none"


def _checked_month(month: str) -> str:
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise InvalidInputError(
            f"month is {month!r}; give year and month as 2022-02, or a year.", arguments=["month"]
        )
    return month


def _check_set(intensity_set: str | None) -> None:
    if intensity_set is None:
        return
    known = sorted({value.intensity_set for value in (*_yearly(), *_months())})
    if intensity_set not in known:
        raise InvalidInputError(
            f"intensity_set is {intensity_set!r}; use one of {', '.join(known)}.",
            arguments=["intensity_set"],
        )


@cache
def _years_of(intensity_set: str, code: str) -> tuple[CarbonIntensity, ...]:
    return tuple(
        value
        for value in _yearly()
        if value.intensity_set == intensity_set and value.region == code
    )


@cache
def _yearly() -> tuple[CarbonIntensity, ...]:
    return tuple(
        CarbonIntensity(
            g_per_kwh=float(row["g_per_kwh"]),
            region=resolve_region(row["iso"]),
            period=row["year"],
            intensity_set=row["set"],
            basis=row["basis"],
            source=row["source"],
            source_url=row["source_url"],
            licence=row["licence"],
        )
        for row in shipped_rows(YEARLY_FILE)
    )


@cache
def _months() -> tuple[CarbonIntensity, ...]:
    return tuple(
        CarbonIntensity(
            g_per_kwh=float(row["g_per_kwh"]),
            region=resolve_region(row["iso"]),
            period=f"{row['year']}-{int(row['month']):02d}",
            intensity_set=MONTHLY_SET_BY_BASIS[row["basis"]],
            basis=f"consumption; {row['basis']}",
            source=row["source"],
            source_url=row["source_url"],
            licence=row["licence"],
        )
        for row in shipped_rows(MONTHLY_FILE)
    )
