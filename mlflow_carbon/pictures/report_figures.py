"""The figures of the report: each as a still picture, as an interactive one, and with its runs."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.pictures import drawing, interactive
from mlflow_carbon.pictures.drawing import Request
from mlflow_carbon.pictures.frames import axis_name, points, region_points, run_bars
from mlflow_carbon.pictures.style import INK, house_style
from mlflow_carbon.reporting.run_groups import column_of, usable_runs
from mlflow_carbon.reporting.savings import MEASURED_PER_UNIT

_AXES = {"size": drawing.IMAGE_SIZE, "model_size": drawing.MODEL_SIZE}


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report.

    Attributes:
        title: what it shows.
        svg: the still picture; its ink is the page's colour of text.
        items: of Bokeh, one a panel; empty where the still picture is all there is.
        run_ids: the runs that it rests on.
    """

    title: str
    svg: str
    items: tuple[dict[str, Any], ...]
    run_ids: tuple[str, ...]


def report_figures(
    runs: pd.DataFrame,
    *,
    quality: pd.DataFrame | None,
    metric: str | None,
    largest: RunRecord | None,
    request: Request,
) -> tuple[list[ReportFigure], list[str]]:
    """Returns the figures that the runs allow, and why others are not drawn.

    Args:
        runs: as ``store.read_runs`` returns them.
        quality: as ``drawing.quality_points`` returns it; ``None`` without a quality metric.
        metric: its name.
        largest: the record, with its windows, of the run that emitted most.
        request: series, amount and direction.
    """
    figures: list[ReportFigure] = []
    reasons: list[str] = []
    makers: dict[str, Callable[[], ReportFigure | None]] = {
        "CO2e of each run": partial(_runs, runs),
        "CO2e over image size": partial(_sizes, runs, request, "size"),
        "CO2e over model size": partial(_sizes, runs, request, "model_size"),
        "CO2e over steps and GPUs": partial(_steps, runs, request),
        "CO2e by region and month": partial(_regions, runs, request),
        "Energy over time": partial(_energy, runs, largest),
        "Quality against CO2e": partial(_quality, quality, metric, request),
    }
    for name, draw in makers.items():
        try:
            found = draw()
        except MlflowCarbonError as error:
            reasons.append(f"{name}: {error.message}")
            continue
        if found is not None:
            figures.append(found)
    return figures, reasons


def svg_of(figure: Figure, *, name: str) -> str:
    """Returns a figure as an SVG element for a page, with ids that no other figure has.

    Args:
        figure: in the house's style.
        name: of the figure, for whoever cannot see it.
    """
    buffer = io.StringIO()
    with house_style(), mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    prefix = re.sub(r"\W+", "-", name)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text)
    return text.replace(INK, "currentColor")


def _runs(runs: pd.DataFrame) -> ReportFigure:
    frame = run_bars(runs)
    svg = svg_of(drawing.draw_runs(runs), name="runs")
    details = [
        f"{run_id or 'together'}{', a lower bound' if is_partial else ''}"
        for run_id, is_partial in zip(frame["run_id"], frame["is_partial"], strict=True)
    ]
    item = interactive.bars_item(list(frame["label"]), list(frame["mean"]), details=details)
    ids = tuple(runs.dropna(subset=["co2e_g"])["run_id"])
    return ReportFigure("CO2e of each run", svg, (item,), ids)


def _sizes(runs: pd.DataFrame, request: Request, axis: str) -> ReportFigure | None:
    name = axis_name(runs, axis)
    if name is None or runs[column_of(runs, name)].nunique() < 2:
        return None
    svg = svg_of(drawing.draw_sizes(runs, request, kind=_AXES[axis]), name=axis)
    items, ids = _lines(runs, name, request)
    return ReportFigure(f"CO2e over {name}", svg, items, ids)


def _steps(runs: pd.DataFrame, request: Request) -> ReportFigure | None:
    name = axis_name(runs, "steps")
    if name is None or runs[column_of(runs, name)].nunique() < 2:
        return None
    svg = svg_of(drawing.draw_steps(runs, request), name="steps")
    items, ids = _lines(runs, name, request)
    return ReportFigure(f"CO2e over {name}", svg, items, ids)


def _lines(
    runs: pd.DataFrame, name: str, request: Request
) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """Returns an interactive panel for each unit, and the ids of the runs behind them."""
    told_apart = [axis_name(runs, axis) for axis in ("dims", "gpus")]
    series = [
        other
        for other in (*request.series, *told_apart)
        if other is not None and runs[column_of(runs, other)].nunique() > 1
    ]
    frame = points(runs, x=name, series=series, amount=request.amount)
    items = tuple(
        interactive.lines_item(rows, x_label=name, y_label=f"CO2e {request.amount.of(str(unit))}")
        for unit, rows in frame.groupby("panel", sort=False)
    )
    usable, _ = usable_runs(
        runs,
        {name: column_of(runs, name)},
        ["pue", "intensity_g_per_kwh"],
        measured=MEASURED_PER_UNIT,
    )
    return items, tuple(usable["run_id"])


def _regions(runs: pd.DataFrame, request: Request) -> ReportFigure:
    svg = svg_of(drawing.draw_regions(runs, request), name="regions")
    energy_kwh, pue, own = drawing.energy_to_price(runs, request)
    frame = region_points(energy_kwh, pue=pue, own=own)
    names = [f"{row.x}{' (runs)' if row.is_own else ''}" for row in frame.itertuples()]
    details = [
        f"{row.g_per_kwh:g} g/kWh, {row.period}, {row.intensity_set}" for row in frame.itertuples()
    ]
    item = interactive.bars_item(names, list(frame["mean"]), details=details)
    usable, _ = usable_runs(runs, {}, ["pue", "intensity_g_per_kwh"], measured=MEASURED_PER_UNIT)
    return ReportFigure("CO2e by region and month", svg, (item,), tuple(usable["run_id"]))


def _energy(runs: pd.DataFrame, record: RunRecord | None) -> ReportFigure | None:
    if record is None:
        return None
    row = runs[runs["run_id"] == record.run_id].iloc[0]
    how = [item.partition("=")[2] for item in row["methods"].split(",")]
    figure = drawing.draw_energy(record, name=str(row["run_name"]), methods=how)
    svg = svg_of(figure, name="energy")
    return ReportFigure("Energy over time of the largest run", svg, (), (record.run_id,))


def _quality(
    frame: pd.DataFrame | None, metric: str | None, request: Request
) -> ReportFigure | None:
    if frame is None or metric is None:
        return None
    svg = svg_of(drawing.draw_quality(frame, request, metric=metric), name="quality")
    item = interactive.quality_item(frame, metric=metric)
    return ReportFigure("Quality against CO2e", svg, (item,), tuple(frame.attrs["run_ids"]))
