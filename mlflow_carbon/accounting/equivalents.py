"""Emissions as everyday quantities, each with the edition and source of its factor."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.shipped_tables import shipped_rows

EQUIVALENTS_FILE = "equivalents.csv"

DEFAULT_EDITION_BY_KIND = {
    "car": "EU new cars 2022, final",
    "phone": "EPA, current",
    "flight": "paper, implied per km",
    "tree": "EPA 2023",
}

# Annual per-capita budget for an even chance of 1.5 °C. The paper prints neither its population
# nor its years; these are ours, and every one is a parameter.
REMAINING_BUDGET_GT = (
    250.0  # from January 2023; Lamboll et al. 2023, doi:10.1038/s41558-023-01848-5
)
POPULATION = 8.0e9  # 2023
YEARS_LEFT = 27.0  # 2023 to 2049
KG_PER_GT = 1e12


@dataclass(frozen=True)
class Factor:
    """kg CO2e of one unit of something, in one edition of one source."""

    kind: str
    edition: str
    activity: str
    unit: str
    kg_per_unit: float
    source: str
    url: str
    note: str


@dataclass(frozen=True)
class Equivalent:
    """A mass of CO2e as a quantity of something.

    Attributes:
        quantity: how many units, by ``factor``.
        factor: the edition that was used.
        least: the smallest quantity that any edition gives.
        most: the largest quantity that any edition gives.
    """

    quantity: float
    factor: Factor
    least: float
    most: float


@dataclass(frozen=True)
class BudgetShare:
    """A mass of CO2e as a share of what one person may emit in one year, with what was assumed."""

    fraction: float
    budget_kg: float
    remaining_gt: float
    population: float
    years: float


def equivalents(co2e_kg: float) -> tuple[Equivalent, ...]:
    """Returns emissions in kg as one quantity of each kind, by the default editions.

    Raises:
        InvalidInputError: the mass is negative or not finite.
    """
    return tuple(equivalent(co2e_kg, kind) for kind in DEFAULT_EDITION_BY_KIND)


def equivalent(co2e_kg: float, kind: str, *, edition: str | None = None) -> Equivalent:
    """Returns emissions in kg as a quantity of one kind.

    Args:
        co2e_kg: what was emitted.
        kind: ``car`` (km), ``phone`` (charges), ``flight`` (passenger km) or ``tree`` (urban
            seedlings grown for ten years, which take up that much).
        edition: ``None`` takes the kind's default edition.

    Raises:
        InvalidInputError: the mass is negative or not finite, or there is no such kind or edition.
    """
    _check_mass(co2e_kg)
    editions = {factor.edition: factor for factor in factors() if factor.kind == kind}
    if not editions:
        raise InvalidInputError(
            f"kind is {kind!r}; use one of {', '.join(DEFAULT_EDITION_BY_KIND)}."
        )
    name = edition or DEFAULT_EDITION_BY_KIND[kind]
    if name not in editions:
        raise InvalidInputError(f"edition is {name!r}; use one of {'; '.join(editions)}.")
    quantities = [co2e_kg / factor.kg_per_unit for factor in editions.values()]
    return Equivalent(
        quantity=co2e_kg / editions[name].kg_per_unit,
        factor=editions[name],
        least=min(quantities),
        most=max(quantities),
    )


def budget_share(
    co2e_kg: float,
    *,
    remaining_gt: float = REMAINING_BUDGET_GT,
    population: float = POPULATION,
    years: float = YEARS_LEFT,
) -> BudgetShare:
    """Returns emissions in kg as a share of the annual per-capita budget for 1.5 °C.

    Args:
        co2e_kg: what was emitted.
        remaining_gt: CO2 that may still be emitted, in Gt.
        population: people who share that CO2.
        years: years that it must last them.

    Raises:
        InvalidInputError: the mass is negative or not finite, or an assumption is not above zero.

    Source: Lamboll et al. 2023, https://doi.org/10.1038/s41558-023-01848-5 (around 250 Gt for
        an even chance, from January 2023).
    """
    _check_mass(co2e_kg)
    assumed = {"remaining_gt": remaining_gt, "population": population, "years": years}
    for name, value in assumed.items():
        if not (math.isfinite(value) and value > 0):
            raise InvalidInputError(
                f"{name} is {value}; give a finite number above 0.", arguments=[name]
            )
    budget_kg = remaining_gt * KG_PER_GT / population / years
    return BudgetShare(co2e_kg / budget_kg, budget_kg, remaining_gt, population, years)


@cache
def factors() -> tuple[Factor, ...]:
    """Returns every factor that the package ships, of every edition."""
    return tuple(_read())


def _read() -> Iterator[Factor]:
    for row in shipped_rows(EQUIVALENTS_FILE):
        if row["kind"]:
            yield Factor(
                kind=row["kind"],
                edition=row["edition"],
                activity=row["activity"],
                unit=row["unit"],
                kg_per_unit=float(row["kg_co2e_per_unit"]),
                source=row["source"],
                url=row["url"],
                note=row["note"],
            )


def _check_mass(co2e_kg: float) -> None:
    if not (math.isfinite(co2e_kg) and co2e_kg >= 0):
        raise InvalidInputError(
            f"co2e_kg is {co2e_kg}; give a finite number, 0 or more.", arguments=["co2e_kg"]
        )
