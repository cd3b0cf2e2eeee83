"""Poland over Sweden in the paper's year, by each basis that intensities are published on."""

from dataclasses import dataclass
from functools import cache

from mlflow_carbon.shipped_tables import shipped_rows

REGIONS_FILE = "paper_regions.csv"


@dataclass(frozen=True)
class RegionRatio:
    """What electricity emits in Poland and in Sweden, on one basis.

    Attributes:
        basis: whose figures, and what they count.
        period: that both are of.
        poland_g_per_kwh: CO2e per kWh in Poland.
        sweden_g_per_kwh: CO2e per kWh in Sweden.
    """

    basis: str
    period: str
    poland_g_per_kwh: float
    sweden_g_per_kwh: float

    @property
    def ratio(self) -> float:
        """How many times more the same energy emits in Poland."""
        return self.poland_g_per_kwh / self.sweden_g_per_kwh


@cache
def region_ratios() -> tuple[RegionRatio, ...]:
    """Returns the ratio by each basis, the paper's own first."""
    by_basis: dict[tuple[str, str], dict[str, float]] = {}
    for row in shipped_rows(REGIONS_FILE):
        of_basis = by_basis.setdefault((row["basis"], row["period"]), {})
        of_basis[row["iso2"]] = float(row["g_per_kwh"])
    return tuple(
        RegionRatio(basis, period, g_per_kwh["PL"], g_per_kwh["SE"])
        for (basis, period), g_per_kwh in by_basis.items()
    )
