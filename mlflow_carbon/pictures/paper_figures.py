"""The paper's four figures from any store: image size, model size, place and time, steps and GPUs.

Source: Seyfarth et al. 2024, arXiv:2407.14892, Figs. 1 to 4.
"""

from collections.abc import Iterable
from functools import partial
from operator import mul

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from mlflow_carbon.accounting.equivalents import DEFAULT_EDITION_BY_KIND, equivalent
from mlflow_carbon.inert import shown
from mlflow_carbon.pictures.frames import Amount
from mlflow_carbon.pictures.style import (
    INK,
    MARKERS,
    PALETTE,
    PANEL_HEIGHT_IN,
    finish,
    is_wide,
    label,
    legend_columns,
    legend_height_in,
    new_figure,
    plain_number,
    price_note,
    scale_axis,
)
from mlflow_carbon.reporting.tables import MASS_SCALES, Scale, choose_scale
from mlflow_carbon.units import grams_from_kg, kg_from_grams

_SPREAD_NOTE = "Mean of the runs; error bars: ± 1 sample std between runs (none for one run)."
_MIN_DRAWN_FRACTION = 1e-3  # of the mean: an error bar never reaches 0 on a logarithmic axis
_BAR_WIDTH = 0.8
_MAX_SERIES_CHARS = 40  # that fit the width of a panel
# Below one phone charge there is no equivalent that anybody can picture.
_AXIS_BY_KIND = {"car": "km by car", "phone": "phone charges"}
_MONTHS = tuple("JFMAMJJASOND")


def image_size_figure(frame: pd.DataFrame, *, amount: Amount, x_label: str) -> Figure:
    """Draws CO2e over image size with a scale of equivalents, one panel a unit.

    Args:
        frame: as ``frames.points`` returns it.
        amount: what the CO2e is of.
        x_label: the name of the size.
    """
    return _lines_figure(frame, amount=amount, x_label=f"{label(x_label)} (pixels a side)")


def model_size_figure(frame: pd.DataFrame, *, amount: Amount, x_label: str) -> Figure:
    """Draws CO2e as bars over the size of the model, one panel a unit; see ``frames.points``."""
    panels = list(frame.groupby("panel", sort=False))
    figure, places = _new_panels([points for _, points in panels], _note(frame))
    for axes, (unit, points) in zip(places, panels, strict=True):
        _bars(axes, points)
        axes.set_xlabel(label(x_label))
        _mass_axis(axes, points, amount, str(unit))
        _legend(axes)
    return figure


def region_month_figure(regions: pd.DataFrame, months: pd.DataFrame, *, title: str) -> Figure:
    """Draws the CO2e of one energy by region, and by month where months are known.

    Args:
        regions: as ``frames.region_points`` returns them.
        months: as ``frames.month_points`` returns them; may be empty.
        title: what the energy is of.
    """
    sources = dict.fromkeys([*regions["intensity_set"], *months["intensity_set"]])
    note = (
        f"{title}. Energy as measured x PUE x carbon intensity ({', '.join(sources)}); no error "
        "bars: intensities carry none. Orange: the runs' region; the least and the most month."
    )
    by_period = regions.groupby(["period", "intensity_set"], sort=False)
    listed = [
        f"{', '.join(f'{label(it.x)} {it.g_per_kwh:.4g}' for it in rows.itertuples())} "
        f"({', '.join(dict.fromkeys(map(str, origin)))})"
        for origin, rows in by_period
    ]
    note += f" g/kWh by region: {'; '.join(listed)}."
    if months.empty:
        note += " No months are known of the runs' region."
    elif not set(months["x"]) & set(own := regions.loc[regions["is_own"], "x"]):
        place = f" of {label(str(own.iloc[0]))}" if len(own) else " of the runs' regions"
        note += f" No months are known{place}; drawn: {label(str(months['x'].iloc[0]))}."
    if len(sources) > 1 and not months.empty:
        note += " Sets differ in basis: compare within a panel only."
    num_panels = 1 if months.empty else 2
    figure = new_figure(num_panels, note)
    panels = _panels(figure, num_panels)
    scale = choose_scale(regions["mean"], MASS_SCALES)
    colours = [PALETTE[1] if is_own else PALETTE[0] for is_own in regions["is_own"]]
    names = [
        f"{label(x)} (runs)" if is_own else label(x)
        for x, is_own in zip(regions["x"], regions["is_own"], strict=True)
    ]
    bars = panels[0].bar(names, regions["mean"] * scale.factor, color=colours, width=_BAR_WIDTH)
    panels[0].bar_label(bars, [scale.text(value, 2) for value in regions["mean"]], fontsize=5.5)
    panels[0].tick_params(axis="x", rotation=45 if len(names) > 6 else 0)
    panels[0].set_ylabel(f"CO2e ({scale.symbol})")
    panels[0].set_title("by region")
    finish(panels[0])
    if not months.empty:
        _draw_months(panels[1], months)
    return figure


def steps_gpus_figure(steps: pd.DataFrame, gpus: pd.DataFrame, *, amount: Amount) -> Figure:
    """Draws CO2e over denoising steps, and over the number of GPUs where runs have several.

    Args:
        steps: as ``frames.points`` returns it over the steps; may be empty.
        gpus: the same over the number of processes or GPUs; may be empty.
        amount: what the CO2e is of.
    """
    panels = [
        (axis, unit, points)
        for axis, frame in (("steps", steps), ("GPUs or processes", gpus))
        for unit, points in (frame.groupby("panel", sort=False) if len(frame) else ())
    ]
    note = _note(pd.concat([steps, gpus]))
    figure, places = _new_panels([points for *_, points in panels], note)
    for axes, (axis, unit, points) in zip(places, panels, strict=True):
        if axis == "steps":
            _error_lines(axes, points)
            axes.set_xlabel("denoising steps")
        else:
            _bars(axes, points)
            axes.set_xlabel(axis)
        _mass_axis(axes, points, amount, str(unit))
        _legend(axes)
    return figure


def equivalent_kind(largest_g: float) -> str | None:
    """Returns the kind of equivalent for a mass in g; ``None`` below one phone charge."""
    for kind in _AXIS_BY_KIND:
        if equivalent(kg_from_grams(largest_g), kind).quantity >= 1:
            return kind
    return None


def equivalents_axis(axes: Axes, kind: str, scale: Scale) -> None:
    """Adds a right axis of kilometres by car or phone charges to an axis of CO2e."""
    grams = grams_from_kg(equivalent(0.0, kind).factor.kg_per_unit)
    per_shown = 1.0 / (grams * scale.factor)
    twin = axes.secondary_yaxis(
        "right",
        functions=(partial(mul, per_shown), partial(mul, 1 / per_shown)),
    )
    twin.set_ylabel(_AXIS_BY_KIND[kind])
    twin.yaxis.set_major_formatter(FuncFormatter(plain_number))
    twin.yaxis.set_minor_formatter(NullFormatter())


def _lines_figure(frame: pd.DataFrame, *, amount: Amount, x_label: str) -> Figure:
    panels = list(frame.groupby("panel", sort=False))
    note = _note(frame)
    kinds = dict.fromkeys(
        kind for _, points in panels if (kind := equivalent_kind(points["mean"].max())) is not None
    )
    editions = "; ".join(DEFAULT_EDITION_BY_KIND[kind] for kind in kinds)
    note += f" Right: {editions}." if kinds else " Less than one phone charge: no equivalent."
    figure, places = _new_panels([points for _, points in panels], note)
    for axes, (unit, points) in zip(places, panels, strict=True):
        _error_lines(axes, points)
        axes.set_xlabel(x_label)
        scale = _mass_axis(axes, points, amount, str(unit))
        kind = equivalent_kind(points["mean"].max())
        if kind is not None:
            equivalents_axis(axes, kind, scale)
        _legend(axes)
    return figure


def _panels(figure: Figure, number: int) -> list[Axes]:
    return [figure.add_subplot(number, 1, position) for position in range(1, number + 1)]


def _note(frame: pd.DataFrame) -> str:
    nums = sorted({int(num) for num in frame["num_runs"]})
    runs = f"n = {nums[0]}" if len(nums) == 1 else f"n = {nums[0]} to {nums[-1]}"
    return f"{_SPREAD_NOTE} {runs}.{price_note(frame.get('price', ()))}"


def _mass_axis(axes: Axes, points: pd.DataFrame, amount: Amount, unit: str) -> Scale:
    """Labels the CO2e axis, in the unit that fits, and rescales what is drawn in g."""
    scale = choose_scale(points["mean"], MASS_SCALES)
    axes.set_ylabel(f"CO2e {label(amount.of(unit))} ({scale.symbol})")
    finish(axes)
    return scale


def _error_lines(axes: Axes, points: pd.DataFrame) -> None:
    scale = choose_scale(points["mean"], MASS_SCALES)
    is_number = pd.api.types.is_numeric_dtype(points["x"])
    xs = list(dict.fromkeys(points["x"]))
    place = {x: float(x) if is_number else float(number) for number, x in enumerate(xs)}
    for number, (series, rows) in enumerate(points.groupby("series", sort=False)):
        means = rows["mean"].to_numpy() * scale.factor
        axes.errorbar(
            [place[x] for x in rows["x"]],
            means,
            yerr=_error_bars(rows, scale),
            marker=MARKERS[number % len(MARKERS)],
            color=PALETTE[number % len(PALETTE)],
            label=_series_label(series),
        )
    if is_number:
        scale_axis(axes, "x", sorted(place.values()), ticks=sorted(set(place.values())))
    else:
        axes.set_xticks(list(place.values()), [label(str(x)) for x in xs])
    scale_axis(axes, "y", [value * scale.factor for value in points["mean"]])
    if not is_wide(list(points["mean"])):
        axes.set_ylim(bottom=0)


def _bars(axes: Axes, points: pd.DataFrame) -> None:
    scale = choose_scale(points["mean"], MASS_SCALES)
    xs = list(dict.fromkeys(points["x"]))
    all_series = list(dict.fromkeys(points["series"]))
    width = _BAR_WIDTH / len(all_series)
    for number, (series, rows) in enumerate(points.groupby("series", sort=False)):
        offset = (number - (len(all_series) - 1) / 2) * width
        axes.bar(
            [xs.index(x) + offset for x in rows["x"]],
            rows["mean"].to_numpy() * scale.factor,
            width * 0.92,
            yerr=_error_bars(rows, scale),
            color=PALETTE[number % len(PALETTE)],
            ecolor=INK,
            error_kw={"elinewidth": 0.8},
            label=_series_label(series),
        )
    axes.set_xticks(range(len(xs)), [_tick_text(x) for x in xs])


def _tick_text(x: object) -> str:
    return f"{x:g}" if isinstance(x, float) else label(str(x))


def _error_bars(rows: pd.DataFrame, scale: Scale) -> np.ndarray:
    """Returns the lengths below and above each mean; NaN draws none."""
    stds, means = rows["std"].to_numpy(dtype=float), rows["mean"].to_numpy(dtype=float)
    below = np.minimum(stds, means * (1 - _MIN_DRAWN_FRACTION))
    return np.nan_to_num(np.stack([below, stds]) * scale.factor, nan=0.0)


def _legend(axes: Axes) -> None:
    _handles, labels = axes.get_legend_handles_labels()
    if not [text for text in labels if text]:
        return
    num_columns, is_above = legend_columns(labels)
    if is_above:  # over the data, or wider than they are, it would hide or squeeze them
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=num_columns, borderpad=0)
    else:
        axes.legend(loc="best", ncols=num_columns)


def _new_panels(panels: Iterable[pd.DataFrame], note: str) -> tuple[Figure, list[Axes]]:
    """Returns a figure of a panel for each of these points, as high as their legends need."""
    legends_in = [
        legend_height_in([_series_label(name) for name in dict.fromkeys(points["series"])])
        for points in panels
    ]
    mean_in = PANEL_HEIGHT_IN + sum(legends_in) / len(legends_in)
    figure = new_figure(len(legends_in), note, panel_height_in=mean_in)
    return figure, _panels(figure, len(legends_in))


def _series_label(series: object) -> str:
    return shown(str(series), max_chars=_MAX_SERIES_CHARS)


def _draw_months(axes: Axes, months: pd.DataFrame) -> None:
    scale = choose_scale(months["mean"], MASS_SCALES)
    numbers = [int(period[5:7]) for period in months["period"]]
    values = list(months["mean"] * scale.factor)
    extremes = {min(values), max(values)}
    colours = [PALETTE[1] if value in extremes else PALETTE[0] for value in values]
    bars = axes.bar(numbers, values, color=colours, width=_BAR_WIDTH)
    texts = [scale.text(v, 2) if v * scale.factor in extremes else "" for v in months["mean"]]
    axes.bar_label(bars, texts, fontsize=5.5)
    axes.set_xticks(range(1, 13), _MONTHS)
    axes.set_ylabel(f"CO2e ({scale.symbol})")
    axes.set_title(f"by month: {months['x'].iloc[0]} {months['period'].iloc[0][:4]}")
    finish(axes)
