"""How every figure looks: one paper column wide, in colours that the colour-blind tell apart."""

import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import TextPath
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.inert import shown

COLUMN_WIDTH_IN = 3.3  # of a journal of two columns
PANEL_HEIGHT_IN = 2.1
NOTE_LINE_IN = 0.125
NOTE_PT = 5.8
LEGEND_PT = 6.5
LEGEND_LINE_IN = 0.14
DOTS_PER_INCH = 300
FORMATS = ("png", "svg", "pdf")
MAX_LABEL_CHARS = 28
NOTE_CHARS = 76  # that fit one line of a column
INK = "#1b1c1d"  # axes and text; a web page replaces it by its own colour of text
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, in seaborn's brightness.
PALETTE: tuple[str, ...] = tuple(sns.color_palette("colorblind").as_hex())

_MAX_PRICES, _MAX_PRICE_CHARS = 3, 64  # named in a note, and the length of each
_PT_PER_IN = 72.0
_AXES_WIDTH_IN = 2.6  # of a panel, without its labels at the left
_HANDLE_IN = 0.4  # of a legend's mark, with the space about it
_MOST_INSIDE = 0.62  # of the width of a panel that a legend inside it may take
_MOST_TICKS = 9  # measured values that are shown as ticks
_SHORT_DECADES = 100.0  # a logarithmic axis shorter than this needs ticks between its powers of 10
_WIDE_FACTOR = 4.0  # values further apart than this are drawn on a logarithmic axis
_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib brings it, so each machine draws the same
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": LEGEND_PT,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "errorbar.capsize": 2.0,
    "text.parse_math": False,  # a run may be called $\frac
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "svg.fonttype": "none",  # text stays text: it is read aloud, searched and scaled
    "pdf.fonttype": 42,
    "legend.frameon": False,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Draws in the house's style inside the block, and leaves the user's settings as they were."""
    with mpl.rc_context():
        mpl.rcdefaults()
        sns.set_theme(context="paper", style="ticks", palette="colorblind", rc=_SETTINGS)
        yield


def new_figure(
    num_panels: int,
    note: str,
    *,
    panel_height_in: float = PANEL_HEIGHT_IN,
    note_chars: int = NOTE_CHARS,
) -> Figure:
    """Returns an empty figure of one column, with room for panels above a note.

    Args:
        num_panels: drawn one below the other.
        note: what the marks and error bars are.
        panel_height_in: of each panel with its axes.
        note_chars: of the longest line of the note.
    """
    lines = _fitting(note, note_chars)
    height_in = num_panels * panel_height_in + NOTE_LINE_IN * (len(lines) + 0.3)
    note_fraction = NOTE_LINE_IN * (len(lines) + 0.15) / height_in
    layout = ConstrainedLayoutEngine(rect=(0, note_fraction, 1, 1 - note_fraction))
    figure = Figure(figsize=(COLUMN_WIDTH_IN, height_in), layout=layout)
    FigureCanvasAgg(figure)
    figure.text(0.02, 0.02 / height_in, "\n".join(lines), va="bottom", ha="left", fontsize=NOTE_PT)
    return figure


def _fitting(note: str, num_chars: int) -> list[str]:
    """Returns a note in lines of so many characters, or of fewer where capitals are wide."""
    while True:
        lines = wrapped(note, num_chars)
        widest_in = max((text_width_in(line, NOTE_PT) for line in lines), default=0.0)
        if widest_in <= 0.97 * COLUMN_WIDTH_IN or num_chars <= NOTE_CHARS // 2:
            return lines
        num_chars -= 1


def text_width_in(text: str, size_pt: float) -> float:
    """Returns the width in inches of a line in the house's font."""
    font = FontProperties(family="DejaVu Sans")
    if not text.strip():
        return 0.0
    path = TextPath((0, 0), text, size=size_pt, prop=font, usetex=False)
    return float(path.get_extents().width) / _PT_PER_IN


def legend_columns(texts: Iterable[str]) -> tuple[int, bool]:
    """Returns the columns of a legend, and whether it needs room of its own above the panel.

    Args:
        texts: of its entries.
    """
    names = [text for text in texts if text]
    if not names:
        return 1, False
    entry_in = max(text_width_in(text, LEGEND_PT) for text in names) + _HANDLE_IN
    num_columns = 2 if len(names) > 3 and 2 * entry_in <= _AXES_WIDTH_IN else 1
    num_rows = math.ceil(len(names) / num_columns)
    is_small = num_columns * entry_in <= _MOST_INSIDE * _AXES_WIDTH_IN or num_rows == 1
    return num_columns, not (is_small and num_rows <= 3)


def legend_height_in(texts: Collection[str]) -> float:
    """Returns the height to add to a panel for the legend above it; 0 for one inside."""
    num_columns, is_above = legend_columns(texts)
    return LEGEND_LINE_IN * math.ceil(len(texts) / num_columns) if is_above else 0.0


def wrapped(text: str, num_chars: int = NOTE_CHARS) -> list[str]:
    """Returns text in lines that fit a column."""
    return textwrap.wrap(text, num_chars)


def label(text: str) -> str:
    """Returns a name from a store as a figure may show it: on one line, its end cut."""
    return shown(text, max_chars=MAX_LABEL_CHARS)


def price_note(prices: Iterable[str]) -> str:
    """Returns the sentence of a note that says by what the CO2e came about; empty if not known."""
    texts = [shown(text, max_chars=_MAX_PRICE_CHARS) for text in dict.fromkeys(prices) if text]
    others = len(texts) - _MAX_PRICES
    told = texts[:_MAX_PRICES] + ([f"{others} others"] if others > 0 else [])
    return f" CO2e by {'; '.join(told)}." if told else ""


def plain_number(value: float, _: object = None) -> str:
    """Returns a tick's number without an exponent where that is short."""
    return f"{value:,.10g}" if 1e-4 <= abs(value) < 1e7 or value == 0 else f"{value:.0e}"


def is_wide(values: Sequence[float]) -> bool:
    """Returns whether positive values lie so far apart that a logarithmic axis is needed."""
    return len(values) > 1 and min(values) > 0 and max(values) / min(values) > _WIDE_FACTOR


def scale_axis(
    axes: Axes, name: str, values: Sequence[float], *, ticks: Sequence[float] = ()
) -> None:
    """Gives an axis plain numbers, on a logarithmic scale where the values lie far apart.

    Args:
        axes: of a plot.
        name: ``x`` or ``y``.
        values: that the axis shows.
        ticks: put at these values where they are few; else where matplotlib puts them.
    """
    axis = axes.xaxis if name == "x" else axes.yaxis
    is_log = is_wide(values)
    if is_log:
        (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    if ticks and len(ticks) <= _MOST_TICKS:
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_minor_locator(NullLocator())
    elif is_log:
        is_short = max(values) < _SHORT_DECADES * min(values)
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if is_short else (1.0,)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(plain_number))
    axis.set_minor_formatter(NullFormatter())


def finish(axes: Axes) -> None:
    """Draws a light grid below the data, and takes the frame away at the top and the right."""
    axes.set_axisbelow(True)
    axes.grid(axis="y")
    sns.despine(ax=axes)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, SVG or PDF, by the end of the file's name.

    Raises:
        InvalidInputError: the name ends otherwise, or its folder does not exist.
    """
    kind = check_path(path)
    dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with house_style(), mpl.rc_context({"svg.hashsalt": "mlflow-carbon"}):
        figure.savefig(path, format=kind, dpi=DOTS_PER_INCH, metadata=dated)


def check_path(path: Path) -> str:
    """Returns the format that a file's name asks for.

    Raises:
        InvalidInputError: the name ends otherwise, or its folder does not exist.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise InvalidInputError(
            f"out is {str(path)!r}; end it in .png, .svg or .pdf.", arguments=["out"]
        )
    if not path.absolute().parent.is_dir():
        raise InvalidInputError(
            f"out is {str(path)!r}, in a folder that does not exist; make it first.",
            arguments=["out"],
        )
    return kind
