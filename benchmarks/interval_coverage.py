"""Writes docs/statistics.md: what each ± means, and how often the intervals hold the truth.

Run it as ``python -m benchmarks.interval_coverage``. Every figure comes from the functions that
users call, over simulated windows whose truth is known; seeds are fixed.
"""

import csv
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from mlflow_carbon.accounting.steps_model import StepsPoint, fit_steps
from mlflow_carbon.accounting.uncertainty import (
    MIN_DISTINCT_READINGS,
    MIN_WINDOWS_FOR_CORRELATION,
    Stretch,
    prediction_interval,
    spread_kwh,
    unit_statistics,
)

PAGE = Path(__file__).parent.parent / "docs" / "statistics.md"
NUM_REPETITIONS = 2000
MEAN_KWH, STD_KWH = 10.0, 1.0

NUMS_WINDOWS = (2, 3, 5, 10, 15, 19, 20, 50, 200)
NUMS_FUTURE = (1, 20, 2000)
PHIS = (-0.6, 0.0, 0.3, 0.6, 0.9)
STEP_COUNTS = (20, 50, 200, 1000)
STEP_RUNS = (1, 3, 10)  # runs at each step count

Simulator = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclass(frozen=True)
class Trouble:
    """Windows of a kind that the interval does not promise to cover."""

    name: str
    simulate: Simulator


def autoregression(phi: float) -> Simulator:
    """Returns a simulator of (repetitions, windows) that follow x' = phi x + noise, std 1."""

    def simulate(generator: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
        noise = generator.standard_normal((num_rows, num_columns))
        values = np.empty_like(noise)
        values[:, 0] = noise[:, 0]
        for column in range(1, num_columns):
            fresh = math.sqrt(1 - phi**2) * noise[:, column]
            values[:, column] = phi * values[:, column - 1] + fresh
        return values

    return simulate


def skewed(generator: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns independent values with a long tail upwards, mean 0 and std 1."""
    return generator.exponential(size=(num_rows, num_columns)) - 1


def one_in_twenty_slow(
    generator: np.random.Generator, num_rows: int, num_columns: int
) -> np.ndarray:
    """Returns values of which one in 20 is 5 std higher."""
    values = generator.standard_normal((num_rows, num_columns))
    return values + 5.0 * (generator.random((num_rows, num_columns)) < 0.05)


def random_walk(generator: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns values that wander: each step has a tenth of the std of the noise."""
    steps = 0.1 * generator.standard_normal((num_rows, num_columns))
    return np.cumsum(steps, axis=1) + generator.standard_normal((num_rows, num_columns))


def two_speeds(generator: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns the mean of noise and of a slow autoregression (0.95): not of first order."""
    slow = autoregression(0.95)(generator, num_rows, num_columns)
    return (slow + generator.standard_normal((num_rows, num_columns))) / math.sqrt(2)


def warming_up(generator: np.random.Generator, num_rows: int, num_columns: int) -> np.ndarray:
    """Returns values that fall by 3 std over the first ten windows and then stay."""
    start = 3.0 * np.exp(-np.arange(num_columns) / 3.0)
    return generator.standard_normal((num_rows, num_columns)) + start


TROUBLES = (
    Trouble("no trouble, φ = 0.6", autoregression(0.6)),
    Trouble("skewed (exponential)", skewed),
    Trouble("one window in 20 is slow", one_in_twenty_slow),
    Trouble("warming up over ten windows", warming_up),
    Trouble("two time scales", two_speeds),
    Trouble("wandering (random walk)", random_walk),
)


def coverage_fraction(
    simulate: Simulator, num_windows: int, num_future: int, *, num_repetitions: int, seed: int
) -> float:
    """Returns the fraction of 95 % intervals that hold the sum of the windows that follow."""
    fractions = coverage_fractions(
        simulate, num_windows, (num_future,), num_repetitions=num_repetitions, seed=seed
    )
    return fractions[num_future]


def coverage_fractions(
    simulate: Simulator,
    num_windows: int,
    nums_future: Sequence[int],
    *,
    num_repetitions: int,
    seed: int,
) -> dict[int, float]:
    """Returns the same for several numbers of windows that follow, after the same windows."""
    generator = np.random.default_rng(seed)
    values = simulate(generator, num_repetitions, num_windows + max(nums_future))
    energies_kwh = MEAN_KWH + STD_KWH * values
    nums_held = dict.fromkeys(nums_future, 0)
    for row in energies_kwh:
        windows = [Stretch(energy_kwh, 1.0) for energy_kwh in row[:num_windows].tolist()]
        statistics, future = unit_statistics(windows), row[num_windows:]
        for num_future in nums_future:
            interval = prediction_interval(statistics, num_future)
            assert interval is not None
            total_kwh = future[:num_future].sum()
            nums_held[num_future] += interval.low_kwh <= total_kwh <= interval.high_kwh
    return {num_future: held / num_repetitions for num_future, held in nums_held.items()}


def wandering_fraction(
    simulate: Simulator, num_windows: int, *, num_repetitions: int, seed: int
) -> float:
    """Returns the fraction of repetitions whose windows are reported to drift."""
    generator = np.random.default_rng(seed)
    energies_kwh = MEAN_KWH + STD_KWH * simulate(generator, num_repetitions, num_windows)
    found = (
        unit_statistics([Stretch(energy_kwh, 1.0) for energy_kwh in row]).is_wandering
        for row in energies_kwh.tolist()
    )
    return sum(found) / num_repetitions


def steps_coverage_fractions(
    num_runs: int, *, is_proportional: bool, num_repetitions: int, seed: int
) -> tuple[float, float, float]:
    """Returns the coverage of the intervals of fixed energy, step energy and saving.

    Args:
        num_runs: at each of ``STEP_COUNTS``.
        is_proportional: whether the std of a run is 3 % of its energy, or the same for all.
        num_repetitions: of the experiment.
        seed: of the noise.
    """
    generator = np.random.default_rng(seed)
    fixed_kwh, step_kwh = 50.0, 1.0
    true_saving = 1 - (fixed_kwh + 200 * step_kwh) / (fixed_kwh + 1000 * step_kwh)
    num_held = np.zeros(3)
    for _ in range(num_repetitions):
        points = []
        for num_steps in STEP_COUNTS:
            true_kwh = fixed_kwh + step_kwh * num_steps
            std_kwh = 0.03 * true_kwh if is_proportional else 5.0
            for noise in generator.standard_normal(num_runs):
                points.append(StepsPoint(num_steps, max(true_kwh + std_kwh * noise, 0.0)))
        model = fit_steps(points)
        truths = (
            (model.fixed_kwh, fixed_kwh),
            (model.step_kwh, step_kwh),
            (model.saving_fraction(1000, 200), true_saving),
        )
        for place, (estimate, truth) in enumerate(truths):
            assert estimate.low is not None
            assert estimate.high is not None
            num_held[place] += estimate.low <= truth <= estimate.high
    fixed, step, saving = num_held / num_repetitions
    return float(fixed), float(step), float(saving)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def coverage_table() -> str:
    """Returns the coverage over windows, future windows and correlation, in %."""
    rows = []
    for num_windows in NUMS_WINDOWS:
        by_phi = [
            coverage_fractions(
                autoregression(phi),
                num_windows,
                NUMS_FUTURE,
                num_repetitions=NUM_REPETITIONS,
                seed=1,
            )
            for phi in PHIS
        ]
        for num_future in NUMS_FUTURE:
            cells = (f"{100 * fractions[num_future]:.1f}" for fractions in by_phi)
            rows.append([str(num_windows), str(num_future), *cells])
    return markdown(["windows", "future windows", *(f"φ = {phi:g}" for phi in PHIS)], rows)


def trouble_table() -> str:
    """Returns the coverage over windows that break the assumptions, in %."""
    nums_windows, nums_future = (20, 200), (20, 2000)
    rows = []
    for trouble in TROUBLES:
        cells = [
            fraction
            for n in nums_windows
            for fraction in coverage_fractions(
                trouble.simulate, n, nums_future, num_repetitions=NUM_REPETITIONS, seed=2
            ).values()
        ]
        cells += [
            wandering_fraction(trouble.simulate, n, num_repetitions=NUM_REPETITIONS, seed=2)
            for n in nums_windows
        ]
        rows.append([trouble.name, *(f"{100 * cell:.1f}" for cell in cells)])
    covered = (f"{n}, then {k}" for n in nums_windows for k in nums_future)
    return markdown(["windows are", *covered, "20: flagged", "200: flagged"], rows)


def steps_table() -> str:
    """Returns the coverage of the intervals of the steps model, in %."""
    rows = []
    for is_proportional in (False, True):
        for num_runs in STEP_RUNS:
            cells = steps_coverage_fractions(
                num_runs, is_proportional=is_proportional, num_repetitions=NUM_REPETITIONS, seed=3
            )
            noise = "3 % of the energy" if is_proportional else "the same for all"
            rows.append([noise, str(num_runs), *(f"{100 * cell:.1f}" for cell in cells)])
    head = ["std of a run", "runs each", "E_fixed", "E_step", "saving 1000 to 200"]
    return markdown(head, rows)


def paper_table() -> str:
    """Returns the paper's printed ± beside the std of a total of independent units, in kg."""
    text = (files("mlflow_carbon") / "data" / "paper_results.csv").read_text(encoding="utf-8")
    rows = []
    for row in csv.DictReader(text.splitlines()):
        if not row["kg_std"]:
            continue
        num_units = int(row["N_epochs"] or row["N"])
        mean_kg, std_kg = float(row["kg_mean"]), float(row["kg_std"])
        unit_std_kg = std_kg / num_units
        of_total_kg = num_units * unit_std_kg * math.sqrt(1 / 50 + 1 / num_units)
        rows.append(
            [
                row["id"],
                str(num_units),
                f"{mean_kg:g}",
                f"{std_kg:g}",
                f"{100 * std_kg / mean_kg:.3g} %",
                f"{float(f'{100 * std_kg / mean_kg * math.sqrt(num_units):.3g}'):g} %",
                f"{of_total_kg:.2g}",
            ]
        )
    head = [
        "result",
        "N",
        "kg",
        "printed ±",
        "CV of a unit if ± is std × N",
        "if ± is std × √N",
        "± of the total (kg)",
    ]
    return markdown(head, rows)


def example() -> str:
    """Returns the three figures of a small example as text; the page shows their arithmetic."""
    statistics = unit_statistics([Stretch(energy, 1.0) for energy in (9.0, 10.0, 11.0)])
    interval = prediction_interval(statistics, 100)
    spread = spread_kwh(statistics, 100)
    assert interval is not None
    assert spread is not None
    margin = interval.high_kwh - 100 * statistics.mean_kwh
    return (
        f"mean {statistics.mean_kwh:g}, std 1, n 3; for 100 units: 1000, spread ±{spread:g}, "
        f"prediction interval ±{margin:.0f}"
    )


def page() -> str:
    """Returns docs/statistics.md."""
    return f"""# What ± means

Written by `python -m benchmarks.interval_coverage`, with the functions of `uncertainty` and \
`steps_model` in `mlflow_carbon.accounting`. Tables are computed, not typed in.

A run measures n windows and extrapolates to N units. Two figures go by the sign ±, and each is \
printed under its own name.

- **spread** = s × N, with s the sample standard deviation of the per-unit window values. The \
paper prints this. It says how much one unit differs from another, scaled up; it is the error of \
the total only if all N units err together.
- **prediction interval**: where the total of N future units lies, with 95 % probability. For \
independent windows it is N·mean ± t · s · √(N²/M + N), with M measured units and n - 1 degrees \
of freedom. The first term is what n windows do not know of the mean, the second how the future \
varies.

Example, windows of one unit with 9, 10 and 11: {example()}, since \
t = 4.303 and √(100²/3 + 100) = 58.6.

Windows that follow each other are often alike: a warm GPU stays warm. From \
{MIN_WINDOWS_FOR_CORRELATION} windows on, the correlation φ of each window with the next is \
estimated (less its bias of -(1 + 3φ)/n), both terms are scaled as for a first-order \
autoregression, and the degrees of freedom pay for the estimate. The **effective n** that goes \
with every figure is the number of independent windows that would fix the mean as well.

Fewer windows only let φ be guessed. Their interval is the one for independent windows, widened \
towards the corrected one where that is wider: by a share that grows from 0 at three windows to 1 \
at ten, so that the coverage has no step at {MIN_WINDOWS_FOR_CORRELATION}. A caution says so. The \
price: where windows are independent after all, the interval holds in up to 98.5 % of cases.

A figure from fewer than {MIN_DISTINCT_READINGS} distinct power readings carries a caution: its \
spread may be that of the sampling. Coverage, the share of the time that counters or samples \
observed, is printed too: no interval covers an error in what was not observed.

## How often the 95 % interval holds

In % of {NUM_REPETITIONS} simulations each (standard error 0.5), for the sum of the windows that \
follow. Up to three windows the interval is the one for independent windows (φ = 0 is what it \
promises), from {MIN_WINDOWS_FOR_CORRELATION} on the corrected one, and between them the widened \
one.

{coverage_table()}

So: right for independent windows from n = 2; right within 93 to 97 % for |φ| ≤ 0.6 from \
n = {MIN_WINDOWS_FOR_CORRELATION}; at φ = 0.9 it takes 200 windows. With fewer windows that are \
correlated it is too narrow, the more so the fewer they are: measure more.

## Where it does not promise anything

The same, for windows that are not a first-order autoregression. Block means are compared with \
what the correction expects of them; where they differ too much for chance (5 %), a caution says \
that the energy drifts. The last columns say how often.

{trouble_table()}

Power that wanders is not covered by any formula over the first windows. Leave the warm-up out, \
and heed the caution; without it the interval may still be too narrow at few windows.

## The steps model

E = E_fixed + steps · E_step by least squares over runs at {", ".join(map(str, STEP_COUNTS))} \
steps, truth E_fixed = 50 × E_step; in % of {NUM_REPETITIONS} simulations each.

{steps_table()}

Least squares takes all runs as equally exact. Where the std grows with the energy instead, the \
interval of E_step is much too narrow and those of E_fixed and of the saving are too wide.

## The paper's ±

Its units are epochs (training) and samples (synthesis). If ± were the error of a total of \
independent units, single epochs would have to vary by many times their own energy. So it is \
s × N, the spread. The last column is the standard deviation of the total that the same windows \
imply, if they are independent: s · N · √(1/50 + 1/N).

{paper_table()}
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}")


if __name__ == "__main__":
    main()
