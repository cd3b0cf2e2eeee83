"""Where and when a run's energy would have emitted least: rankings as a frame and as text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlflow_carbon.accounting.advice import best_start, rank
from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.errors import NoIntensityError
from mlflow_carbon.grid.hourly import IntensitySeries, time_text
from mlflow_carbon.grid.intensity import (
    DEFAULT_SET,
    GIVEN,
    MONTHLY_SETS,
    CarbonIntensity,
    basis_notice,
    latest_intensities,
    lookup_intensity,
    monthly_intensities,
    yearly_sets,
)
from mlflow_carbon.grid.regions import region_label, region_name
from mlflow_carbon.reporting.everyday import footer_report
from mlflow_carbon.reporting.report import Column, Report, Table
from mlflow_carbon.reporting.tables import ABSENT, MASS_SCALES, choose_scale
from mlflow_carbon.store.run_windows import MeteredRun

NUM_SHOWN = 3  # rows at each end of a ranking; csv and json hold all
REGION, MONTH, START = "region", "month", "start"

_HERE = {REGION: "here", MONTH: "then", START: "now"}


@dataclass(frozen=True)
class AdviceRow:
    """One region, month or start that was ranked.

    Attributes:
        kind: ``region``, ``month`` or ``start``; ranks and ratios hold inside one ranking.
        rank: 1 is best.
        region: ISO code, or ``given`` for a file.
        period: year, month, or the time of the start.
        g_per_kwh: intensity.
        intensity_set: where it is from.
        intensity_basis: what it rests on.
        co2e_g: of the run's energy.
        ratio_to_best: how many times the best; ``None`` where that emits nothing.
        ratio_to_here: how many times where or when the run was; ``None`` where that is not known.
        is_here: whether this is where or when the run was; for starts, now.
    """

    kind: str
    rank: int
    region: str
    period: str
    g_per_kwh: float
    intensity_set: str
    intensity_basis: str
    co2e_g: float
    ratio_to_best: float | None
    ratio_to_here: float | None
    is_here: bool


@dataclass(frozen=True)
class Ranking:
    """Rows that compare, from best to worst, and what they have in common."""

    title: str
    rows: tuple[AdviceRow, ...]


def rank_places(
    run: MeteredRun, regions: Sequence[str], *, intensity_set: str | None, pue: float
) -> tuple[list[Ranking], list[str]]:
    """Returns the rankings of regions and of months, and a sentence where no months are known.

    Args:
        run: what was measured.
        regions: which, besides the run's own; if empty, all regions, and the months of the run's
            own.
        intensity_set: of the regions where it is yearly, of the months where it is monthly.
        pue: facility energy over IT energy, the same everywhere.

    Raises:
        NoIntensityError: the set does not have a region that was asked for.
        InvalidInputError: there is no such set.
    """
    yearly_set = None if intensity_set in MONTHLY_SETS else intensity_set
    rankings = [rank_regions(run, regions, intensity_set=yearly_set, pue=pue)]
    unknown = []
    own = [] if run.intensity is None else [run.intensity.region]
    for region in regions or own:
        try:
            rankings += rank_months(run, region, intensity_set=intensity_set, pue=pue)
        except NoIntensityError:
            unknown.append(region_label(region))
    return rankings, [f"No months are known of {', '.join(unknown)}."] if unknown else []


def rank_regions(
    run: MeteredRun, regions: Sequence[str], *, intensity_set: str | None, pue: float
) -> Ranking:
    """Returns the regions of one set for the energy of a run.

    Args:
        run: what was measured.
        regions: which, besides the run's own; if empty, all regions of the set.
        intensity_set: ``None`` takes the recorded one where it is yearly, else the worldwide one.
        pue: facility energy over IT energy, the same everywhere.

    Raises:
        NoIntensityError: the set does not have a region that was asked for.
    """
    name = intensity_set or _yearly_set(run)
    here = _here(run, name)
    if regions:
        asked = [lookup_intensity(region, intensity_set=name) for region in regions]
        intensities = list(dict.fromkeys([*asked, *([] if here is None else [here])]))
    else:
        intensities = list(latest_intensities(name))
    title = f"Regions by {name}, PUE {pue:g}"
    return Ranking(title, _rows(REGION, run, intensities, here=here, pue=pue))


def rank_months(
    run: MeteredRun, region: str, *, intensity_set: str | None, pue: float
) -> Iterator[Ranking]:
    """Yields the months of a region, year by year, for the energy of a run.

    Args:
        run: what was measured.
        region: which one.
        intensity_set: a monthly set; ``None`` takes the direct one.
        pue: facility energy over IT energy.

    Raises:
        NoIntensityError: no months of that region are known.
    """
    name = intensity_set if intensity_set in MONTHLY_SETS else MONTHLY_SETS[0]
    months = monthly_intensities(region, intensity_set=name)
    for year in dict.fromkeys(month.period[:4] for month in months):
        of_year = [month for month in months if month.period.startswith(year)]
        then = next((month for month in of_year if _is_period_of(run, month)), None)
        title = f"Months of {of_year[0].region} {year} by {name}, PUE {pue:g}"
        yield Ranking(title, _rows(MONTH, run, of_year, here=then, pue=pue))


def rank_starts(
    run: MeteredRun,
    series: IntensitySeries,
    *,
    now_s: float,
    deadline_s: float | None,
    pue: float,
) -> Ranking:
    """Returns the best start of a run of this length, beside a start at once.

    Args:
        run: what was measured, taken to draw constant power.
        series: hourly intensities.
        now_s: the earliest start, in s since 1970.
        deadline_s: when it must have ended; ``None`` takes the end of the series.
        pue: facility energy over IT energy.

    Raises:
        InvalidInputError: the run cannot end in time.
        NoIntensityError: the series does not cover a run that starts now.
    """
    # of a file that ends before this run would, best_start says what it covers
    file_end_s = max(series.slots[-1].end_s, now_s + run.duration_s)
    end_s = file_end_s if deadline_s is None else deadline_s
    found = best_start(series, now_s=now_s, duration_s=run.duration_s, deadline_s=end_s)

    def at(start_s: float, g_per_kwh: float) -> CarbonIntensity:
        return CarbonIntensity(
            g_per_kwh=g_per_kwh,
            region=GIVEN,
            period=time_text(start_s),
            intensity_set=series.source,
            basis=series.basis,
            source=series.source,
            source_url="",
            licence="",
        )

    now = at(now_s, found.g_per_kwh_now)
    starts = list(dict.fromkeys([at(found.start_s, found.g_per_kwh), now]))
    title = (
        f"Starts of {run.duration_s:.4g} s to end by {time_text(end_s)}, by {series.source}, "
        f"PUE {pue:g}: the best saves {found.saving_fraction:.1%}"
    )
    return Ranking(title, _rows(START, run, starts, here=now, pue=pue))


def basis_notices(rankings: Sequence[Ranking]) -> Iterator[str]:
    """Yields a sentence for each ranking whose figures do not compare."""
    for ranking in rankings:
        notice = basis_notice((row.region, row.intensity_basis) for row in ranking.rows)
        if notice is not None:
            yield f"{ranking.title}: {notice}"


def advice_report(
    run: MeteredRun, rankings: Sequence[Ranking], *, with_equivalents: bool = False
) -> Report:
    """Returns the ends of each ranking and where the run was, then equivalents of the first.

    Args:
        run: whose energy is ranked.
        rankings: of regions, months and starts.
        with_equivalents: adds everyday quantities below one phone charge, too.
    """
    parts: list[str | Table] = [f"Where and when the energy of {run.title} would emit least\n"]
    for ranking in rankings:
        parts += [
            f"\n{ranking.title}\n{_answer(ranking)}",
            Table(tuple(_columns(ranking)), num_keys=3),
        ]
    rows = rankings[0].rows
    ends = list(dict.fromkeys([rows[0], *(row for row in rows if row.is_here), rows[-1]]))
    keys = [
        Column("region", [row.region for row in ends], is_text=True),
        Column("period", [row.period for row in ends], is_text=True),
    ]
    masses_g = [row.co2e_g for row in ends]
    return Report.of(*parts, footer_report("As much as", keys, masses_g, is_asked=with_equivalents))


def _yearly_set(run: MeteredRun) -> str:
    recorded = None if run.intensity is None else run.intensity.intensity_set
    return recorded if recorded in yearly_sets() else DEFAULT_SET


def _here(run: MeteredRun, intensity_set: str) -> CarbonIntensity | None:
    """Returns the set's intensity of the run's own region; ``None`` if the set lacks it."""
    if run.intensity is None:
        return None
    try:
        return lookup_intensity(run.intensity.region, intensity_set=intensity_set)
    except NoIntensityError:
        return None


def _is_period_of(run: MeteredRun, month: CarbonIntensity) -> bool:
    own = run.intensity
    return own is not None and (own.region, own.period) == (month.region, month.period)


def _rows(
    kind: str,
    run: MeteredRun,
    intensities: Sequence[CarbonIntensity],
    *,
    here: CarbonIntensity | None,
    pue: float,
) -> tuple[AdviceRow, ...]:
    here_g = None
    if here is not None:
        here_g = co2e_g(run.energy_kwh, pue=pue, intensity_g_per_kwh=here.g_per_kwh)
    return tuple(
        AdviceRow(
            kind=kind,
            rank=position,
            region=option.intensity.region,
            period=option.intensity.period,
            g_per_kwh=option.intensity.g_per_kwh,
            intensity_set=option.intensity.intensity_set,
            intensity_basis=option.intensity.basis,
            co2e_g=option.co2e_g,
            ratio_to_best=option.ratio_to_best,
            ratio_to_here=option.co2e_g / here_g if here_g else None,
            is_here=option.intensity == here,
        )
        for position, option in enumerate(rank(run.energy_kwh, intensities, pue=pue), start=1)
    )


def _answer(ranking: Ranking) -> str:
    """Returns the best place or month and what it saves; "" where the run was at the best."""
    best, here = ranking.rows[0], next((row for row in ranking.rows if row.is_here), None)
    if best.kind == START or here is None or best.is_here:
        return ""
    mass = choose_scale([best.co2e_g], MASS_SCALES)
    place = region_name(best.region) if best.kind == REGION else best.period
    saving_fraction = 1 - best.co2e_g / here.co2e_g
    return (
        f"Least in {place}: {mass.text(best.co2e_g)} {mass.symbol} CO2e, "
        f"{saving_fraction:.0%} less than {_HERE[best.kind]}.\n"
    )


def _region(row: AdviceRow) -> str:
    """Returns a region's code and name."""
    name = region_name(row.region)
    return row.region if name.upper() == row.region else f"{row.region} {name}"


def _columns(ranking: Ranking) -> list[Column]:
    """Returns the first rows, the last ones, and where or when the run was."""
    last = len(ranking.rows) - NUM_SHOWN
    rows = [row for row in ranking.rows if row.rank <= NUM_SHOWN or row.rank > last or row.is_here]
    mass = choose_scale([row.co2e_g for row in rows], MASS_SCALES)
    here = _HERE[rows[0].kind]
    return [
        Column("rank", [str(row.rank) for row in rows]),
        Column("region", list(map(_region, rows)), is_text=True),
        Column("period", [row.period for row in rows], is_text=True),
        Column("g/kWh", [f"{row.g_per_kwh:.6g}" for row in rows]),
        Column(f"CO2e ({mass.symbol})", [mass.text(row.co2e_g) for row in rows]),
        Column("x best", [_ratio_text(row.ratio_to_best) for row in rows]),
        Column(f"x {here}", [_ratio_text(row.ratio_to_here) for row in rows]),
        Column("", [here if row.is_here else "" for row in rows], is_text=True),
    ]


def _ratio_text(ratio: float | None) -> str:
    return ABSENT if ratio is None else f"{ratio:.3g}"
