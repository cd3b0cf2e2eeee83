"""A comparison for people: the answer, then tables of 80 columns, then what they rest on."""

import math
import textwrap
from collections.abc import Container, Iterable, Sequence

import pandas as pd

from mlflow_carbon.grid.intensity import price_label
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.reporting.answers import answers, baseline_label, held_against_baseline
from mlflow_carbon.reporting.compare import PER_RUN, Comparison
from mlflow_carbon.reporting.report import TEXT_WIDTH, Column, Report, Table
from mlflow_carbon.reporting.tables import (
    ABSENT,
    NUM_STD_DIGITS,
    QUANTITIES,
    Scale,
    choose_scale,
    key_columns,
    without_empty,
)
from mlflow_carbon.store.runs import words_of

_MAX_INTENSITIES = 6  # that are told in a sentence
_MIXED = "mixed"
_PLAIN = Scale("", 1.0)
_LEAST_P = 0.001
_LEGEND = {
    "within": "std of the windows inside runs, pooled, in % of the mean.",
    "readings": "distinct powers of the windows.",
    "coverage": "share of the time that was observed.",
}
_LEGEND_OF_BASELINE = {  # columns that two runs a group or more have
    "p": "Intervals: 95 %, of the ratio of means (Fieller). p: Welch's t-test of energy, corrected "
    "by Holm.",
    "g": "g: the difference in stds between runs (Hedges).",
}
_NO_INTERVAL = "One run a group tells no interval and no p: measure each twice or more."
_LEGEND_OF_STD = {
    "between": "± is the sample std between runs, each run counting once.",
    "within": "± is the std of the windows within a run.",
    "both": "± is the sample std between runs; for one run, that of the windows within it.",
}


def comparison_report(comparison: Comparison) -> Report:
    """Returns the answers, a table a unit, one of the whole runs, and what they rest on."""
    table = comparison.table
    keys = [*comparison.group_by, *_keys_that_vary(table, ["region"])]
    parts: list[str | Table | Report] = ["".join(f"{line}\n" for line in answers(comparison)), "\n"]
    by_unit = list(table.groupby("unit", sort=False, dropna=False))
    if comparison.per != PER_RUN:
        for unit, rows in by_unit:
            name = shown(str(unit), max_chars=MAX_NAME_CHARS)
            parts += _unit_parts(comparison, rows, keys, name)
    run_keys = keys if len(by_unit) == 1 else [*keys, "unit"]
    if comparison.per in (None, PER_RUN):
        parts += _run_parts(comparison, table, run_keys)
    columns = [it for part in parts if isinstance(part, Table) for it in part.columns]
    return Report.of(*parts, _footer(table, {it.head.partition(" (")[0] for it in columns}))


def _unit_parts(
    comparison: Comparison, rows: pd.DataFrame, keys: Sequence[str], unit: str
) -> list[str | Table | Report]:
    columns, std_is = _per_unit_columns(rows, keys)
    parts: list[str | Table | Report] = [
        f"Per {unit}\n",
        Table(tuple(columns), num_keys=len(keys)),
        f"{_LEGEND_OF_STD[std_is]}\n" if std_is else "",
        "\n",
    ]
    return parts + _further_parts(comparison, rows, keys, unit)


def _run_parts(
    comparison: Comparison, rows: pd.DataFrame, keys: Sequence[str]
) -> list[str | Table | Report]:
    columns = _whole_run_columns(rows, keys)
    has_std = bool(rows["energy_kwh_std_between"].notna().any())
    parts: list[str | Table | Report] = [
        "Per run\n",
        Table(tuple(columns), num_keys=len(keys)),
        f"{_LEGEND_OF_STD['between']}\n" if has_std and comparison.per == PER_RUN else "",
        "\n",
    ]
    if comparison.per == PER_RUN:
        parts += _further_parts(comparison, rows, keys, PER_RUN)
    return parts


def _further_parts(
    comparison: Comparison, rows: pd.DataFrame, keys: Sequence[str], unit: str
) -> list[str | Table | Report]:
    """Returns the table of so many units, and that against the baseline, where asked for."""
    parts: list[str | Table | Report] = []
    if "scaled_num_units" in rows:
        num = rows["scaled_num_units"].iloc[0]
        parts += [
            f"For {num:.12g} × {unit}\n",
            Table(tuple(_scaled_columns(rows, keys)), num_keys=len(keys)),
            "± is the std above as many times, not the error of the total.\n\n",
        ]
    if comparison.baseline:
        held, held_keys = held_against_baseline(comparison, rows), list(keys)
        if held["region"].nunique() < 2 and "region" in keys:
            held_keys.remove("region")
        columns = tuple(_baseline_columns(held, held_keys))
        heads = {column.head for column in columns}
        legend = " ".join(text for head, text in _LEGEND_OF_BASELINE.items() if head in heads)
        if not legend and not comparison.is_repriced:  # one work's ratio of regions is exact
            legend = _NO_INTERVAL
        parts += [
            f"Against {baseline_label(comparison.baseline)}, per {unit}\n",
            Table(columns, num_keys=len(held_keys)),
            f"{textwrap.fill(legend, TEXT_WIDTH)}\n\n" if legend else "\n",
        ]
    return parts


def _per_unit_columns(rows: pd.DataFrame, keys: Sequence[str]) -> tuple[list[Column], str]:
    """Returns the columns, and which std the ± is: between, within, both, or nothing."""
    has_between = rows["energy_kwh_per_unit_std_between"].notna()
    has_within = rows["energy_kwh_per_unit_std_within"].notna()
    which = has_between.map({True: "between", False: "within"}).where(has_between | has_within)
    kinds = set(which.dropna())
    std_is = "both" if len(kinds) > 1 else next(iter(kinds), "")
    columns = key_columns(rows, keys)
    columns.append(Column("runs", list(map(str, rows["num_runs"]))))
    columns.append(Column("windows", list(map(str, rows["num_windows"]))))
    for title, quantity, scales in QUANTITIES:
        means = rows[f"{quantity}_per_unit_mean"]
        betweens = rows[f"{quantity}_per_unit_std_between"]
        withins = rows[f"{quantity}_per_unit_std_within"]
        scale = choose_scale(means, scales)
        texts = list(map(scale.text_with_std, means, betweens.where(has_between, withins)))
        columns.append(Column(f"{title} ({scale.symbol})", texts))
    if "between" in kinds:
        means = rows["energy_kwh_per_unit_mean"]
        shares = rows["energy_kwh_per_unit_std_within"] / means.where(means > 0)
        texts = [Scale("%", 100.0).text(share, NUM_STD_DIGITS) for share in shares]
        columns.append(Column("within (%)", texts))
    if std_is == "both":
        columns.append(Column("± is", list(which.fillna(ABSENT)), is_text=True))
    return without_empty(columns), std_is


def _whole_run_columns(rows: pd.DataFrame, keys: Sequence[str]) -> list[Column]:
    columns = key_columns(rows, keys)
    columns.append(Column("runs", list(map(str, rows["num_runs"]))))
    for title, quantity, scales in QUANTITIES:
        means = rows[f"{quantity}_mean"]
        scale = choose_scale(means, scales)
        texts = map(scale.text_with_std, means, rows[f"{quantity}_std_between"])
        columns.append(Column(f"{title} ({scale.symbol})", list(texts)))
    readings = [ABSENT if pd.isna(num) else f"{num:.0f}" for num in rows["num_distinct_readings"]]
    coverages = [ABSENT if pd.isna(part) else f"{part:.0%}" for part in rows["coverage_fraction"]]
    columns.append(Column("readings", readings))
    columns.append(Column("coverage", coverages))
    if _differs(rows["pue"]):
        columns.append(Column("PUE", _assumption_texts(rows["pue"])))
    if not _tells_intensities(rows):
        columns.append(Column("g/kWh", _assumption_texts(rows["intensity_g_per_kwh"])))
    if _differs(rows["methods"]) and "carbon.method" not in keys:
        how = rows["methods"].map(words_of, na_action="ignore").fillna(_MIXED)
        columns.append(Column("energy is", list(how), is_text=True))
    return without_empty(columns)


def _scaled_columns(rows: pd.DataFrame, keys: Sequence[str]) -> list[Column]:
    columns = key_columns(rows, keys)
    for title, quantity, scales in QUANTITIES:
        means = rows[f"{quantity}_scaled_mean"]
        scale = choose_scale(means, scales)
        texts = map(scale.text_with_std, means, rows[f"{quantity}_scaled_std"])
        columns.append(Column(f"{title} ({scale.symbol})", list(texts)))
    return columns


def _baseline_columns(rows: pd.DataFrame, keys: Sequence[str]) -> list[Column]:
    columns = key_columns(rows, keys)
    names = [f"energy_ratio{suffix}" for suffix in ("", "_low", "_high")]
    ratios = [_with_bounds(*(row[name] for name in names)) for _, row in rows.iterrows()]
    columns.append(Column("energy (×)", ratios))
    names = [f"co2e_ratio{suffix}" for suffix in ("", "_low", "_high")]
    changes = [
        _with_bounds(*(100 * (row[name] - 1) for name in names), is_change=True)
        for _, row in rows.iterrows()
    ]
    columns.append(Column("CO2e (%)", changes))
    columns.append(Column("p", [_p_text(p) for p in rows["p_value_holm"]]))
    columns.append(Column("g", [_number(size) for size in rows["effect_size"]]))
    return without_empty(columns)


def _with_bounds(value: float, low: float, high: float, *, is_change: bool = False) -> str:
    if math.isnan(value):
        return ABSENT
    texts = [f"{it:+.1f}" if is_change else _number(it) for it in (value, low, high)]
    return texts[0] if math.isnan(low) else f"{texts[0]} ({texts[1]} to {texts[2]})"


def _number(value: float) -> str:
    return ABSENT if math.isnan(value) else _PLAIN.text(value, 3)


def _p_text(p: float) -> str:
    if math.isnan(p):
        return ABSENT
    return f"< {_LEAST_P:g}" if p < _LEAST_P else f"{p:.3f}"


def _footer(table: pd.DataFrame, heads: Container[str]) -> str:
    """Returns the notes on all rows: intensities, PUE, methods, meaning of the columns shown."""
    told = []
    if _tells_intensities(table):
        columns = ["region", "intensity_g_per_kwh", "period", "intensity_set"]
        used = table[columns].drop_duplicates().itertuples(index=False)
        listed = ", ".join(
            price_label(
                _known(region), g_per_kwh, period=_known(period), intensity_set=_known(name)
            )
            for region, g_per_kwh, period, name in used
        )
        told.append(f"CO2e by {listed}")
    elif origins := _origins(table):
        told.append(f"intensities of {'; '.join(origins)}")
    if not _differs(table["pue"]):
        told.append(f"PUE {table['pue'].iloc[0]:.6g}")
    if not _differs(table["methods"]) and table["methods"].iloc[0]:
        told.append(words_of(table["methods"].iloc[0]))
    lines = [f"{'; '.join(told)}."] if told else []
    lines.append(
        " ".join(f"{head}: {meaning}" for head, meaning in _LEGEND.items() if head in heads)
    )
    return "".join(f"{textwrap.fill(shown(line), TEXT_WIDTH)}\n" for line in lines)


def _known(text: object) -> str | None:
    return None if pd.isna(text) else str(text)


def _tells_intensities(table: pd.DataFrame) -> bool:
    used = table[["region", "intensity_g_per_kwh", "period", "intensity_set"]].drop_duplicates()
    is_known = bool(used["intensity_g_per_kwh"].notna().all())
    return is_known and len(used) <= _MAX_INTENSITIES and used["region"].is_unique


def _origins(table: pd.DataFrame) -> list[str]:
    """Returns year and set of the intensities, whose figures are in a column."""
    used = table[["period", "intensity_set"]].drop_duplicates().itertuples(index=False)
    origins = [", ".join(filter(None, map(_known, row))) for row in used]
    return list(filter(None, dict.fromkeys(origins)))


def _keys_that_vary(table: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    return [key for key in keys if table[key].nunique(dropna=False) > 1]


def _differs(values: pd.Series) -> bool:
    return bool(values.isna().any()) or values.nunique() > 1


def _assumption_texts(values: Iterable[float]) -> list[str]:
    """Returns PUEs or intensities as they were given; ``mixed`` where a group has several."""
    return [_MIXED if math.isnan(value) else f"{value:.6g}" for value in values]
