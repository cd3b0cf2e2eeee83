"""What the report says, computed from runs: totals, how they were measured, what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mlflow_carbon.accounting.measurement_error import worst_error_fractions
from mlflow_carbon.contract import keys
from mlflow_carbon.pictures.frames import price_texts
from mlflow_carbon.reporting.savings import Change
from mlflow_carbon.reporting.tables import ENERGY_SCALES, MASS_SCALES, choose_scale
from mlflow_carbon.store.runs import TAG_COLUMN_PREFIX

# What runs say went wrong.
_WORDS_BY_FAULT = {
    keys.TAG_ERROR: "said what failed while they were measured",
    keys.TAG_UNREAD_DEVICES: "had devices that could not be read",
    keys.TAG_MISSING_NODES: "lack the energy of a node",
    keys.TAG_SHARED: "shared their machine, so their energies overlap",
}
# Tags of ours that a report needs beside those of a comparison.
REPORT_TAGS = (keys.TAG_PARTIAL, *_WORDS_BY_FAULT)
_PARTIAL = TAG_COLUMN_PREFIX + keys.TAG_PARTIAL
_ESTIMATED = keys.METHOD_TDP


@dataclass(frozen=True)
class Footprint:
    """The sum of the runs, each joule counted once.

    Attributes:
        num_runs: runs in the sum.
        num_children: runs left out, for their parent's energy contains theirs.
        num_partial: runs of which only a lower bound is known.
        num_unpriced: runs with energy, but without recorded CO2e.
        energy_kwh: IT energy.
        co2e_g: as recorded.
        duration_s: of the runs together.
        counted_fraction: share of the energy whose time was observed by counters or samples;
            ``None`` where no run says.
        error_fractions: how far the energy may lie below and above, at most, by the methods;
            ``None`` where no run, or not every run, says its methods.
    """

    num_runs: int
    num_children: int
    num_partial: int
    num_unpriced: int
    energy_kwh: float
    co2e_g: float
    duration_s: float
    counted_fraction: float | None
    error_fractions: tuple[float, float] | None = None


def footprint(runs: pd.DataFrame) -> Footprint:
    """Returns the sum of runs; a child of a run in the sum is inside it already."""
    summed = summed_runs(runs)
    energies_kwh = summed["energy_kwh"].fillna(0.0)
    known = summed["coverage_fraction"].notna() & (energies_kwh > 0)
    counted = (summed["coverage_fraction"] * energies_kwh)[known].sum()
    weight = energies_kwh[known].sum()
    return Footprint(
        num_runs=len(summed),
        num_children=len(runs) - len(summed),
        num_partial=int(_tagged(summed, _PARTIAL).eq("true").sum()),
        num_unpriced=int((summed["co2e_g"].isna() & summed["energy_kwh"].notna()).sum()),
        energy_kwh=float(energies_kwh.sum()),
        co2e_g=float(summed["co2e_g"].fillna(0.0).sum()),
        duration_s=float(summed["duration_s"].fillna(0.0).sum()),
        counted_fraction=float(counted / weight) if weight > 0 else None,
        error_fractions=_error_fractions(summed["methods"], energies_kwh),
    )


def _error_fractions(methods: pd.Series, energies_kwh: pd.Series) -> tuple[float, float] | None:
    """Returns the sum's error: each run's is that of its worst method, all low or high at once."""
    total_kwh = float(energies_kwh.sum())
    low = high = 0.0
    for text, kwh in energies_kwh.groupby(methods.fillna("")).sum().items():
        names = [pair.partition("=")[2] for pair in str(text).split(",")]
        worst = worst_error_fractions(names)
        if kwh > 0:
            if worst is None:
                return None
            low, high = low + worst[0] * kwh, high + worst[1] * kwh
    return (low / total_kwh, high / total_kwh) if total_kwh > 0 else None


def _error_text(fractions: tuple[float, float] | None) -> str:
    """Returns the error of energy and CO2e: ``; each within −50 to +100 %``."""
    if fractions is None or not any(fractions):
        return ""
    below, above = (round(100 * it) for it in fractions)
    return "; each within " + (f"± {above} %" if below == above else f"−{below} to +{above} %")


def summed_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the runs whose energy is in no other run of these."""
    parents = set(runs.loc[runs["energy_kwh"].notna(), "run_id"])
    return runs[~runs["parent_run_id"].isin(parents)]


def answer(total: Footprint, runs: pd.DataFrame, changes: Sequence[Change], *, name: str) -> str:
    """Returns the report in a sentence or two."""
    mass = choose_scale([total.co2e_g], MASS_SCALES)
    energy = choose_scale([total.energy_kwh], ENERGY_SCALES)
    runs_word = "run" if total.num_runs == 1 else "runs"
    bound = "at least " if total.num_partial else ""
    text = (
        f"{name}: {total.num_runs} {runs_word} emitted {bound}{mass.text(total.co2e_g, 3)} "
        f"{mass.symbol} CO2e ({energy.text(total.energy_kwh, 3)} {energy.symbol}"
        f"{_error_text(total.error_fractions)}), "
        f"priced at {'; '.join(prices(runs)) or 'no recorded intensity'}."
    )
    is_place = {"region", "month", "hour"}
    largest = [
        next((it for it in changes if it.is_shown and it.setting not in is_place), None),
        next((it for it in changes if it.setting in is_place), None),
    ]
    told = [
        f"{it.setting} {it.before} to {it.after} {percent(-it.saving_fraction)}" + _in_brackets(it)
        for it in largest
        if it is not None
    ]
    if told:
        text += f" Largest savings found: {'; '.join(told)}."
    return text


def _in_brackets(change: Change) -> str:
    """Returns a saving's interval, and why it may be none."""
    told = filter(None, ["" if change.low is None else bounds(change), change.caveat])
    listed = "; ".join(told)
    return f" ({listed})" if listed else ""


def prices(runs: pd.DataFrame) -> list[str]:
    """Returns each recorded intensity and PUE: ``SE 7 g/kWh (2022, ember), PUE 1``."""
    columns = ["region", "intensity_g_per_kwh", "period", "intensity_set", "pue"]
    known = list(filter(None, dict.fromkeys(price_texts(runs[columns].drop_duplicates()))))
    return known[:6] + (["and others"] if len(known) > 6 else [])


def method_shares(runs: pd.DataFrame) -> list[tuple[str, int, float]]:
    """Returns each way of measuring, its number of runs, and its share of the energy."""
    summed = summed_runs(runs)
    total_kwh = summed["energy_kwh"].sum()
    shares = []
    for methods, rows in summed.groupby("methods"):
        share = float(rows["energy_kwh"].sum() / total_kwh) if total_kwh > 0 else 0.0
        shares.append((str(methods), len(rows), share))
    return sorted(shares, key=lambda item: -item[2])


def unmeasured(runs: pd.DataFrame, total: Footprint, *, num_unmetered: int | None) -> list[str]:
    """Returns a sentence for each thing that the sum does not hold."""
    sentences = []
    if num_unmetered:
        sentences.append(f"Runs of the experiment that were not metered at all: {num_unmetered}.")
    if num_unmetered is None:
        sentences.append("Runs that were not metered: this store does not tell how many.")
    if total.num_partial:
        sentences.append(f"Runs killed or not yet ended, a lower bound each: {total.num_partial}.")
    if total.num_unpriced:
        sentences.append(f"Runs with energy and no recorded CO2e: {total.num_unpriced}.")
    without = int(runs["energy_kwh"].isna().sum())
    if without:
        sentences.append(f"Metered runs of which no energy was measured: {without}.")
    if runs["methods"].str.contains(f"={_ESTIMATED}", regex=False).any():
        sentences.append(
            "An estimated CPU: its energy follows from its design power and its load; its error is "
            "not known from these runs."
        )
    for tag, words in _WORDS_BY_FAULT.items():
        values = _tagged(runs, TAG_COLUMN_PREFIX + tag).dropna()
        values = values[values.ne("false")]
        if len(values):
            sentences.append(f"{len(values)} runs {words} ({tag}), as {values.iloc[0]!s:.120}.")
    sentences.append(
        "Never measured: making the hardware, storage and network, the machine's idle time between "
        "runs, and what other people's machines did."
    )
    return sentences


def percent(fraction: float) -> str:
    """Returns a signed percentage with at most three digits: ``−92.5 %``."""
    return f"{100 * fraction:+.3g} %".replace("-", "−")


def bounds(change: Change) -> str:
    """Returns the interval of a change: ``95 %: −94 % to −91 %``."""
    if change.low is None or change.high is None:
        return "no interval"
    return f"95 %: {percent(-change.high)} to {percent(-change.low)}"


def _tagged(runs: pd.DataFrame, column: str) -> pd.Series:
    return runs[column] if column in runs else pd.Series(None, index=runs.index, dtype=object)
