"""The report's figures as Bokeh draws them: the same marks, and figures under the mouse.

Source: https://docs.bokeh.org (BSD 3-clause); its script is embedded in the report.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import pandas as pd
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import Whisker
from bokeh.plotting import figure

from mlflow_carbon.inert import MAX_CELL_CHARS, shown
from mlflow_carbon.pictures.style import INK, PALETTE, is_wide
from mlflow_carbon.reporting.tables import MASS_SCALES, choose_scale

_HEIGHT_PX = 300
_MOST_INSIDE = 3  # entries of a legend inside a plot
_LEGEND_LINE_PX = 24
_BAR_HEIGHT_PX = 24
_TOOLS = "pan,box_zoom,reset,save"
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star")


def library() -> str:
    """Returns the script that draws the figures, as its package ships it."""
    path = files("bokeh") / "server" / "static" / "js" / "bokeh.min.js"
    return path.read_text(encoding="utf-8")


def lines_item(points: pd.DataFrame, *, x_label: str, y_label: str) -> dict[str, Any]:
    """Returns lines with error bars of ± 1 std over a number or a name; see ``frames.points``.

    Args:
        points: of one panel.
        x_label: of the horizontal axis.
        y_label: of the CO2e, without its unit.
    """
    scale = choose_scale(points["mean"], MASS_SCALES)
    is_number = pd.api.types.is_numeric_dtype(points["x"])
    xs = list(points["x"]) if is_number else [_text(x) for x in points["x"]]
    settings: dict[str, Any] = {} if is_number else {"x_range": list(dict.fromkeys(xs))}
    if is_number and is_wide(list(points["x"])):
        settings["x_axis_type"] = "log"
    has_log = is_wide(list(points["mean"]))
    plot = _plot(x_label, f"{y_label} ({scale.symbol})", is_log=has_log, **settings)
    drawn = points.assign(
        x=xs,
        y=points["mean"] * scale.factor,
        spread=[f"± {scale.text(std, 2)}" if std == std else "one run" for std in points["std"]],
        low=(points["mean"] - points["std"].fillna(0.0)).clip(lower=points["mean"] * 1e-3)
        * scale.factor,
        high=(points["mean"] + points["std"].fillna(0.0)) * scale.factor,
        series=[_text(text) for text in points["series"]],
    )[["x", "y", "low", "high", "spread", "series", "num_runs"]]
    marks = []
    for number, (series, rows) in enumerate(drawn.groupby("series", sort=False)):
        source = ColumnDataSource(rows.reset_index(drop=True).to_dict("list"))
        colour = PALETTE[number % len(PALETTE)]
        legend = {"legend_label": str(series)} if series else {}
        plot.line("x", "y", source=source, line_width=2, color=colour, **legend)
        marker = _MARKERS[number % len(_MARKERS)]
        marks.append(
            plot.scatter("x", "y", source=source, size=8, color=colour, marker=marker, **legend)
        )
        plot.add_layout(
            Whisker(base="x", upper="high", lower="low", source=source, line_color=colour)
        )
    tips = [
        ("", "@series"),
        (x_label, "@x"),
        ("CO2e", f"@y{{0.[000]}} {scale.symbol} @spread"),
        ("runs", "@num_runs"),
    ]
    plot.add_tools(HoverTool(renderers=marks, tooltips=tips))
    return _item(plot)


def bars_item(
    names: Sequence[str], masses_g: Sequence[float], *, details: Sequence[str]
) -> dict[str, Any]:
    """Returns horizontal bars of CO2e in g, the first on top; the mouse shows their details."""
    scale = choose_scale(masses_g, MASS_SCALES)
    labels = _unlike([_text(name) for name in names])
    source = ColumnDataSource(
        {
            "name": labels,
            "mass": [mass_g * scale.factor for mass_g in masses_g],
            "detail": [_text(detail) for detail in details],
        }
    )
    plot = _plot(
        f"CO2e ({scale.symbol})",
        "",
        y_range=list(reversed(labels)),
        height=max(160, 70 + _BAR_HEIGHT_PX * len(labels)),
    )
    bars = plot.hbar(
        y="name", right="mass", height=0.75, source=source, fill_color=PALETTE[0], line_color=None
    )
    plot.x_range.start = 0
    tips = [("", "@name"), ("CO2e", f"@mass{{0.[000]}} {scale.symbol}"), ("", "@detail")]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=tips))
    return _item(plot)


def quality_item(frame: pd.DataFrame, *, metric: str) -> dict[str, Any]:
    """Returns quality against CO2e with the Pareto front; see ``frames.pareto``."""
    scale = choose_scale(frame["mean"], MASS_SCALES)
    settings: dict[str, Any] = {"x_axis_type": "log"} if is_wide(list(frame["mean"])) else {}
    plot = _plot(f"CO2e ({scale.symbol})", _text(metric), **settings)
    drawn = frame.assign(
        x=frame["mean"] * scale.factor, label=[_text(text) for text in frame["label"]]
    )[["x", "quality", "label", "num_runs", "is_on_front"]]
    front = drawn[drawn["is_on_front"]].sort_values("x")
    plot.line(list(front["x"]), list(front["quality"]), color=INK)
    marks = []
    for is_on_front, rows in drawn.groupby("is_on_front"):
        source = ColumnDataSource(rows.reset_index(drop=True).to_dict("list"))
        marks.append(
            plot.scatter(
                "x",
                "quality",
                source=source,
                size=9,
                color=PALETTE[0] if is_on_front else PALETTE[7],
                marker="circle" if is_on_front else "square",
                legend_label="on the front" if is_on_front else "dominated",
            )
        )
    tips = [
        ("", "@label"),
        ("CO2e", f"@x{{0.[000]}} {scale.symbol}"),
        ("quality", "@quality"),
        ("runs", "@num_runs"),
    ]
    plot.add_tools(HoverTool(renderers=marks, tooltips=tips))
    return _item(plot, location="top_right")


def _plot(x_label: str, y_label: str, *, is_log: bool = False, **settings: Any) -> Any:
    plot = figure(
        height=settings.pop("height", _HEIGHT_PX),
        sizing_mode="stretch_width",
        tools=_TOOLS,
        x_axis_label=_text(x_label),
        y_axis_label=_text(y_label),
        y_axis_type="log" if is_log else "auto",
        toolbar_location="above",
        **settings,
    )
    plot.toolbar.logo = None
    plot.background_fill_alpha = plot.border_fill_alpha = 0
    plot.outline_line_color = None
    for axis in (*plot.xaxis, *plot.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None  # on a short logarithmic axis they run together
        axis.axis_label_text_font_style = "normal"
    plot.grid.grid_line_color = INK
    plot.grid.grid_line_alpha = 0.15
    return plot


def _item(plot: Any, *, location: str = "top_left") -> dict[str, Any]:
    for legend in list(plot.legend):
        legend.location = location
        if len(legend.items) > _MOST_INSIDE:  # over the data it would hide them
            plot.add_layout(legend, "above")
            plot.height += _LEGEND_LINE_PX * len(legend.items)
        legend.background_fill_alpha = 0
        legend.border_line_color = None
        legend.label_text_color = INK
        legend.click_policy = "hide"
    return dict(json_item(plot))


def _unlike(names: Sequence[str]) -> list[str]:
    """Returns the names with a number at those that are there already, for each is a place."""
    seen: dict[str, int] = {}
    unlike = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unlike.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return unlike


def _text(text: object) -> str:
    """Returns a store's text for the library, which takes $$ for the start of a formula."""
    return shown(str(text), max_chars=MAX_CELL_CHARS).replace("$$", "$ $")
