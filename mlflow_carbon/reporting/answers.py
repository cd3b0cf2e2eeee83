"""What a comparison says, in sentences: how many times one group costs another."""

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from mlflow_carbon.accounting.emissions import MeanStd
from mlflow_carbon.accounting.ratios import Ratio, ratio_of_means
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.reporting.compare import PER_RUN, Comparison
from mlflow_carbon.reporting.tables import (
    ENERGY_SCALES,
    MASS_SCALES,
    Scale,
    choose_scale,
    key_text,
    short_name,
)

_MAX_SENTENCES = 6
_PLAIN = Scale("", 1.0)
_NUM_DIGITS = 2


def answers(comparison: Comparison) -> list[str]:
    """Returns the answer of each unit, and where groups were kept apart of each population."""
    found: list[str] = []
    for unit, rows in comparison.table.groupby("unit", sort=False, dropna=False):
        is_per_run = comparison.per == PER_RUN or pd.isna(unit)
        per = PER_RUN if is_per_run else str(unit)
        apart = [key for key in comparison.kept_apart if rows[key].nunique(dropna=False) > 1]
        for _, population in rows.groupby(apart or ["unit"], sort=False, dropna=False):
            where = _named(population.iloc[0], apart)
            found += _of_population(comparison, population, per, f" ({where})" if where else "")
        found += _of_regions(rows, per)
    if len(found) > _MAX_SENTENCES:
        rest = len(found) - _MAX_SENTENCES + 1
        found = [*found[: _MAX_SENTENCES - 1], f"... and {rest} more; see the tables."]
    return found


def _of_population(
    comparison: Comparison, rows: pd.DataFrame, per: str, where: str
) -> Iterator[str]:
    unit = shown(per, max_chars=MAX_NAME_CHARS)
    keys = [key for key in comparison.group_by if key not in comparison.kept_apart]
    varying = [key for key in keys if rows[key].nunique(dropna=False) > 1]
    regions = list(rows["region"].dropna().unique())
    if comparison.baseline:
        yield from _against_baseline(comparison, rows, varying, unit, where)
        return
    first = rows[rows["region"] == regions[0]] if regions else rows
    if len(first) > 1:
        means = first[_stem(per) + "_mean"]
        dearest, cheapest = first.loc[means.idxmax()], first.loc[means.idxmin()]
        ratio = ratio_of_means(_mean(dearest, per), _mean(cheapest, per))
        if ratio is not None:
            interval = _interval(ratio) if len(first) == 2 else ""
            verb = "cost" if _is_count(dearest, varying) else "costs"
            yield (
                f"{_capital(_label(dearest, varying))} {verb} {_times(ratio.value)} × "
                f"{_label(cheapest, varying)} per {unit}{where}{interval}."
            )
    else:
        yield _single(first.iloc[0], per, unit, where)


def _of_regions(rows: pd.DataFrame, per: str) -> Iterator[str]:
    """Yields how many times as much the same work emits elsewhere, where it is the same."""
    by_region = rows.groupby("region", sort=False)
    if by_region.ngroups < 2 or by_region["num_runs"].sum().nunique() > 1:
        return
    masses_g = by_region[f"{_stem(per, 'co2e_g')}_mean"].mean()
    energies_kwh = by_region[f"{_stem(per)}_mean"].mean()
    most, least = masses_g.idxmax(), masses_g.idxmin()
    is_same_work = math.isclose(energies_kwh[most], energies_kwh[least], rel_tol=1e-9)
    if masses_g[least] > 0 and most != least and is_same_work:
        times = _times(masses_g[most] / masses_g[least])
        yield f"In {most} the same emits {times} × as much CO2e as in {least}."


def _against_baseline(
    comparison: Comparison, rows: pd.DataFrame, varying: Sequence[str], unit: str, where: str
) -> Iterator[str]:
    against = baseline_label(comparison.baseline or {})
    rows = held_against_baseline(comparison, rows)
    named = [*varying, *(["region"] if rows["region"].nunique() > 1 else [])]
    for _, row in rows.iterrows():
        ratio = Ratio(row["co2e_ratio"], row["co2e_ratio_low"], row["co2e_ratio_high"])
        if math.isnan(ratio.value):
            continue
        verb = "emit" if _is_count(row, named) else "emits"
        bounds = ""
        if ratio.low is not None and ratio.high is not None and not math.isnan(ratio.low):
            low, high = (f"{100 * (bound - 1):+.0f}" for bound in (ratio.low, ratio.high))
            bounds = f", 95 % interval {low} to {high} %"
        yield (
            f"{_capital(_label(row, named))} {verb} {_times(ratio.value)} × {against} per {unit} "
            f"({100 * (ratio.value - 1):+.0f} %{bounds}){where}."
        )


def _single(row: pd.Series, per: str, unit: str, where: str) -> str:
    energy, mass = row[_stem(per) + "_mean"], row[_stem(per, "co2e_g") + "_mean"]
    energy_scale = choose_scale([energy], ENERGY_SCALES)
    mass_scale = choose_scale([mass], MASS_SCALES)
    article = "An" if unit[:1].lower() in "aeio" else "A"
    region = f" in {row['region']}" if not pd.isna(row["region"]) else ""
    return (
        f"{article} {unit} takes {energy_scale.text(energy, 3)} {energy_scale.symbol} and emits "
        f"{mass_scale.text(mass, 3)} {mass_scale.symbol} CO2e{region}{where}."
    )


def _mean(row: pd.Series, per: str) -> MeanStd:
    std = row[_stem(per) + "_std_between"]
    num = int(row["num_runs"])
    return MeanStd(float(row[_stem(per) + "_mean"]), None if pd.isna(std) else float(std), num)


def _stem(per: str, quantity: str = "energy_kwh") -> str:
    return quantity if per == PER_RUN else f"{quantity}_per_unit"


def _interval(ratio: Ratio) -> str:
    if ratio.low is None or ratio.high is None:
        return ""
    return f" (95 % interval {_times(ratio.low)} to {_times(ratio.high)})"


def _times(value: float) -> str:
    """Returns a ratio to two digits, more where it is close to 1, and whole numbers whole."""
    num_digits = 3 if 0.9 < value < 1.1 or value >= 100 else _NUM_DIGITS
    return _PLAIN.text(value, num_digits)


def held_against_baseline(comparison: Comparison, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows that say something of their own: of the same runs those of one region."""
    if not comparison.is_repriced or "region" in (comparison.baseline or {}):
        return rows
    return rows[rows["region"] == rows["region"].iloc[0]]


def baseline_label(baseline: Mapping[str, str]) -> str:
    """Returns the values of a baseline as its row is named."""
    return _label(pd.Series(dict(baseline)), list(baseline))


def _label(row: pd.Series, names: Sequence[str]) -> str:
    """Returns the values that name a row: ``50 steps``; of several keys ``steps 50, lab A``."""
    if _is_count(row, names):
        return shown(f"{row[names[0]]} {short_name(names[0])}", max_chars=MAX_NAME_CHARS)
    return _named(row, names)


def _named(row: pd.Series, names: Sequence[str]) -> str:
    listed = (
        f"{short_name(name)} {key_text(name, row[name])}" for name in names if name != "region"
    )
    label = ", ".join([*listed, *([f"in {row['region']}"] if "region" in names else [])])
    return shown(label, max_chars=MAX_NAME_CHARS)


def _is_count(row: pd.Series, names: Sequence[str]) -> bool:
    """Returns whether a row is named by a number of something, as 50 steps."""
    if len(names) != 1 or not names[0].endswith("s"):
        return False
    return not math.isnan(float(pd.to_numeric(row[names[0]], errors="coerce")))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
