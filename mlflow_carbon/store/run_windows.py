"""One metered run with its windows, found by id, by name or as the latest run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException

from mlflow_carbon.accounting.emissions import validate_pue
from mlflow_carbon.accounting.uncertainty import Stretch
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import IS_PARTIAL, RunRecord
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.hourly import EnergySpan
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.ended_runs import newest_ended_runs
from mlflow_carbon.store.listing import all_experiments
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE, watts_from_kwh

LATEST = "latest"
_RUN_ID = re.compile(r"[0-9a-fA-F]{32}")
_ROUNDING_FRACTION = 1e-9  # of the energy: a smaller remainder is rounding
_NUM_NAMESAKES = 5  # ids that an error lists


@dataclass(frozen=True)
class MeteredRun:
    """The measurements and assumptions of one run; ``None`` where not recorded.

    Attributes:
        run_id: MLflow's.
        name: of the run.
        unit: what the windows count.
        windows: in the order in which they closed; the whole run if no window was marked.
        spans: the times at which the energy was spent, between the windows too.
        window_duration_s: duration of all windows together.
        energy_kwh: of the whole run.
        duration_s: of the whole run.
        coverage_fraction: share of the time that counters or samples observed.
        pue: as recorded.
        intensity: as recorded.
        is_partial: whether the energy is a lower bound: the sum of a killed run's windows.
    """

    run_id: str
    name: str
    unit: str
    windows: tuple[Stretch, ...]
    spans: tuple[EnergySpan, ...]
    window_duration_s: float
    energy_kwh: float
    duration_s: float
    coverage_fraction: float | None
    pue: float | None
    intensity: CarbonIntensity | None
    is_partial: bool = False

    @property
    def num_units(self) -> float:
        """Units of all windows together."""
        return sum(window.num_units for window in self.windows)

    @property
    def title(self) -> str:
        """The run's name and id, for people."""
        return _title(self.run_id, self.name)


def find_run(client: MlflowClient, text: str, *, experiment_names: Sequence[str] = ()) -> Run:
    """Finds a run by its id, a metered run by its name, or the latest metered run.

    Args:
        client: of the store.
        text: an id, a name, or ``latest`` for the metered run that ended last. A run that sets
            off a training starts before it and ends after it.
        experiment_names: where to look for names; empty looks everywhere.

    Raises:
        NoRunsError: there is no such run.
        InvalidInputError: several runs have the name.
        TrackingStoreError: the store cannot be read.
    """
    if _RUN_ID.fullmatch(text) and (run := _run_of_id(client, text)) is not None:
        return run
    name = None if text == LATEST else text
    named = "" if name is None else f"attributes.run_name = {_quoted(name)}"
    with store_errors(client):
        known = [
            experiment.experiment_id
            for experiment in all_experiments(client)
            if not experiment_names or experiment.name in experiment_names
        ]
        found = newest_ended_runs(
            client, known, name=name, name_filter=named, max_runs=_NUM_NAMESAKES
        )
    if not found:
        if text == LATEST:
            raise NoRunsError("No metered run has ended yet; mlflow_carbon.track() meters one.")
        raise NoRunsError(
            f"No ended metered run has the id or name {text!r}. Give another, or {LATEST!r}; "
            "runs are metered by mlflow_carbon.track()."
        )
    if len(found) > 1 and text != LATEST:
        ids = ", ".join(run.info.run_id for run in found)
        raise InvalidInputError(
            f"Several metered runs are called {text!r}; give an id, newest first: {ids}."
        )
    return max(found, key=lambda run: run.info.end_time or 0)


def _run_of_id(client: MlflowClient, run_id: str) -> Run | None:
    """Returns the run with an id; ``None`` if there is no such run.

    Raises:
        TrackingStoreError: the store cannot be read.
    """
    with store_errors(client):
        try:
            return client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None


def read_metered_run(client: MlflowClient, run: Run) -> MeteredRun:
    """Returns a run's measurements, window by window; a killed run's total is their sum.

    Raises:
        NoRunsError: the run is not metered, not ended, or measured nothing.
        BadRecordError: a figure is what no run can have measured.
        TrackingStoreError: the store cannot be read.
    """
    tags, title = run.data.tags, _title(run.info.run_id, run.info.run_name or "")
    is_running = run.info.status == RunStatus.to_string(RunStatus.RUNNING)
    if is_running and tags.get(keys.TAG_PARTIAL) != IS_PARTIAL:
        raise NoRunsError(f"The {title} has not ended; its figures are complete when it has.")
    with store_errors(client):
        recorded = read_record(client, run, has_components=False)
    record = recorded.or_lower_bound()
    total, unit = record.total, record.unit
    if unit is None or total is None or total.energy_kwh is None or total.duration_s is None:
        reason = tags.get(keys.TAG_ERROR, "meter it with mlflow_carbon.track().")
        raise NoRunsError(f"The {title} carries no measured energy: {reason}")
    marked = [window for window in record.windows.values() if window.unit is not None]
    stretches = tuple(window.stretch for window in marked)
    spans = tuple(
        EnergySpan(window.start_unix_s, window.end_unix_s, window.energy_kwh) for window in marked
    )
    end_s = (record.total_end_ms or 0) / MILLISECONDS_PER_SECOND
    whole = EnergySpan(end_s - total.duration_s, end_s, total.energy_kwh)
    if not marked:  # without marked windows the run is one window in minutes
        power_w = watts_from_kwh(total.energy_kwh, total.duration_s) if total.duration_s else None
        num_minutes = total.duration_s / SECONDS_PER_MINUTE
        stretches, spans = (Stretch(total.energy_kwh, num_minutes, power_w),), (whole,)
    elif record.num_nodes > 1:
        stretches = _of_all_nodes(stretches, record, title)
    between_kwh = total.energy_kwh - sum(span.energy_kwh for span in spans)
    window_duration_s = sum(span.end_s - span.start_s for span in spans)
    if between_kwh > _ROUNDING_FRACTION * total.energy_kwh:
        spans = (*spans, EnergySpan(whole.start_s, whole.end_s, between_kwh))
    intensity = record.intensity
    return MeteredRun(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        unit=unit,
        windows=stretches,
        spans=spans,
        window_duration_s=window_duration_s,
        energy_kwh=total.energy_kwh,
        duration_s=total.duration_s,
        coverage_fraction=total.coverage_fraction,
        pue=record.pue,
        intensity=intensity if intensity is not None and intensity.region else None,
        is_partial=record.is_partial,
    )


def pue_of(run: MeteredRun, pue: float | None) -> float:
    """Returns the given PUE, else the recorded one.

    Raises:
        InvalidInputError: the PUE is outside 1 to 3, or is neither given nor recorded.
    """
    used = run.pue if pue is None else pue
    if used is None:
        raise InvalidInputError(f"No PUE is recorded in {run.title}.", instead="pue")
    return validate_pue(used)


def _title(run_id: str, name: str) -> str:
    return f"run {run_id} ({shown(name, max_chars=MAX_NAME_CHARS)})"


def _of_all_nodes(
    stretches: tuple[Stretch, ...], record: RunRecord, title: str
) -> tuple[Stretch, ...]:
    """Returns the first node's windows scaled to all nodes, which are assumed to vary together.

    Raises:
        NoRunsError: a node's energy is missing.
    """
    per_unit = record.energy_per_unit.get(record.unit or "")
    if per_unit is None:
        missing = ",".join(record.missing_nodes) or "?"
        raise NoRunsError(
            f"The {title} lacks energy of node {missing}, so a unit's is not known; "
            "take a run in which all nodes ended."
        )
    own_kwh = sum(stretch.energy_kwh for stretch in stretches)
    factor = per_unit.energy_kwh * sum(stretch.num_units for stretch in stretches) / own_kwh
    return tuple(
        Stretch(
            stretch.energy_kwh * factor,
            stretch.num_units,
            None if stretch.power_w is None else stretch.power_w * factor,
        )
        for stretch in stretches
    )


def _quoted(text: str) -> str:
    """Returns a value for a filter of MLflow, which knows no escape.

    Raises:
        InvalidInputError: the text holds both kinds of quotes.
    """
    for quote in ("'", '"'):
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise InvalidInputError(f"The name {text!r} holds both kinds of quotes; give the run's id.")
