"""The share of its TDP that a CPU draws at a load, as measured on servers."""

from functools import cache
from itertools import pairwise

from mlflow_carbon.shipped_tables import shipped_rows


def tdp_fraction(load_fraction: float) -> float:
    """Returns the share of its TDP that a CPU draws at a load, by straight lines between points.

    Args:
        load_fraction: busy threads over all threads; above 1 counts as 1.
    """
    points = _points()
    for (low, low_fraction), (high, high_fraction) in pairwise(points):
        if load_fraction <= high:
            part = max(load_fraction - low, 0.0) / (high - low)
            return low_fraction + (high_fraction - low_fraction) * part
    return points[-1][1]


@cache
def _points() -> tuple[tuple[float, float], ...]:
    rows = shipped_rows("cpu_load_curve.csv")
    return tuple((float(row["load_fraction"]), float(row["tdp_fraction"])) for row in rows)
