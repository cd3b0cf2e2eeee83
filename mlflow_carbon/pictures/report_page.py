"""The report's page, put together from the runs of a store."""

import importlib.metadata
import math
from collections.abc import Mapping, Sequence

import pandas as pd
from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.errors import BadRecordError, MlflowCarbonError
from mlflow_carbon.grid.hourly import IntensitySeries, time_text
from mlflow_carbon.pictures import drawing
from mlflow_carbon.pictures.drawing import Request
from mlflow_carbon.pictures.html_report import (
    Cell,
    Head,
    HtmlTable,
    Page,
    number_cell,
    text_cell,
)
from mlflow_carbon.pictures.report_facts import (
    Footprint,
    answer,
    bounds,
    footprint,
    method_shares,
    percent,
    prices,
    summed_runs,
    unmeasured,
)
from mlflow_carbon.pictures.report_figures import report_figures
from mlflow_carbon.redaction import redact
from mlflow_carbon.reporting.compare import Comparison, compare_runs
from mlflow_carbon.reporting.savings import (
    Change,
    place_changes,
    setting_changes,
    varying_settings,
)
from mlflow_carbon.reporting.tables import (
    ABSENT,
    ENERGY_SCALES,
    MASS_SCALES,
    NUM_STD_DIGITS,
    Scale,
    choose_scale,
    key_text,
    short_name,
)
from mlflow_carbon.store.access import place_of, store_errors
from mlflow_carbon.store.experiments import find_experiment
from mlflow_carbon.store.listing import all_runs
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.store.runs import PARAM_COLUMN_PREFIX, words_of

MAX_ROWS = 500  # of a table; a page of more is slow on a phone
_MAX_KEYS = 4  # parameters that make a group
_SHOWN_PACKAGES = ("mlflow-carbon", "mlflow-skinny", "bokeh", "matplotlib")


def build_page(
    client: MlflowClient,
    runs: pd.DataFrame,
    *,
    experiment_names: Sequence[str],
    metric: str | None,
    quality: Mapping[str, float] | None,
    is_lower_better: bool,
    series: IntensitySeries | None,
    now_s: float,
) -> Page:
    """Returns the report of runs.

    Args:
        client: of their store.
        runs: as ``store.read_runs`` returns them, partial ones too.
        experiment_names: what they were read from.
        metric: name of the quality figure; ``None`` without one.
        quality: its values by run id.
        is_lower_better: whether a low quality figure is a good one.
        series: hourly intensities of the user's own, for the best hour.
        now_s: when the report is made, in s since 1970.

    Raises:
        TrackingStoreError: the store cannot be read.
    """
    changes = setting_changes(runs, quality=quality, is_lower_better=is_lower_better)
    places, unknown = place_changes(runs, series)
    changes = sorted([*changes, *places], key=lambda change: -change.saving_fraction)
    total = footprint(runs)
    request = Request(is_lower_better=is_lower_better)
    points = None
    not_drawn: list[str] = []
    if quality is not None:
        try:
            points = drawing.quality_points(runs, quality, request)
        except MlflowCarbonError as error:
            not_drawn.append(f"Quality against CO2e: {error}")
    figures, reasons = report_figures(
        runs, quality=points, metric=metric, largest=_largest(client, runs), request=request
    )
    comparison = _comparison(runs)
    names = ", ".join(experiment_names)
    return Page(
        name=names,
        answer=answer(total, runs, changes, name=names),
        made=f"Made {time_text(now_s)} from {len(runs)} metered runs.",
        changes=_changes_table(changes) if changes else None,
        unknown=unknown,
        figures=figures,
        not_drawn=[*not_drawn, *reasons],
        groups=None if comparison is None else _groups_table(comparison),
        notices=[]
        if comparison is None
        else [notice.replace("`", "") for notice in comparison.notices],
        runs=_runs_table(runs),
        num_runs_left_out=max(len(runs) - MAX_ROWS, 0),
        methods=_methods_table(runs),
        certainty=_certainty(total),
        unmeasured=unmeasured(runs, total, num_unmetered=_num_unmetered(client, experiment_names)),
        prices="; ".join(prices(runs)) or "none recorded",
        place=redact(place_of(client)),
        experiments=names,
        versions=_versions(),
    )


def _largest(client: MlflowClient, runs: pd.DataFrame) -> RunRecord | None:
    """Returns the record, with windows, of the run of the most energy; ``None`` if unreadable."""
    summed = summed_runs(runs).dropna(subset=["energy_kwh"])
    if summed.empty:
        return None
    run_id = str(summed.loc[summed["energy_kwh"].idxmax(), "run_id"])
    with store_errors(client):
        try:
            return read_record(client, client.get_run(run_id)).or_lower_bound()
        except BadRecordError:
            return None


def _num_unmetered(client: MlflowClient, experiment_names: Sequence[str]) -> int | None:
    """Returns the number of active runs that carry no figure of ours; ``None`` if not told."""
    with store_errors(client):
        ids = [find_experiment(client, name).experiment_id for name in experiment_names]
        try:
            return len(all_runs(client, ids, f"tags.`{keys.TAG_SCHEMA}` IS NULL"))
        except Exception:  # an older server does not know IS NULL
            return None


def _comparison(runs: pd.DataFrame) -> Comparison | None:
    settings = [
        column.removeprefix(PARAM_COLUMN_PREFIX)
        for column in varying_settings(runs)
        if column.startswith(PARAM_COLUMN_PREFIX) and runs[column].notna().all()
    ]
    try:
        return compare_runs(runs, group_by=[f"params.{name}" for name in settings[:_MAX_KEYS]])
    except MlflowCarbonError:
        return None


def _changes_table(changes: Sequence[Change]) -> HtmlTable:
    heads = (
        Head("change"),
        Head("from"),
        Head("to"),
        Head("CO2e", is_number=True),
        Head("95 % interval"),
        Head("rests on"),
    )
    rows = tuple(
        (
            text_cell(change.setting),
            text_cell(change.before),
            text_cell(change.after),
            number_cell(percent(-change.saving_fraction), -change.saving_fraction),
            text_cell(ABSENT if change.low is None else bounds(change).removeprefix("95 %: ")),
            text_cell(change.basis + _ids_text(change.run_ids)),
        )
        for change in changes
    )
    return HtmlTable(heads, rows)


def _ids_text(run_ids: Sequence[str]) -> str:
    shown_ids = ", ".join(run_id[:8] for run_id in run_ids[:6])
    more = f" and {len(run_ids) - 6} more" if len(run_ids) > 6 else ""
    return f" Runs {shown_ids}{more}." if run_ids else ""


def _groups_table(comparison: Comparison) -> HtmlTable:
    table = comparison.table
    varying = [
        name for name in (*comparison.group_by, "region") if table[name].nunique(dropna=False) > 1
    ]
    names = [*varying, "unit"]
    energy = choose_scale(table["energy_kwh_per_unit_mean"], ENERGY_SCALES)
    mass = choose_scale(table["co2e_g_per_unit_mean"], MASS_SCALES)
    heads = [Head(short_name(name), _is_number(table[name])) for name in names]
    heads += [Head("runs", True), Head("windows", True)]
    heads += [
        Head(f"{title} per unit ({scale.symbol})", True)
        for title, scale in (("CO2e", mass), ("energy", energy))
    ]
    heads.append(Head("within (%)", True))
    rows = []
    for row in table.head(MAX_ROWS).to_dict("records"):
        cells = [text_cell(key_text(name, row[name])) for name in names]
        cells += [number_cell(str(row[name]), row[name]) for name in ("num_runs", "num_windows")]
        for stem, scale in (("co2e_g", mass), ("energy_kwh", energy)):
            mean = row[f"{stem}_per_unit_mean"]
            text = scale.text_with_std(mean, row[f"{stem}_per_unit_std_between"])
            cells.append(number_cell(text, mean))
        within = row["energy_kwh_per_unit_std_within"] / (
            row["energy_kwh_per_unit_mean"] or math.nan
        )
        cells.append(_amount_cell(within, Scale("%", 100.0), NUM_STD_DIGITS))
        rows.append(tuple(cells))
    return HtmlTable(tuple(heads), tuple(rows)).without_empty()


def _runs_table(runs: pd.DataFrame) -> HtmlTable:
    ordered = runs.sort_values("co2e_g", ascending=False, na_position="last").head(MAX_ROWS)
    energy = choose_scale(ordered["energy_kwh"], ENERGY_SCALES)
    mass = choose_scale(ordered["co2e_g"], MASS_SCALES)
    heads = (
        Head("run"),
        Head("id", is_id=True),
        Head(f"CO2e ({mass.symbol})", True),
        Head(f"energy ({energy.symbol})", True),
        Head("time (s)", True),
        Head("units", True),
        Head("unit"),
        Head("region"),
        Head("energy is"),
        Head("observed (%)", True),
        Head("note"),
    )
    rows = tuple(
        (
            text_cell(str(row["run_name"])),
            text_cell(str(row["run_id"])),
            _amount_cell(row["co2e_g"], mass, 4),
            _amount_cell(row["energy_kwh"], energy, 4),
            _plain_cell(row["duration_s"]),
            _plain_cell(row["num_units"]),
            text_cell(_or_absent(row["unit"])),
            text_cell(_or_absent(row["region"])),
            text_cell(_or_absent(words_of(row["methods"] or ""))),
            _plain_cell(100 * row["coverage_fraction"]),
            text_cell(_note(row)),
        )
        for row in ordered.to_dict("records")
    )
    return HtmlTable(heads, rows).without_empty()


def _note(row: Mapping[object, object]) -> str:
    notes = []
    if row.get(f"tags.{keys.TAG_PARTIAL}") == "true":
        notes.append("a lower bound")
    if row["scope"] == keys.SCOPE_PARENT:
        notes.append("holds its children's energy")
    return ", ".join(notes)


def _methods_table(runs: pd.DataFrame) -> HtmlTable:
    heads = (Head("energy is"), Head("runs", True), Head("share of the energy", True))
    rows = tuple(
        (
            text_cell(words_of(methods) or "not recorded"),
            number_cell(str(num_runs), num_runs),
            number_cell(f"{100 * share:.3g} %", share),
        )
        for methods, num_runs, share in method_shares(runs)
    )
    return HtmlTable(heads, rows)


def _certainty(total: Footprint) -> list[str]:
    told = "Runs do not say what share of their time was observed."
    if total.counted_fraction is not None:
        told = (
            f"{100 * total.counted_fraction:.3g} % of the energy lies in time that counters or "
            "samples observed; the rest was estimated."
        )
    sentences = [
        told,
        "Counted: by the hardware. Sampled: from power read at intervals. Estimated: from the "
        "CPU's design power and load, which is no measurement. Errors on known loads: "
        "docs/validation.md.",
        "The error of a meter is not in any ±: repeated runs tell how they differ, not by how much "
        "all are wrong.",
        "Carbon intensities are means of a year or month, as their publishers give them.",
    ]
    if total.num_children:
        sentences.append(
            f"Child runs in their parents' energy, and counted there: {total.num_children}."
        )
    return sentences


def _amount_cell(value: float | None, scale: Scale, num_digits: int) -> Cell:
    if value is None or value != value:
        return Cell(ABSENT, "")
    return number_cell(scale.text(value, num_digits), value)


def _plain_cell(value: float) -> Cell:
    return Cell(ABSENT, "") if value != value else number_cell(f"{value:.4g}", value)


def _or_absent(value: object) -> str:
    return str(value) if isinstance(value, str) and value else ABSENT


def _is_number(values: pd.Series) -> bool:
    return not bool(pd.to_numeric(values, errors="coerce").isna().any())


def _versions() -> str:
    found = []
    for package in _SHOWN_PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found) + "."
