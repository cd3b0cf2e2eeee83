"""What the figures draw, as tidy frames: one row a mark, with its spread and its runs."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import InvalidInputError, NoIntensityError, NoRunsError
from mlflow_carbon.grid.intensity import (
    DEFAULT_SET,
    MONTHLY_SETS,
    CarbonIntensity,
    latest_intensities,
    monthly_intensities,
    price_label,
)
from mlflow_carbon.inert import MAX_NAME_CHARS, cut_inside, shown
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.reporting.run_groups import column_of
from mlflow_carbon.reporting.tables import key_text, short_name
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

# Names that parameters go by, ours first.
NAMES_BY_AXIS = {
    "size": ("size", "image_size", "img_size", "resolution"),
    "model_size": ("model_size", "model"),
    "steps": ("steps", "num_inference_steps", "denoising_steps", "num_steps"),
    "gpus": ("num_processes", "num_gpus", "world_size", "devices"),
    "dims": ("dims", "spatial_dims"),
}
POINT_COLUMNS = ("panel", "series", "x", "mean", "std", "num_runs")
PER_UNIT, PER_RUN = "unit", "run"
_MAX_RUN_CHARS = 36
_DEFAULT_REGIONS = ("SE", "FR", "EU27", "DE", "US", "WORLD", "PL", "IN")


@dataclass(frozen=True)
class Amount:
    """What a figure's CO2e or energy is of: a whole run, or so many units of work."""

    per: str = PER_UNIT
    num_units: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.num_units) and self.num_units > 0):
            raise InvalidInputError(
                f"scale_to is {self.num_units:g}; give a number of units above 0.",
                arguments=["scale_to"],
            )
        if self.per == PER_RUN and self.num_units != 1:
            raise InvalidInputError(
                "scale_to counts units; it goes with per unit.", arguments=["scale_to"]
            )

    def of(self, unit: str) -> str:
        """Returns the words after ``CO2e``: per sample, of 10,000 samples, of the run."""
        if self.per == PER_RUN:
            return "of a run"
        name = shown(unit, max_chars=MAX_NAME_CHARS)
        return f"per {name}" if self.num_units == 1 else f"of {self.num_units:,.10g} {name}s"


WHOLE_UNIT = Amount()


def axis_name(runs: pd.DataFrame, axis: str, given: str | None = None) -> str | None:
    """Returns the parameter or tag that holds an axis; ``None`` where the runs have none.

    Args:
        runs: as ``store.read_runs`` returns them.
        axis: a key of ``NAMES_BY_AXIS``.
        given: the name that the user gives; it must exist.

    Raises:
        InvalidInputError: no run has the name that was given.
    """
    if given is not None:
        column_of(runs, given)
        return given
    for name in NAMES_BY_AXIS[axis]:
        if f"{PARAM_COLUMN_PREFIX}{name}" in runs:
            return name
    return None


def points(
    runs: pd.DataFrame,
    *,
    x: str,
    series: Sequence[str] = (),
    amount: Amount = WHOLE_UNIT,
    intensities: Sequence[CarbonIntensity] = (),
    pue: float | None = None,
) -> pd.DataFrame:
    """Returns the mean CO2e in g of each value of ``x``, of each series and unit.

    Columns: ``POINT_COLUMNS`` and ``price``, see ``price_texts``; ``panel`` is the unit, ``std``
    the sample std between runs (NaN for one run), ``x`` a number where every value is one.

    Raises:
        InvalidInputError: no run has a parameter or tag of that name.
        NoRunsError: no run can be compared.
    """
    names = [name for name in dict.fromkeys(series) if name != x]
    comparison = compare_runs(runs, group_by=[x, *names], intensities=intensities, pue=pue)
    table = comparison.table
    names = [name for name in comparison.group_by if name != x]  # with what keeps unlike runs apart
    stem = "co2e_g_per_unit" if amount.per == PER_UNIT else "co2e_g"
    if table["region"].nunique() > 1 and x != "region":
        names = [*names, "region"]
    frame = pd.DataFrame(
        {
            "panel": table["unit"],
            "series": _series_names(table, names, asked=series),
            "x": table[x].map(str),
            "mean": table[f"{stem}_mean"] * amount.num_units,
            "std": table[f"{stem}_std_between"] * amount.num_units,
            "num_runs": table["num_runs"],
            "price": price_texts(table),
        }
    )
    return with_numbers(frame)


def _series_names(table: pd.DataFrame, names: Sequence[str], *, asked: Sequence[str]) -> pd.Series:
    """Returns a name for each row: what it differs in from others of its unit, ``sampler ddim``.

    Args:
        table: of a comparison.
        names: its keys.
        asked: those that are named in any case.
    """
    found = pd.Series("", index=table.index)
    for _, rows in table.groupby("unit", sort=False, dropna=False):
        told = [name for name in names if name in asked or rows[name].nunique(dropna=False) > 1]
        for index, row in rows.iterrows():
            known = [name for name in told if not pd.isna(row[name])]
            found[index] = ", ".join(
                f"{short_name(name)} {key_text(name, row[name])}" for name in known
            )
    return found


def price_texts(rows: pd.DataFrame) -> list[str]:
    """Returns the price of each row: ``SE 7 g/kWh (2022, ember), PUE 1``.

    Empty where a row rests on several prices, or on none that is known.
    """
    found = []
    for row in rows.to_dict("records"):
        period, intensity_set = (
            None if pd.isna(it) else str(it) for it in (row["period"], row["intensity_set"])
        )
        pue = "" if pd.isna(row["pue"]) else f", PUE {row['pue']:g}"
        g_per_kwh = row["intensity_g_per_kwh"]
        is_known = not (pd.isna(g_per_kwh) or pd.isna(row["region"]))
        if is_known:
            price = price_label(
                row["region"], g_per_kwh, period=period, intensity_set=intensity_set
            )
        found.append(f"{price}{pue}" if is_known else "")
    return found


def with_numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns points with ``x`` as numbers where all are, sorted by them, else by sizes in text."""
    numbers = pd.to_numeric(frame["x"], errors="coerce")
    if not numbers.isna().any():
        ordered = frame.assign(x=numbers.astype(float))
        return ordered.sort_values(["panel", "series", "x"]).reset_index(drop=True)
    order = frame["x"].map(_size_in_text)
    return (
        frame.assign(_order=order)
        .sort_values(["panel", "_order", "x", "series"])
        .drop(columns="_order")
        .reset_index(drop=True)
    )


def _size_in_text(text: str) -> float:
    """Returns a number that sorts 64x64 before 128x128, and tiny before large."""
    numbers = [float(part) for part in re.findall(r"\d+(?:\.\d+)?", text)[:4]]
    named = {"tiny": 0.1, "small": 0.2, "medium": 0.3, "base": 0.3, "large": 0.4, "huge": 0.5}
    return math.prod(numbers) if numbers else named.get(text.strip().lower(), 0.6)


def region_points(
    energy_kwh: float,
    *,
    pue: float,
    regions: Sequence[CarbonIntensity] = (),
    own: str | None = None,
) -> pd.DataFrame:
    """Returns an energy's CO2e in g in each region, least first: x, mean, g_per_kwh, is_own.

    Args:
        energy_kwh: IT energy.
        pue: facility energy over IT energy.
        regions: which; if empty, well-known ones of the default set and the run's own.
        own: the region of the runs, which is marked.
    """
    chosen = list(regions)
    if not chosen:
        wanted = {*_DEFAULT_REGIONS, own}
        chosen = [it for it in latest_intensities(DEFAULT_SET) if it.region in wanted]
    return _priced(energy_kwh, chosen, pue, own=own).sort_values("mean").reset_index(drop=True)


def month_points(
    energy_kwh: float, region: str, *, pue: float, year: str | None = None
) -> pd.DataFrame:
    """Returns an energy's CO2e in g in each month of a year; empty where no months are known.

    Args:
        energy_kwh: IT energy.
        region: which one.
        pue: facility energy over IT energy.
        year: which one; ``None`` takes the newest that is known.
    """
    try:
        months = monthly_intensities(region, intensity_set=MONTHLY_SETS[0])
    except NoIntensityError:
        months = ()
    newest = year or max((month.period[:4] for month in months), default="")
    of_year = [month for month in months if month.period.startswith(newest)]
    return _priced(energy_kwh, of_year, pue, own=None)


def _priced(
    energy_kwh: float, intensities: Sequence[CarbonIntensity], pue: float, *, own: str | None
) -> pd.DataFrame:
    rows = [
        {
            "x": it.region,
            "period": it.period,
            "mean": energy_kwh * pue * it.g_per_kwh,
            "g_per_kwh": it.g_per_kwh,
            "intensity_set": it.intensity_set,
            "is_own": it.region == own,
        }
        for it in intensities
    ]
    columns = ["x", "period", "mean", "g_per_kwh", "intensity_set", "is_own"]
    return pd.DataFrame(rows, columns=columns)


def pareto(frame: pd.DataFrame, *, is_lower_better: bool) -> pd.DataFrame:
    """Returns quality points with ``is_on_front``: no other is both cheaper and at least as good.

    Args:
        frame: with columns ``quality`` and ``mean``, g of CO2e.
        is_lower_better: whether a low quality figure is a good one, as for FID and KID.
    """
    sign = 1.0 if is_lower_better else -1.0
    ordered = frame.assign(_key=frame["quality"] * sign).sort_values(["mean", "_key"])
    best = ordered["_key"].cummin().shift(fill_value=math.inf)
    ordered["is_on_front"] = ordered["_key"] < best
    return ordered.drop(columns="_key").reset_index(drop=True)


def run_bars(runs: pd.DataFrame, *, most: int = 15) -> pd.DataFrame:
    """Returns the CO2e in g of each run, the largest first, the rest in one bar.

    Columns: ``label``, ``run_id`` (empty for the rest), ``mean``, ``is_partial``, and ``price``
    (see ``price_texts``; of the rest that of the first of them).
    """
    masses_g = runs["co2e_g"].dropna().sort_values(ascending=False)
    known = runs.loc[masses_g.index[:most]]  # of 100,000 runs no more are looked at
    is_partial = runs.get("tags.carbon.partial", pd.Series(index=runs.index, dtype=object)).eq(
        "true"
    )
    frame = pd.DataFrame(
        {
            "label": _run_labels(known),
            "run_id": known["run_id"],
            "mean": known["co2e_g"],
            "is_partial": is_partial[known.index],
            "price": price_texts(known),
        }
    )
    if len(masses_g) <= most:
        return frame.reset_index(drop=True)
    rest = masses_g.iloc[most - 1 :]
    others = {
        "label": f"{len(rest)} others together",
        "run_id": "",
        "mean": rest.sum(),
        "is_partial": bool(is_partial[rest.index].any()),
        "price": frame["price"].iloc[most - 1],
    }
    return pd.concat([frame.iloc[: most - 1], pd.DataFrame([others])], ignore_index=True)


def _run_labels(runs: pd.DataFrame) -> list[str]:
    """Returns the runs' names, their middle cut where they are long, and ids of namesakes."""
    names = [cut_inside(str(name), max_chars=_MAX_RUN_CHARS) for name in runs["run_name"]]
    return [
        name if names.count(name) == 1 else f"{name} · {run_id[:6]}"
        for name, run_id in zip(names, runs["run_id"], strict=True)
    ]


def energy_so_far(record: RunRecord) -> pd.DataFrame:
    """Returns a run's energy in kWh at the end of each window: ``end_s``, and a column a component.

    The first row is the start, and the last one the whole run, where it has more than its windows
    have. Where components are not told apart, or not in every window, the one column is ``all``.

    Raises:
        NoRunsError: the run has neither windows nor a total.
    """
    windows = sorted(record.windows.values(), key=lambda window: window.end_unix_s)
    total = record.total
    if total is None or total.energy_kwh is None or not total.duration_s:
        raise NoRunsError(f"Run {record.run_id} has no measured energy to draw over time.")
    end_s = windows[-1].end_unix_s if windows else 0.0
    end_s = max(end_s, (record.total_end_ms or 0) / MILLISECONDS_PER_SECOND)
    start_s = end_s - total.duration_s
    parts = [window.energy_kwh_by_component for window in windows]
    names = sorted(total.energy_kwh_by_component)
    if len(names) == 1:  # version 2 keeps a window's energy, not its components'
        parts = [{names[0]: window.energy_kwh} for window in windows]
    if not names or any(set(part) != set(names) for part in parts):
        parts, names = [{"all": window.energy_kwh} for window in windows], ["all"]
        whole = {"all": total.energy_kwh}
    else:
        whole = dict(total.energy_kwh_by_component)
    rows = pd.DataFrame([dict.fromkeys(names, 0.0), *parts], columns=names).cumsum()
    rows.insert(0, "end_s", [0.0, *(max(w.end_unix_s - start_s, 0.0) for w in windows)])
    rest = {name: max(whole[name], rows[name].iloc[-1]) for name in names}
    last = {"end_s": max(total.duration_s, rows["end_s"].iloc[-1]), **rest}
    return pd.concat([rows, pd.DataFrame([last])], ignore_index=True)
