"""Each kind of picture, from runs as a store holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from matplotlib.figure import Figure

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.pictures.frames import (
    NAMES_BY_AXIS,
    PER_RUN,
    WHOLE_UNIT,
    Amount,
    axis_name,
    energy_so_far,
    month_points,
    pareto,
    points,
    price_texts,
    region_points,
    run_bars,
)
from mlflow_carbon.pictures.paper_figures import (
    image_size_figure,
    model_size_figure,
    region_month_figure,
    steps_gpus_figure,
)
from mlflow_carbon.pictures.run_figures import energy_figure, quality_figure, runs_figure
from mlflow_carbon.pictures.style import house_style
from mlflow_carbon.reporting.compare import compare_runs
from mlflow_carbon.reporting.run_groups import column_of

IMAGE_SIZE, MODEL_SIZE, REGION, STEPS = "image-size", "model-size", "region", "steps"
QUALITY, RUNS, ENERGY = "quality", "runs", "energy"
KINDS = (IMAGE_SIZE, MODEL_SIZE, REGION, STEPS, ENERGY, QUALITY, RUNS)


@dataclass(frozen=True)
class Request:
    """What to draw, and how its energy is priced.

    Attributes:
        x: parameter or tag of the horizontal axis; ``None`` takes the first known name of the kind.
        series: parameters or tags, each combination of which is a series.
        amount: what the CO2e is of.
        intensities: prices in these; none keeps what each run recorded.
        pue: prices with this PUE; ``None`` keeps what each run recorded.
        month_year: of the months that are drawn; ``None`` takes the newest.
        is_lower_better: whether a low quality figure is a good one.
    """

    x: str | None = None
    series: tuple[str, ...] = ()
    amount: Amount = WHOLE_UNIT
    intensities: tuple[CarbonIntensity, ...] = ()
    pue: float | None = None
    month_year: str | None = None
    is_lower_better: bool = True


def draw_sizes(runs: pd.DataFrame, request: Request, *, kind: str) -> Figure:
    """Draws CO2e over image size, or over model size.

    Raises:
        InvalidInputError: the runs have no parameter that holds the size.
        NoRunsError: no run can be compared.
    """
    axis = "size" if kind == IMAGE_SIZE else "model_size"
    frame, x = _over(runs, request, axis)
    figure = image_size_figure if kind == IMAGE_SIZE else model_size_figure
    with house_style():
        return figure(frame, amount=request.amount, x_label=x)


def draw_steps(runs: pd.DataFrame, request: Request) -> Figure:
    """Draws CO2e over steps, and over the number of GPUs where the runs have several.

    Raises:
        InvalidInputError: the runs name neither steps nor a number of GPUs.
        NoRunsError: no run can be compared.
    """
    steps_name = axis_name(runs, "steps", request.x)
    gpus_name = axis_name(runs, "gpus")
    frames = {"steps": pd.DataFrame(), "gpus": pd.DataFrame()}
    has_gpus = gpus_name is not None and runs[column_of(runs, gpus_name)].nunique() > 1
    if steps_name is not None:
        of_gpus = (gpus_name,) if has_gpus and gpus_name is not None else ()
        frames["steps"] = _over(
            runs, replace(request, series=(*request.series, *of_gpus)), "steps"
        )[0]
    if has_gpus and gpus_name is not None:
        series = tuple(dict.fromkeys([*request.series, *([steps_name] if steps_name else [])]))
        over_gpus = points(
            runs,
            x=gpus_name,
            series=series,
            amount=request.amount,
            intensities=request.intensities,
            pue=request.pue,
        )
        num_places = over_gpus.groupby(["panel", "series"])["x"].transform("nunique")
        frames["gpus"] = over_gpus[num_places > 1]  # one place alone compares nothing
    if all(frame.empty for frame in frames.values()):
        raise _no_axis("steps")
    with house_style():
        return steps_gpus_figure(frames["steps"], frames["gpus"], amount=request.amount)


def draw_regions(runs: pd.DataFrame, request: Request) -> Figure:
    """Draws the CO2e of the mean run, or of its units, by region and by month.

    Raises:
        InvalidInputError: the runs are of several units, or of several PUEs and none is given.
        NoRunsError: no run can be compared.
    """
    energy_kwh, pue, own = energy_to_price(runs, request)
    month_region = request.intensities[0].region if request.intensities else own or "DE"
    regions = region_points(energy_kwh, pue=pue, regions=request.intensities, own=own)
    months = month_points(energy_kwh, month_region, pue=pue, year=request.month_year)
    if months.empty:
        months = month_points(energy_kwh, "DE", pue=pue, year=request.month_year)
    unit = str(runs["unit"].dropna().iloc[0])
    title = f"CO2e {request.amount.of(unit)}, mean of the runs"
    with house_style():
        return region_month_figure(regions, months, title=title)


def energy_to_price(runs: pd.DataFrame, request: Request) -> tuple[float, float, str | None]:
    """Returns the mean energy in kWh of the runs or their units, the PUE, and their one region.

    Raises:
        InvalidInputError: the runs are of several units, or of several PUEs and none is given.
        NoRunsError: no run can be compared.
    """
    table = compare_runs(runs, pue=request.pue, pool=True).table
    units = list(dict.fromkeys(table["unit"]))
    if len(units) > 1 and request.amount.per != PER_RUN:
        raise InvalidInputError(
            f"The runs count {' and '.join(units)}, whose energies have no one mean; choose "
            "runs of one unit.",
            instead="per",
        )
    stem = "energy_kwh" if request.amount.per == PER_RUN else "energy_kwh_per_unit"
    weights = table["num_runs"]
    energy_kwh = float((table[f"{stem}_mean"] * weights).sum() / weights.sum())
    energy_kwh *= request.amount.num_units
    pues = runs["pue"].dropna().unique() if request.pue is None else [request.pue]
    if len(pues) != 1:
        raise InvalidInputError(
            "The runs recorded several PUEs, so one energy has no one price.", instead="pue"
        )
    own_regions = runs["region"].dropna().unique()
    own = str(own_regions[0]) if len(own_regions) == 1 else None
    return energy_kwh, float(pues[0]), own


def draw_energy(record: RunRecord, *, name: str, methods: Sequence[str]) -> Figure:
    """Draws a run's energy over time by component.

    Raises:
        NoRunsError: the run has no measured energy.
    """
    windows = energy_so_far(record)
    with house_style():
        return energy_figure(windows, title=name, is_estimated=keys.METHOD_TDP in methods)


def quality_points(
    runs: pd.DataFrame, quality: Mapping[str, float], request: Request
) -> pd.DataFrame:
    """Returns quality and CO2e of each group of runs that have both; see ``frames.pareto``.

    Raises:
        NoRunsError: no run has both.
    """
    known = runs[runs["run_id"].isin(quality)]
    known = known.assign(**{f"{_QUALITY_COLUMN}": known["run_id"].map(quality)})
    names = [name for name in dict.fromkeys([*request.series, request.x or ""]) if name]
    if not names:
        default = axis_name(known, "steps")
        names = [default] if default else []
    if known.empty:
        raise NoRunsError("No run has both energy per unit and this quality figure.")
    comparison = compare_runs(
        known, group_by=names, intensities=request.intensities, pue=request.pue
    )
    costs, names = comparison.table, list(comparison.group_by)
    if costs["unit"].nunique() > 1:
        raise InvalidInputError("The runs count several units; draw quality for one of them.")
    stem = "co2e_g" if request.amount.per == PER_RUN else "co2e_g_per_unit"
    columns = [column_of(known, name) for name in names]
    rows = []
    for cost in costs.to_dict("records"):
        is_of_group = pd.Series(True, index=known.index)
        for name, column in zip(names, columns, strict=True):
            is_of_group &= known[column].eq(cost[name])
        values = known.loc[is_of_group, _QUALITY_COLUMN]
        rows.append(
            {
                "label": ", ".join(f"{name} {cost[name]}" for name in names) or "all runs",
                "mean": cost[f"{stem}_mean"] * request.amount.num_units,
                "std": cost[f"{stem}_std_between"] * request.amount.num_units,
                "quality": float(values.mean()),
                "quality_std": float(values.std()) if len(values) > 1 else float("nan"),
                "num_runs": cost["num_runs"],
                "unit": cost["unit"],
                "price": price_texts(pd.DataFrame([cost]))[0],
            }
        )
    found = pareto(pd.DataFrame(rows), is_lower_better=request.is_lower_better)
    found.attrs["run_ids"] = tuple(known["run_id"])
    return found


def draw_quality(frame: pd.DataFrame, request: Request, *, metric: str) -> Figure:
    """Draws quality against CO2e; ``frame`` is that of ``quality_points``."""
    with house_style():
        return quality_figure(
            frame,
            metric=metric,
            amount_text=request.amount.of(str(frame["unit"].iloc[0])),
            is_lower_better=request.is_lower_better,
        )


def draw_runs(runs: pd.DataFrame) -> Figure:
    """Draws each run's CO2e as a bar.

    Raises:
        NoRunsError: no run recorded its CO2e.
    """
    frame = run_bars(runs)
    if frame.empty:
        raise NoRunsError(f"None of {len(runs)} metered runs recorded its CO2e.")
    with house_style():
        return runs_figure(frame)


_QUALITY_COLUMN = "quality of the run"


def _over(runs: pd.DataFrame, request: Request, axis: str) -> tuple[pd.DataFrame, str]:
    """Returns the points over an axis, and the name of the parameter that holds it."""
    x = axis_name(runs, axis, request.x)
    if x is None:
        raise _no_axis(axis)
    dims = axis_name(runs, "dims")
    has_dims = dims is not None and runs[column_of(runs, dims)].nunique() > 1
    series = request.series or ((dims,) if has_dims and dims is not None else ())
    frame = points(
        runs,
        x=x,
        series=series,
        amount=request.amount,
        intensities=request.intensities,
        pue=request.pue,
    )
    return frame, x


def _no_axis(axis: str) -> InvalidInputError:
    names = " or ".join(NAMES_BY_AXIS[axis])
    return InvalidInputError(
        f"No run has a parameter {names}; name the one to draw over.", instead="x"
    )
