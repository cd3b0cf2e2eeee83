"""The claims of the paper, replayed from the figures that it prints itself."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_carbon.accounting.equivalents import budget_share, factors
from mlflow_carbon.grid.intensity import lookup_intensity, monthly_intensities
from mlflow_carbon.reporting.paper_regions import region_ratios
from mlflow_carbon.reporting.paper_results import Range, kg_texts, printed
from mlflow_carbon.reporting.report import beside
from mlflow_carbon.units import grams_from_kg

HOLDS = "holds"
ROUNDING = "rounding"
CONTRADICTED = "contradicted"
CANNOT_BE_DERIVED = "cannot be derived"

# A claim this near to what its inputs give may come from an unrounded input or another edition
# of a factor; the verdict is then "rounding".
ROUNDING_FRACTION = 0.01
# "About" and "approximately": a ratio further from the claimed one than this factor is another.
ABOUT_FACTOR = 1.25

CAR_G_PER_KM = "108.2"  # section 3.1
EPOCHS, ITERATIONS, SCANS = 50, 6000, 120  # sections 2.2 to 2.4
TOTAL_ITERATIONS = 150_000  # section 3.1
PUE, CARBONTRACKER_PUE = 1.55, 1.55  # section 2.4; factor of carbontracker 1.1.7 to 1.2.5
FLIGHT_KM = 1500  # caption of Fig. 1
EARTH_RADIUS_KM = 6371.0
# Airports, degrees north and east. Source: https://ourairports.com (public domain)
NARITA, INCHEON = (35.7647, 140.3860), (37.4691, 126.4510)
HANEDA, GIMPO = (35.5523, 139.7800), (37.5583, 126.7910)
# Ember Yearly Electricity Data, China, g/kWh. Source: https://ember-energy.org (CC BY 4.0)
CHINA_G_PER_KWH = {2022: 585.8, 2023: 582.317}


@dataclass(frozen=True)
class Claim:
    """What the paper says and where, what its own figures give, and whether the two agree."""

    claim: str
    place: str
    arithmetic: str
    verdict: str


def compare(claimed: Range, derived: Range) -> str:
    """Returns ``holds`` where the ranges meet, ``rounding`` where they nearly do."""
    gap = max(claimed.low - derived.high, derived.low - claimed.high, 0.0)
    if gap == 0:
        return HOLDS
    return ROUNDING if gap <= ROUNDING_FRACTION * derived.high else CONTRADICTED


def about(claimed: float, derived: Range) -> str:
    """Returns ``holds`` where all that a figure may be lies about what is claimed."""
    is_about = claimed / ABOUT_FACTOR <= derived.low and derived.high <= claimed * ABOUT_FACTOR
    return HOLDS if is_about else CONTRADICTED


def check_claims() -> tuple[Claim, ...]:
    """Returns every numeric claim of the paper with its arithmetic and verdict.

    Source: Seyfarth et al. 2024, arXiv:2407.14892.
    """
    return (
        *_driving(),
        _average_car(),
        *_budget(),
        _flight(),
        *_regions(),
        *_months(),
        *_table_1(),
        _steps(),
        _size_in_2d(),
        _order_of_magnitude(),
        _synthesis(),
        _epochs(),
        _plus_minus(),
        _pue(),
        *_only_in_figures(),
    )


def claims_text(claims: tuple[Claim, ...]) -> str:
    """Returns the claims for reading: how many hold, then each with the arithmetic below it."""
    lines: list[str] = []
    for claim in claims:
        texts = (f"{claim.claim} ({claim.place})", claim.arithmetic)
        lines += beside(claim.verdict, *texts, label_width=len(CANNOT_BE_DERIVED))
    counts = dict.fromkeys((HOLDS, ROUNDING, CONTRADICTED, CANNOT_BE_DERIVED), 0)
    for claim in claims:
        counts[claim.verdict] += 1
    total = (
        f"Of {len(claims)} claims {counts[HOLDS]} hold, {counts[ROUNDING]} is rounded, "
        f"{counts[CONTRADICTED]} are contradicted, {counts[CANNOT_BE_DERIVED]} cannot be derived."
    )
    return "\n".join([total, "", *lines, ""])


def _driving() -> Iterator[Claim]:
    claims = (
        ("2D training is 10 km of driving", "abstract", "T2D_max", "10"),
        ("3D training is 90 km of driving", "abstract", "T3D_max", "90"),
        ("3D training at 256x256x192 is 92 km", "3.1", "T3D_max", "92"),
        ("2D synthesis is 160 km", "abstract", "S2D_max", "160"),
        ("3D synthesis is 3345 km", "abstract", "S3D_max", "3345"),
    )
    kg_per_km = Range(*(g / 1000 for g in (printed(CAR_G_PER_KM).low, printed(CAR_G_PER_KM).high)))
    for claim, place, name, km in claims:
        kg_text, std_text = kg_texts(name)
        factor = float(CAR_G_PER_KM) / 1000
        exact_km = float(kg_text) / factor
        arithmetic = (
            f"{kg_text} kg / {factor:.4f} kg/km = {exact_km:.1f} km; "
            f"the claim is {float(km) / exact_km - 1:+.1%}"
        )
        verdict = compare(printed(km), printed(kg_text) / kg_per_km)
        if verdict == CONTRADICTED:
            upper_km = (float(kg_text) + float(std_text)) / factor
            arithmetic += f"; mean + 1 std would be {upper_km:.1f} km"
        yield Claim(claim, place, arithmetic, verdict)
    yield Claim(
        "92 km are three days of driving",
        "3.1",
        f"92 / 3 = {92 / 3:.1f} km a day; the paper prints no daily distance",
        CANNOT_BE_DERIVED,
    )


def _average_car() -> Claim:
    cars_g = {
        factor.edition: grams_from_kg(factor.kg_per_unit)
        for factor in factors()
        if factor.kind == "car"
    }
    listed = "; ".join(f"{edition}: {g_per_km:g}" for edition, g_per_km in cars_g.items())
    return Claim(
        f"an average car in Europe emits {CAR_G_PER_KM} g/km",
        "3.1, reference 1",
        f"reference 1 is of the average new car, in the laboratory's cycle. In g/km: {listed}",
        CONTRADICTED,
    )


def _budget() -> Iterator[Claim]:
    kg_text, _ = kg_texts("S3D_max")
    kg = float(kg_text)
    implied_kg = kg / 0.337
    # Lamboll et al. 2023: around 250 Gt; 8.0 billion people; 27 or 28 years
    shares = [budget_share(kg, years=years).fraction for years in (27, 28)]
    yield Claim(
        "3D synthesis is 33.7 % of the annual per-capita budget for 1.5 °C",
        "Fig. 1",
        f"{kg_text} kg / 33.7 % = {implied_kg:.0f} kg; population and years are not printed; "
        f"250 Gt, 8.0 billion and 27 or 28 years give {shares[0]:.1%} or {shares[1]:.1%}",
        CANNOT_BE_DERIVED,
    )
    yield Claim(
        "3D synthesis is over 34 % of that budget",
        "4",
        f"Fig. 1 prints 33.7 % of the same; 34 % needs a budget under {kg / 0.34:.1f} kg",
        HOLDS if printed("33.7").high > 34 else CONTRADICTED,
    )
    poland_kg, _ = kg_texts("F3_PL")
    share = float(poland_kg) / implied_kg
    yield Claim(
        "405 kg exceed 35 % of that budget",
        "3.3",
        f"{poland_kg} kg / {implied_kg:.0f} kg = {share:.1%}, by the budget that Fig. 1 implies",
        HOLDS if share > 0.35 else CONTRADICTED,
    )


def _flight() -> Claim:
    distances_km = (_great_circle_km(NARITA, INCHEON), _great_circle_km(HANEDA, GIMPO))
    kg_text, _ = kg_texts("S3D_max")
    factors = [float(kg_text) / km for km in (FLIGHT_KM, distances_km[0])]
    return Claim(
        "362.3 kg are a flight of 1500 km, Tokyo to Seoul",
        "Fig. 1",
        f"great circle {distances_km[0]:.0f} km (NRT-ICN), {distances_km[1]:.0f} km (HND-GMP); "
        f"{factors[0]:.3f} or {factors[1]:.3f} kg/km",
        compare(printed(str(FLIGHT_KM)), Range(min(distances_km), max(distances_km))),
    )


def _regions() -> Iterator[Claim]:
    poland_text, sweden_text = kg_texts("F3_PL")[0], kg_texts("F3_SE")[0]
    poland, sweden, europe = (_table_g_per_kwh(region) for region in ("PL", "SE", "EU27"))
    others = "; ".join(f"{it.basis}: {it.ratio:.0f}" for it in region_ratios()[1:])
    yield Claim(
        "location changes emissions up to 94 times",
        "abstract, 3.3",
        f"{poland_text} / {sweden_text} = {float(poland_text) / float(sweden_text):.1f}; "
        f"Table 1: {poland:g} / {sweden:g} = {poland / sweden:.1f}; "
        f"{others}; all of {region_ratios()[0].period}",
        compare(printed("94"), printed(poland_text) / printed(sweden_text)),
    )
    ratio = Range(sweden / poland, sweden / poland)
    yield Claim(
        "405 kg in Poland and 4.3 kg in Sweden are the same experiment",
        "3.3",
        f"{poland_text} kg x {sweden:g} / {poland:g} = "
        f"{float(poland_text) * sweden / poland:.2f} kg",
        compare(printed(sweden_text), printed(poland_text) * ratio),
    )
    largest_text, _ = kg_texts("S3D_max")
    largest_kg = float(largest_text) * poland / europe
    yield Claim(
        "3D synthesis emits up to 405 kg in Poland",
        "3.3",
        f"{largest_text} kg (Fig. 1) x {poland:g} / {europe:g} = {largest_kg:.0f} kg; "
        f"{poland_text} kg is {float(poland_text) * europe / poland:.1f} kg in EU27, "
        "another model than any that is printed; which one section 3.3 had is not said",
        CANNOT_BE_DERIVED,
    )


def _months() -> Iterator[Claim]:
    ratios = {
        (year, name): _month_ratio(year, name)
        for year in (2022, 2023)
        for name in ("electricity_maps", "electricity_maps_lifecycle")
    }
    direct, lifecycle = ratios[2022, "electricity_maps"], ratios[2022, "electricity_maps_lifecycle"]
    increases = [100 * (ratio - 1) for ratio in (direct, lifecycle)]
    months = [month for month in monthly_intensities("DE") if month.period.startswith("2022")]
    least = min(months, key=lambda month: month.g_per_kwh)
    most = max(months, key=lambda month: month.g_per_kwh)
    yield Claim(
        "the month changes emissions up to 50 % (December against February)",
        "abstract, 3.3",
        f"Germany 2022: {direct:.3f} (direct), {lifecycle:.3f} (life-cycle), that is "
        f"+{increases[0]:.0f} or +{increases[1]:.0f} %; as a saving "
        f"{1 - 1 / direct:.0%} or {1 - 1 / lifecycle:.0%}; most over least: "
        f"{most.period} / {least.period} = {most.g_per_kwh / least.g_per_kwh:.3f} (direct)",
        compare(printed("50"), Range(min(increases), max(increases))),
    )
    other = [ratios[2023, name] for name in ("electricity_maps", "electricity_maps_lifecycle")]
    yield Claim(
        "the months are of 2023",
        "2.4, reference 7",
        f"Germany 2023: December / February = {other[0]:.3f} (direct), {other[1]:.3f} "
        "(life-cycle), less than 1; section 3.3 and Fig. 3b say 2022",
        CONTRADICTED if max(other) < 1 else HOLDS,
    )


def _table_1() -> Iterator[Claim]:
    china = _table_g_per_kwh("CN")
    matching = [year for year, value in CHINA_G_PER_KWH.items() if round(value) == china]
    listed = ", ".join(f"{year} {value:g}" for year, value in CHINA_G_PER_KWH.items())
    yield Claim(
        "Table 1 is of 2022",
        "3.3",
        f"China {china:g} g/kWh; Ember, which its source republishes: {listed}",
        HOLDS if 2022 in matching else CONTRADICTED,
    )
    regions_by_basis: dict[str, list[str]] = {}
    for region in ("EU27", "SE", "DE", "PL", "CN", "US"):
        basis = lookup_intensity(region, intensity_set="paper_table1").basis
        regions_by_basis.setdefault(basis.removeprefix("production; "), []).append(region)
    listed = "; ".join(f"{', '.join(of)}: {basis}" for basis, of in regions_by_basis.items())
    yield Claim(
        "the regions of Table 1 compare",
        "3.3, Fig. 3a",
        f"it mixes {len(regions_by_basis)} bases ({listed})",
        HOLDS if len(regions_by_basis) == 1 else CONTRADICTED,
    )


def _steps() -> Claim:
    return Claim(
        "200 steps instead of 1000 save 80 %",
        "3.4",
        f"1 - 200 / 1000 = {1 - 200 / 1000:.0%}: pure proportion, no fixed cost of decoding",
        compare(printed("80"), Range(80.0, 80.0)),
    )


def _size_in_2d() -> Claim:
    small, large = (kg_texts(name)[0] for name in ("T2D_min", "T2D_max"))
    increase = float(large) / float(small) - 1
    return Claim(
        "image size has minimal impact on 2D training",
        "3.1",
        f"{large} / {small} = {float(large) / float(small):.2f}, that is {increase:+.0%}",
        about(1, printed(large) / printed(small)),
    )


def _synthesis() -> Claim:
    ratios = [
        f"{dims}: {kg_texts(f'S{dims}_max')[0]} / {kg_texts(f'T{dims}_max')[0]} = "
        f"{float(kg_texts(f'S{dims}_max')[0]) / float(kg_texts(f'T{dims}_max')[0]):.0f}"
        for dims in ("3D", "2D")
    ]
    least = min(
        (printed(kg_texts(f"S{name}")[0]) / printed(kg_texts(f"T{name}")[0])).low
        for name in ("2D_min", "2D_max", "3D_min", "3D_max")
    )
    return Claim(
        "synthesis emits more than training",
        "3.1",
        f"10,000 samples over 150,000 iterations, largest size in {', '.join(ratios)}; at every "
        f"size at least {least:.1f}",
        HOLDS if least > 1 else CONTRADICTED,
    )


def _order_of_magnitude() -> Claim:
    large_3d, large_2d, small_3d = (kg_texts(name)[0] for name in ("T3D_max", "T2D_max", "T3D_min"))
    ratio = float(large_3d) / float(large_2d)
    return Claim(
        "3D training emits about ten times what 2D does",
        "3.1",
        f"largest to largest: {large_3d} / {large_2d} = {ratio:.1f}; "
        f"64x64x64 to 512x512: {small_3d} / {large_2d} = {float(small_3d) / float(large_2d):.2f}",
        about(10, printed(large_3d) / printed(large_2d)),
    )


def _epochs() -> Claim:
    per_epoch = ITERATIONS / EPOCHS
    return Claim(
        "6000 iterations, 50 epochs and 120 scans are one measurement",
        "2.2 to 2.4",
        f"{ITERATIONS} / {EPOCHS} = {per_epoch:g} iterations an epoch: one scan each; "
        f"150000 iterations are {TOTAL_ITERATIONS / per_epoch:g} epochs",
        HOLDS if per_epoch == SCANS else CONTRADICTED,
    )


def _plus_minus() -> Claim:
    """Returns the claim about ±: it is the spread of one epoch times N, not the total's error."""
    kg_text, std_text = kg_texts("T2D_min")
    kg, std_kg = float(kg_text), float(std_text)
    num_epochs = TOTAL_ITERATIONS * EPOCHS / ITERATIONS
    of_total_kg = std_kg * math.sqrt(1 / EPOCHS + 1 / num_epochs)
    return Claim(
        "± is the standard deviation of the emissions",
        "2.4, 3.1",
        f"of {kg_text} ± {std_text} kg, {num_epochs:g} epochs: an epoch varies by "
        f"{std_kg / kg:.0%} if ± is std x N, but by {std_kg / kg * math.sqrt(num_epochs):.0%} if "
        "it is std x the root of N, which equal epochs do not. So ± is std x N: how far one epoch "
        f"lies from another, scaled up; independent epochs give the total ± {of_total_kg:.3f} kg",
        CONTRADICTED,
    )


def _pue() -> Claim:
    return Claim(
        f"the PUE of the data centre is {PUE}",
        "2.4",
        "a recommendation of Bouza et al. 2023, no measurement of the data centre; it is "
        f"Uptime's world average of 2022 and the factor {CARBONTRACKER_PUE} that carbontracker "
        "1.1.7 to 1.2.5 has multiplied by already",
        CANNOT_BE_DERIVED,
    )


def _only_in_figures() -> Iterator[Claim]:
    claims = (
        ("training emits 30 to 40 % more with model size", "3.2", "Fig. 2; no model size is given"),
        ("synthesis emits 60 to 80 % more with model size", "3.2", "Fig. 2"),
        (
            "4 GPUs do not lower the emissions of training",
            "3.4",
            "Fig. 4a; whether 150000 iterations or equal epochs, which differ 4-fold, is not said",
        ),
    )
    for claim, place, arithmetic in claims:
        yield Claim(claim, place, f"no number is printed: {arithmetic}", CANNOT_BE_DERIVED)


def _table_g_per_kwh(region: str) -> float:
    return lookup_intensity(region, intensity_set="paper_table1").g_per_kwh


def _month_ratio(year: int, intensity_set: str) -> float:
    """Returns Germany's intensity in December over that in February."""
    december, february = (
        lookup_intensity("DE", month=f"{year}-{month}", intensity_set=intensity_set).g_per_kwh
        for month in ("12", "02")
    )
    return december / february


def _great_circle_km(start: tuple[float, float], end: tuple[float, float]) -> float:
    """Returns the distance of two points in degrees north and east, by the haversine formula."""
    (lat_1, lon_1), (lat_2, lon_2) = (tuple(map(math.radians, point)) for point in (start, end))
    root = (
        math.sin((lat_2 - lat_1) / 2) ** 2
        + math.cos(lat_1) * math.cos(lat_2) * math.sin((lon_2 - lon_1) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(root))
