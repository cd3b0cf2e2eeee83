"""The tables of figures that the package brings, in ``mlflow_carbon/data``."""

import csv
from collections.abc import Iterator
from importlib.resources import files


def shipped_rows(file: str) -> Iterator[dict[str, str]]:
    """Yields the rows of a table, by the names of its columns."""
    path = files("mlflow_carbon") / "data" / file
    yield from csv.DictReader(path.read_text(encoding="utf-8").splitlines())
