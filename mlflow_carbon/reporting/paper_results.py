"""The results that the paper prints, each as the range of values that round to it."""

import math
from dataclasses import dataclass
from functools import cache

from mlflow_carbon.shipped_tables import shipped_rows

RESULTS_FILE = "paper_results.csv"
PAPER_STEPS = 1000  # of every synthesis but those of Fig. 4b: section 3.4
# The sizes between which the paper prints results: section 2.1, and the range in section 3.1.
SIZES = {2: ((192, 192), (512, 512)), 3: ((64, 64, 64), (256, 256, 192))}


@dataclass(frozen=True)
class Range:
    """Every value that a figure may stand for, from low to high, both above zero."""

    low: float
    high: float

    def __mul__(self, other: "Range") -> "Range":
        return Range(self.low * other.low, self.high * other.high)

    def __truediv__(self, other: "Range") -> "Range":
        return Range(self.low / other.high, self.high / other.low)


def printed(text: str) -> Range:
    """Returns the range of values that round to a printed figure."""
    half = 0.5 * 10.0 ** -len(text.partition(".")[2])
    return Range(float(text) - half, float(text) + half)


@dataclass(frozen=True)
class PaperResult:
    """A result of the paper at one size, extrapolated to 150,000 iterations or 10,000 samples.

    Attributes:
        name: of the row in the file of results.
        size: of an image, one number per axis.
        kg: CO2e, as printed.
        std_kg: what is printed behind ±, as printed.
        energy_kwh_per_unit: IT energy of an iteration or a sample, that the printed mass implies.
    """

    name: str
    size: tuple[int, ...]
    kg: str
    std_kg: str
    energy_kwh_per_unit: float


def result_of(task: str, dims: int, *, is_largest: bool) -> PaperResult:
    """Returns the paper's result of a task at its smallest or its largest size."""
    name = f"{'T' if task == 'train' else 'S'}{dims}D_{'max' if is_largest else 'min'}"
    row = _results()[name]
    kg, std_kg = kg_texts(name)
    return PaperResult(
        name, SIZES[dims][is_largest], kg, std_kg, float(row["kwh_it"]) / float(row["N"])
    )


def exponent(task: str, dims: int) -> Range:
    """Returns the power of the number of voxels that the energy of a task follows in the paper.

    From its results at the smallest and the largest size, which are all that it prints.
    """
    small, large = (result_of(task, dims, is_largest=largest) for largest in (False, True))
    ratio = printed(large.kg) / printed(small.kg)
    log_voxels = math.log(math.prod(large.size) / math.prod(small.size))
    return Range(math.log(ratio.low) / log_voxels, math.log(ratio.high) / log_voxels)


def kg_texts(name: str) -> tuple[str, str]:
    """Returns mean and std of a result in kg, both to the digits that the paper prints."""
    mean, std = _results()[name]["kg_mean"], _results()[name]["kg_std"]
    # the file drops trailing zeros, the paper prints both to the same place
    num_decimals = max(len(text.partition(".")[2]) for text in (mean, std))
    return f"{float(mean):.{num_decimals}f}", std


@cache
def _results() -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in shipped_rows(RESULTS_FILE)}
