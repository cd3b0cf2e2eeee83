"""Figures of runs themselves: energy over time, quality against CO2e, and a bar of runs."""

import pandas as pd
from matplotlib.figure import Figure

from mlflow_carbon.inert import cut_inside
from mlflow_carbon.pictures.style import (
    INK,
    MARKERS,
    NOTE_PT,
    PALETTE,
    finish,
    label,
    new_figure,
    price_note,
    scale_axis,
)
from mlflow_carbon.reporting.tables import ENERGY_SCALES, MASS_SCALES, choose_scale

_BAR_HEIGHT_IN = 0.17
_MAX_TITLE_CHARS = 60  # of a line of a note
_HATCHES = ("", "//", "..", "xx")  # tells components apart in grey, too
_TIME_SCALES = ((1.0, "s"), (60.0, "min"), (3600.0, "h"))


def energy_figure(windows: pd.DataFrame, *, title: str, is_estimated: bool) -> Figure:
    """Draws the energy of one run as it adds up over time, one layer a component.

    Args:
        windows: ``end_s`` since the start, and a column of kWh so far for each component.
        title: the run's name.
        is_estimated: whether a component's energy was estimated, not read.
    """
    components = [column for column in windows.columns if column != "end_s"]
    totals = windows[components].iloc[-1]
    scale = choose_scale([float(totals.sum())], ENERGY_SCALES)
    seconds, symbol = _time_scale(float(windows["end_s"].max()))
    name = cut_inside(title, max_chars=_MAX_TITLE_CHARS)
    note = f"{name}. Energy so far at the end of each window, components on each other."
    note += " An estimated CPU: its error is not known." if is_estimated else ""
    figure = new_figure(1, note)
    axes = figure.add_subplot()
    layers = axes.stackplot(
        windows["end_s"] / seconds,
        [windows[name] * scale.factor for name in components],
        colors=PALETTE,
        labels=[
            f"{label(name)}: {scale.text(totals[name], 3)} {scale.symbol}" for name in components
        ],
        edgecolor=INK,
        linewidth=0.3,
    )
    for number, layer in enumerate(layers):
        layer.set_hatch(_HATCHES[number % len(_HATCHES)])
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"time ({symbol})")
    axes.set_ylabel(f"energy ({scale.symbol})")
    axes.legend(loc="upper left")
    finish(axes)
    return figure


def quality_figure(
    frame: pd.DataFrame, *, metric: str, amount_text: str, is_lower_better: bool
) -> Figure:
    """Draws quality against CO2e with the Pareto front.

    Args:
        frame: as ``frames.pareto`` returns it: quality, mean, label, is_on_front; ``quality_std``
            and ``std`` where several runs make a point.
        metric: the name of the quality figure.
        amount_text: what the CO2e is of.
        is_lower_better: whether a low figure is a good one.
    """
    scale = choose_scale(frame["mean"], MASS_SCALES)
    direction = "lower" if is_lower_better else "higher"
    front = frame[frame["is_on_front"]].sort_values("mean")
    note = (
        f"Line: Pareto front, no other is both cheaper and at least as good ({direction} is "
        "better). Error bars: ± 1 sample std between runs (none for one run)."
    ) + price_note(frame.get("price", ()))
    figure = new_figure(1, note, panel_height_in=2.4)
    axes = figure.add_subplot()
    axes.plot(front["mean"] * scale.factor, front["quality"], color=INK, linewidth=0.8, zorder=1)
    for is_on_front, rows in frame.groupby("is_on_front"):
        axes.errorbar(
            rows["mean"] * scale.factor,
            rows["quality"],
            xerr=rows["std"].fillna(0.0) * scale.factor,
            yerr=rows["quality_std"].fillna(0.0),
            linestyle="none",
            marker=MARKERS[0] if is_on_front else MARKERS[1],
            color=PALETTE[0] if is_on_front else PALETTE[7],
            label="on the front" if is_on_front else "dominated",
            zorder=2,
        )
    for row in front.itertuples():
        axes.annotate(
            label(str(row.label)),
            (row.mean * scale.factor, row.quality),
            xytext=(3, 4),
            textcoords="offset points",
            fontsize=5.8,
        )
    scale_axis(axes, "x", [value * scale.factor for value in frame["mean"]])
    axes.set_xlabel(f"CO2e {label(amount_text)} ({scale.symbol})")
    axes.set_ylabel(f"{label(metric)} ({direction} is better)")
    axes.margins(x=0.12, y=0.15)
    axes.legend(loc="best")
    finish(axes)
    return figure


def runs_figure(frame: pd.DataFrame) -> Figure:
    """Draws the CO2e of each run as a bar; see ``frames.run_bars``."""
    scale = choose_scale(frame["mean"], MASS_SCALES)
    note = "CO2e as recorded with each run. One run, one figure: no error bar."
    if frame["is_partial"].any():
        note += " Hatched: killed or running, a lower bound."
    note += price_note(frame.get("price", ()))
    height_in = max(1.1, _BAR_HEIGHT_IN * len(frame) + 0.45)
    figure = new_figure(1, note, panel_height_in=height_in)
    axes = figure.add_subplot()
    places = range(len(frame) - 1, -1, -1)
    bars = axes.barh(
        places,
        frame["mean"] * scale.factor,
        color=PALETTE[0],
        hatch=["////" if is_partial else "" for is_partial in frame["is_partial"]],
        edgecolor=INK,
        linewidth=0.3,
    )
    axes.bar_label(bars, [scale.text(value, 3) for value in frame["mean"]], padding=2, fontsize=5.8)
    axes.set_yticks(list(places), list(frame["label"]), fontsize=NOTE_PT)
    axes.set_xlabel(f"CO2e ({scale.symbol})")
    axes.margins(x=0.15)
    finish(axes)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    return figure


def _time_scale(longest_s: float) -> tuple[float, str]:
    fitting = [(seconds, symbol) for seconds, symbol in _TIME_SCALES if longest_s >= 2 * seconds]
    return fitting[-1] if fitting else _TIME_SCALES[0]
