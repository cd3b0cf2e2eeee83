"""The paper's four figures of a study, each beside what the paper prints.

Source: Seyfarth et al. 2024, arXiv:2407.14892, Figs. 1 to 4.
"""

from collections.abc import Callable, Sequence
from io import StringIO

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlflow_carbon.errors import MlflowCarbonError, NoRunsError
from mlflow_carbon.grid.intensity import monthly_intensities
from mlflow_carbon.pictures.study_masses import fitted_kg, kg_of, spreads_kg
from mlflow_carbon.pictures.style import (
    INK,
    MARKERS,
    PALETTE,
    finish,
    house_style,
    is_wide,
    label,
    new_figure,
    plain_number,
    scale_axis,
)
from mlflow_carbon.reporting.finding import ratio_of
from mlflow_carbon.reporting.paper_results import PAPER_STEPS, PaperResult, result_of
from mlflow_carbon.reporting.study_cells import StudyCell
from mlflow_carbon.reporting.study_ratios import (
    DIMS,
    MODEL_GROWTH,
    MONTHS,
    POLAND_KG,
    SWEDEN_KG,
    TASKS,
    comparable,
    dearest_synthesis,
    model_size_cells,
    process_pairs,
    step_cells,
    steps_model,
)
from mlflow_carbon.reporting.study_report import Illustration

TABLE_REGIONS = ("SE", "EU27", "DE", "US", "CN", "PL")  # Table 1, least first
COLOUR_BY_TASK = dict(zip(TASKS, PALETTE, strict=False))
MARKER_BY_TASK = dict(zip(TASKS, MARKERS, strict=False))
MONTH_GROWTH = 1.5  # section 3.3: up to 50 %
_MONTH_LETTERS = "JFMAMJJASOND"
_BAR_WIDTH = 0.38
_PANEL_IN = 2.2
_NOTE_CHARS = 68  # of a line with names of cells, which are wide
_PRICE = "CO2e by the paper's price: EU27 of its Table 1, PUE 1.55."


def illustrations_of(cells: Sequence[StudyCell]) -> list[Illustration]:
    """Returns the paper's four figures as SVG; one that cannot be drawn says why.

    Args:
        cells: those of which energy was measured.
    """
    kinds: tuple[tuple[str, str, Callable[[Sequence[StudyCell]], Figure]], ...] = (
        ("image-size", "Fig. 1: image size", image_size_figure),
        ("model-size", "Fig. 2: model size", model_size_figure),
        ("region-month", "Fig. 3: place and time", region_month_figure),
        ("processes-steps", "Fig. 4: processes and steps", processes_steps_figure),
    )
    drawn = []
    for name, title, draw in kinds:
        try:
            with house_style():
                drawn.append(Illustration(name, title, svg=_svg(draw(cells))))
        except MlflowCarbonError as error:
            drawn.append(Illustration(name, title, problem=error.message))
    return drawn


def image_size_figure(cells: Sequence[StudyCell]) -> Figure:
    """Draws CO2e of the paper's amounts over the number of voxels, slices above volumes.

    Raises:
        NoRunsError: no image size was measured.
    """
    panels = {dims: {task: comparable(cells, dims, task) for task in TASKS} for dims in DIMS}
    panels = {dims: of for dims, of in panels.items() if any(of.values())}
    if not panels:
        raise NoRunsError("no image size was measured")
    note = (
        f"Fig. 1: {_PRICE} 150,000 iterations or 10,000 samples; error bars: std of a window x N, "
        "as the paper has it. Open marks: the two sizes that the paper prints, "
        f"{PAPER_STEPS} steps a sample. Ours: {_networks(panels)}."
    )
    figure = new_figure(len(panels), note, panel_height_in=_PANEL_IN, note_chars=_NOTE_CHARS)
    for number, (dims, by_task) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        papers = {task: _papers(task, dims) for task in TASKS}
        for task, of_task in by_task.items():
            _draw_sizes(axes, task, of_task, papers[task])
        sizes = {cell.num_voxels: cell.size for of in by_task.values() for cell in of}
        sizes |= {_num_voxels(it.size): it.size for of in papers.values() for it in of}
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(list(sizes), [_size_label(size) for size in sizes.values()])
        axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        axes.tick_params(axis="x", rotation=40)
        _number_axis(axes, "CO2e (kg)")
        axes.set_title("slices (2D)" if dims == min(DIMS) else "volumes (3D)")
        axes.legend(loc="upper left", ncols=1)
    return figure


def model_size_figure(cells: Sequence[StudyCell]) -> Figure:
    """Draws the energy of each network over that of the smallest, slices above volumes.

    Raises:
        NoRunsError: no two networks were measured.
    """
    panels = {dims: {task: model_size_cells(cells, dims, task) for task in TASKS} for dims in DIMS}
    panels = {d: of for d, of in panels.items() if any(len(found) > 1 for found in of.values())}
    if not panels:
        raise NoRunsError("fewer than two model sizes were measured")
    note = (
        "Fig. 2: energy of a unit over that of the smallest networks; error bars: 95 % interval "
        "of the ratio. Bands: small to large in the paper, which prints no widths, so the "
        "networks are not the same."
    )
    figure = new_figure(len(panels), note, panel_height_in=_PANEL_IN, note_chars=_NOTE_CHARS)
    for number, by_task in enumerate(panels.values(), start=1):
        axes = figure.add_subplot(len(panels), 1, number)
        names = list(dict.fromkeys(cell.model_size for of in by_task.values() for cell in of))
        tops = [1.0]
        for position, (task, found) in enumerate(by_task.items()):
            growth = MODEL_GROWTH[task]
            colour = COLOUR_BY_TASK[task]
            text = f"{task}, the paper"
            axes.axhspan(growth.low, growth.high, color=colour, alpha=0.25, lw=0, label=text)
            places = [
                names.index(cell.model_size) + (position - 0.5) * _BAR_WIDTH for cell in found
            ]
            tops += _draw_ratios(axes, places, found, task)
        axes.set_xticks(range(len(names)), [label(name) for name in names])
        size = next(found[0].size for found in by_task.values() if found)
        axes.set_title(_size_label(size))
        if is_wide(tops):
            axes.set_yscale("log")
            axes.set_ylim(bottom=0.7)
        _number_axis(axes, "times the smallest")
        axes.legend(loc="upper left", ncols=1)
    return figure


def region_month_figure(cells: Sequence[StudyCell]) -> Figure:
    """Draws the CO2e of the dearest synthesis by the regions of Table 1, and by month.

    Raises:
        NoRunsError: no synthesis was measured.
    """
    dearest = dearest_synthesis(cells)
    if dearest is None:
        raise NoRunsError("no synthesis was measured")
    note = (
        f"Fig. 3, above: 10,000 samples of {dearest.name}; open marks: the paper's 405 and 4.3 kg, "
        "of a model that it does not name. Table 1 mixes three bases. Below: Electricity Maps, "
        "direct; the line is the paper's up to 50 %. No error bars: intensities carry none."
    )
    figure = new_figure(2, note, panel_height_in=_PANEL_IN, note_chars=_NOTE_CHARS)
    _draw_regions(figure.add_subplot(2, 1, 1), dearest)
    _draw_months(figure.add_subplot(2, 1, 2))
    return figure


def processes_steps_figure(cells: Sequence[StudyCell]) -> Figure:
    """Draws several processes over one, and CO2e over denoising steps.

    Raises:
        NoRunsError: neither was measured.
    """
    pairs = process_pairs(cells)
    steps = {dims: step_cells(cells, dims) for dims in DIMS}
    steps = {dims: found for dims, found in steps.items() if len(found) > 1}
    num_panels = bool(pairs) + bool(steps)
    if not num_panels:
        raise NoRunsError("neither several processes nor several step counts were measured")
    note = (
        "Fig. 4, above: energy over that of one process, 95 % interval; the paper finds no "
        f"significant reduction. Below: {_PRICE} 10,000 samples; lines: fixed part + steps "
        "x slope, fitted; dashed: pure proportion, the paper's -80 % for 200 steps instead of 1000."
    )
    if any(cell.device == "cpu" for cell, _ in pairs):
        note += " The processes shared one machine's cores."
    figure = new_figure(num_panels, note, panel_height_in=_PANEL_IN, note_chars=_NOTE_CHARS)
    if pairs:
        _draw_processes(figure.add_subplot(num_panels, 1, 1), pairs)
    if steps:
        _draw_steps(figure.add_subplot(num_panels, 1, num_panels), steps)
    return figure


def _draw_sizes(
    axes: Axes, task: str, found: Sequence[StudyCell], papers: Sequence[PaperResult]
) -> None:
    colour, marker = COLOUR_BY_TASK[task], MARKER_BY_TASK[task]
    if found:
        axes.errorbar(
            [cell.num_voxels for cell in found],
            [kg_of(cell) for cell in found],
            yerr=spreads_kg(found),
            color=colour,
            marker=marker,
            label=task,
        )
    axes.errorbar(
        [_num_voxels(paper.size) for paper in papers],
        [float(paper.kg) for paper in papers],
        yerr=[float(paper.std_kg) for paper in papers],
        color=colour,
        marker=marker,
        markerfacecolor="white",
        linestyle=":",
        label=f"{task}, the paper",
    )


def _draw_ratios(
    axes: Axes, places: Sequence[float], found: Sequence[StudyCell], task: str
) -> list[float]:
    """Draws each cell over the first; returns the ratios."""
    ratios = [ratio_of(cell, found[0]) for cell in found]
    bounds = [
        (0.0, 0.0) if not number or it.low is None or it.high is None else (it.low, it.high)
        for number, it in enumerate(ratios)
    ]
    values = [it.value for it in ratios]
    errors = np.array(
        [
            (v - low, high - v) if high else (0.0, 0.0)
            for v, (low, high) in zip(values, bounds, strict=True)
        ]
    )
    axes.bar(
        places,
        values,
        _BAR_WIDTH,
        yerr=errors.T if found else None,
        color=COLOUR_BY_TASK[task],
        ecolor=INK,
        error_kw={"elinewidth": 0.8},
        label=task,
    )
    return values


def _draw_regions(axes: Axes, dearest: StudyCell) -> None:
    kg = {region: kg_of(dearest, region) for region in TABLE_REGIONS}
    axes.bar(list(kg), list(kg.values()), 0.7, color=PALETTE[0], label="ours")
    printed = {"SE": float(SWEDEN_KG), "PL": float(POLAND_KG)}
    axes.plot(
        [TABLE_REGIONS.index(region) for region in printed],
        list(printed.values()),
        linestyle="none",
        marker="s",
        color=PALETTE[1],
        markerfacecolor="white",
        label="the paper",
    )
    axes.set_yscale("log")
    _number_axis(axes, "CO2e (kg)")
    axes.set_title("by region, Table 1")
    axes.legend(loc="upper left")


def _draw_months(axes: Axes) -> None:
    months = [it for it in monthly_intensities("DE") if it.period[:4] == MONTHS[1][:4]]
    february = next(it.g_per_kwh for it in months if it.period == MONTHS[1])
    colours = [PALETTE[1] if it.period in MONTHS else PALETTE[0] for it in months]
    heights = [it.g_per_kwh / february for it in months]
    bars = axes.bar(range(1, len(months) + 1), heights, 0.86, color=colours)
    texts = [
        f"{h:.2f}" if it.period in MONTHS else "" for h, it in zip(heights, months, strict=True)
    ]
    axes.bar_label(bars, texts, fontsize=4.8, padding=-8, color="white")
    axes.axhline(MONTH_GROWTH, color=INK, linestyle=":", label="the paper")
    axes.set_xticks(range(1, len(months) + 1), list(_MONTH_LETTERS))
    axes.set_ylim(0, 1.9)
    _number_axis(axes, "times February")
    axes.set_title(f"by month, Germany {MONTHS[1][:4]}")
    axes.legend(loc="upper left")


def _draw_processes(axes: Axes, pairs: Sequence[tuple[StudyCell, StudyCell]]) -> None:
    names = [f"{cell.num_processes} processes\n{_size_label(cell.size)}" for cell, _ in pairs]
    for position, what in enumerate(("equal iterations", "equal samples")):
        ratios = [ratio_of(cell, one) for cell, one in pairs]
        shares = [cell.num_processes if position else 1 for cell, _ in pairs]
        values = [it.value / share for it, share in zip(ratios, shares, strict=True)]
        errors = [
            ((it.value - (it.low or it.value)) / share, ((it.high or it.value) - it.value) / share)
            for it, share in zip(ratios, shares, strict=True)
        ]
        axes.bar(
            [place + (position - 0.5) * _BAR_WIDTH for place in range(len(pairs))],
            values,
            _BAR_WIDTH,
            yerr=np.array(errors).T,
            color=PALETTE[position],
            ecolor=INK,
            error_kw={"elinewidth": 0.8},
            label=what,
        )
    axes.axhline(1.0, color=INK, linestyle=":", label="the paper: 1 or more")
    axes.set_xticks(range(len(pairs)), names)
    axes.set_xlim(-1, len(pairs))
    _number_axis(axes, "times one process")
    axes.legend(loc="best")


def _draw_steps(axes: Axes, by_dims: dict[int, list[StudyCell]]) -> None:
    for number, (dims, found) in enumerate(by_dims.items()):
        colour, counts = PALETTE[number], [cell.steps or 0 for cell in found]
        axes.errorbar(
            counts,
            [kg_of(cell) for cell in found],
            yerr=spreads_kg(found),
            linestyle="none",
            marker=MARKERS[number],
            color=colour,
            label=f"{dims}D, {_size_label(found[0].size)}",
        )
        steps = np.geomspace(counts[0], counts[-1], 50)
        axes.plot(steps, fitted_kg(steps_model(found), steps), color=colour)
        axes.plot(steps, kg_of(found[-1]) * steps / counts[-1], color=colour, linestyle="--")
    counts = sorted({cell.steps or 0 for found in by_dims.values() for cell in found})
    axes.set_yscale("log")
    scale_axis(axes, "x", counts, ticks=counts)
    axes.set_xlabel("denoising steps")
    _number_axis(axes, "CO2e (kg)")
    axes.legend(loc="upper left")


def _papers(task: str, dims: int) -> list[PaperResult]:
    return [result_of(task, dims, is_largest=largest) for largest in (False, True)]


def _networks(panels: dict[int, dict[str, list[StudyCell]]]) -> str:
    """Returns the networks and steps of our own sizes, in words."""
    found = [cell for of in panels.values() for cells in of.values() for cell in cells]
    names = dict.fromkeys(label(cell.model_size) for cell in found)
    counts = dict.fromkeys(str(cell.steps) for cell in found if cell.steps is not None)
    steps = f", {' or '.join(counts)} steps a sample" if counts else ""
    return f"{' and '.join(names)} networks{steps}"


def _num_voxels(size: Sequence[int]) -> int:
    return int(np.prod(size))


def _size_label(size: Sequence[int]) -> str:
    """Returns a size in short: ``64³``, ``256²×192``."""
    if len(set(size)) == 1:
        return f"{size[0]}{'²' if len(size) == 2 else '³'}"
    if len(size) == 3 and size[0] == size[1]:
        return f"{size[0]}²×{size[2]}"
    return "×".join(map(str, size))


def _number_axis(axes: Axes, text: str) -> None:
    axes.set_ylabel(text)
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        is_short = high < 100 * low  # needs ticks between its powers of 10
        axes.yaxis.set_major_locator(
            mpl.ticker.LogLocator(subs=(1.0, 2.0, 5.0) if is_short else (1.0,))
        )
        axes.yaxis.set_minor_locator(mpl.ticker.NullLocator())
    axes.yaxis.set_major_formatter(mpl.ticker.FuncFormatter(plain_number))
    finish(axes)


def _svg(figure: Figure) -> str:
    """Returns a figure as SVG that is equal for equal figures."""
    text = StringIO()
    with mpl.rc_context({"svg.hashsalt": "mlflow-carbon"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
