"""One metered run with its windows, found by its id, by its name or as the latest one."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunStatus
from mlflow.exceptions import MlflowException

from mlflow_carbon.accounting.emissions import validate_pue
from mlflow_carbon.accounting.uncertainty import Window
from mlflow_carbon.contract import keys
from mlflow_carbon.errors import InvalidInputError, NoRunsError
from mlflow_carbon.grid.hourly import EnergySpan
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.inert import MAX_NAME_CHARS, shown
from mlflow_carbon.store.runs import reading
from mlflow_carbon.units import SECONDS_PER_MINUTE

LATEST = "latest"
_METERED = f"tags.`{keys.TAG_SCHEMA}` LIKE '%'"
_ROUNDING_FRACTION = 1e-9  # a smaller rest of the energy is one of adding up
_NUM_NAMESAKES = 5  # as many ids as an error lists


@dataclass(frozen=True)
class MeteredRun:
    """What one run measured and assumed; ``None`` where it does not say.

    Attributes:
        run_id: MLflow's.
        name: of the run.
        unit: what the windows count.
        windows: in the order in which they closed; the whole run where none was marked.
        spans: when the energy was spent, that between the windows included.
        window_duration_s: of all windows together.
        energy_kwh: of the whole run.
        duration_s: of the whole run.
        coverage_fraction: share of the time that counters or samples observed.
        pue: as recorded.
        intensity: as recorded.
    """

    run_id: str
    name: str
    unit: str
    windows: tuple[Window, ...]
    spans: tuple[EnergySpan, ...]
    window_duration_s: float
    energy_kwh: float
    duration_s: float
    coverage_fraction: float | None
    pue: float | None
    intensity: CarbonIntensity | None

    @property
    def num_units(self) -> float:
        """Units of all windows together."""
        return sum(window.num_units for window in self.windows)

    @property
    def title(self) -> str:
        """The run as people know it."""
        return _title(self.run_id, self.name)


def find_run(client: MlflowClient, text: str, *, experiment_names: Sequence[str] = ()) -> Run:
    """Returns the run of that id, or the one metered run of that name, or the latest one.

    Args:
        client: of the store.
        text: an id, a name, or ``latest`` for the metered run that started last.
        experiment_names: where to look for names; none looks everywhere.

    Raises:
        NoRunsError: there is no such run.
        InvalidInputError: several runs have the name.
        TrackingStoreError: the store cannot be read.
    """
    try:
        return client.get_run(text)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            with reading(client.tracking_uri):
                raise
    named = "" if text == LATEST else f" AND attributes.run_name = {_quoted(text)}"
    with reading(client.tracking_uri):
        known = [
            experiment.experiment_id
            for experiment in client.search_experiments()
            if not experiment_names or experiment.name in experiment_names
        ]
        found = client.search_runs(
            known,
            f"{_METERED} AND attributes.status != 'RUNNING'{named}",
            order_by=["attributes.start_time DESC"],
            max_results=_NUM_NAMESAKES,
        )
    if not found:
        raise NoRunsError(
            f"No ended metered run has the id or name {text!r}. Give another, or {LATEST!r}; "
            "runs are metered by mlflow_carbon.track()."
        )
    if len(found) > 1 and text != LATEST:
        ids = ", ".join(run.info.run_id for run in found)
        raise InvalidInputError(
            f"Several metered runs are called {text!r}; give an id, newest first: {ids}."
        )
    return found[0]


def read_metered_run(client: MlflowClient, run: Run) -> MeteredRun:
    """Returns what a run measured, window by window.

    Raises:
        NoRunsError: the run is not metered, not ended, or measured nothing.
        TrackingStoreError: the store cannot be read.
    """
    metrics, tags, run_id = run.data.metrics, run.data.tags, run.info.run_id
    title = _title(run_id, run.info.run_name or "")
    if run.info.status == RunStatus.to_string(RunStatus.RUNNING):
        raise NoRunsError(f"The {title} has not ended; its figures are complete when it has.")
    unit, energy_kwh = tags.get(keys.TAG_UNIT), metrics.get(keys.ENERGY_KWH)
    duration_s = metrics.get(keys.DURATION_S)
    if unit is None or energy_kwh is None or duration_s is None:
        reason = tags.get(keys.TAG_ERROR, "meter it with mlflow_carbon.track().")
        raise NoRunsError(f"The {title} carries no measured energy: {reason}")
    histories = _histories(client, run)
    end_s = histories[keys.ENERGY_KWH][-1].timestamp / 1000
    whole = EnergySpan(end_s - duration_s, end_s, energy_kwh)
    windows, spans = _windows(histories), _spans(histories)
    if not windows:  # nobody marked any: the run is one, counted in minutes
        power_w = metrics.get(keys.POWER_W)
        windows = (Window(energy_kwh, duration_s / SECONDS_PER_MINUTE, power_w),)
        spans = (whole,)
    elif int(tags.get(keys.TAG_NUM_NODES, "1")) > 1:
        windows = _of_all_nodes(windows, run)
    between_kwh = energy_kwh - sum(span.energy_kwh for span in spans)
    window_duration_s = sum(span.end_s - span.start_s for span in spans)
    if between_kwh > _ROUNDING_FRACTION * energy_kwh:
        spans = (*spans, EnergySpan(whole.start_s, whole.end_s, between_kwh))
    return MeteredRun(
        run_id=run_id,
        name=run.info.run_name or "",
        unit=unit,
        windows=windows,
        spans=spans,
        window_duration_s=window_duration_s,
        energy_kwh=energy_kwh,
        duration_s=duration_s,
        coverage_fraction=metrics.get(keys.COVERAGE_FRACTION),
        pue=metrics.get(keys.PUE),
        intensity=_recorded_intensity(run),
    )


def pue_of(run: MeteredRun, pue: float | None) -> float:
    """Returns the PUE that was given, else the recorded one.

    Raises:
        InvalidInputError: it is outside what it may be, or neither is there.
    """
    used = run.pue if pue is None else pue
    if used is None:
        raise InvalidInputError(f"No PUE is recorded in {run.title}.", instead="pue")
    return validate_pue(used)


def _title(run_id: str, name: str) -> str:
    return f"run {run_id} ({shown(name, max_chars=MAX_NAME_CHARS)})"


def _of_all_nodes(windows: tuple[Window, ...], run: Run) -> tuple[Window, ...]:
    """Returns the first node's windows with the energy of all nodes, taken to vary together.

    Raises:
        NoRunsError: a node's energy is missing.
    """
    per_unit_kwh = run.data.metrics.get(keys.energy_kwh_per_unit(run.data.tags[keys.TAG_UNIT]))
    if per_unit_kwh is None:
        missing = run.data.tags.get(keys.TAG_MISSING_NODES, "?")
        raise NoRunsError(
            f"The {_title(run.info.run_id, run.info.run_name or '')} lacks energy of node "
            f"{missing}, so a unit's is not known; take a run in which all nodes ended."
        )
    own_kwh = sum(window.energy_kwh for window in windows)
    factor = per_unit_kwh * sum(window.num_units for window in windows) / own_kwh
    return tuple(
        Window(
            window.energy_kwh * factor,
            window.num_units,
            None if window.power_w is None else window.power_w * factor,
        )
        for window in windows
    )


def _histories(client: MlflowClient, run: Run) -> dict[str, list[Metric]]:
    """Returns the run's window series and its total energy; windows of its last unit only."""
    first_step = int(run.data.tags.get(keys.TAG_FIRST_WINDOW_STEP, 0))
    series = (
        keys.WINDOW_ENERGY_KWH,
        keys.WINDOW_NUM_UNITS,
        keys.WINDOW_POWER_W,
        keys.WINDOW_DURATION_S,
    )
    with reading(client.tracking_uri):
        points = {
            key: client.get_metric_history(run.info.run_id, key)
            for key in (keys.ENERGY_KWH, *series)
        }
    windows = {key: [point for point in points[key] if point.step >= first_step] for key in series}
    return points | windows


def _windows(histories: dict[str, list[Metric]]) -> tuple[Window, ...]:
    nums_units = _by_step(histories[keys.WINDOW_NUM_UNITS])
    powers_w = _by_step(histories[keys.WINDOW_POWER_W])
    return tuple(
        Window(energy_kwh, nums_units[step], powers_w.get(step))
        for step, energy_kwh in sorted(_by_step(histories[keys.WINDOW_ENERGY_KWH]).items())
        if step in nums_units
    )


def _spans(histories: dict[str, list[Metric]]) -> tuple[EnergySpan, ...]:
    durations_s = _by_step(histories[keys.WINDOW_DURATION_S])
    return tuple(
        EnergySpan(point.timestamp / 1000 - durations_s[point.step], point.timestamp / 1000, energy)
        for point in histories[keys.WINDOW_ENERGY_KWH]
        if point.step in durations_s
        for energy in (point.value,)
    )


def _by_step(points: list[Metric]) -> dict[int, float]:
    return {point.step: point.value for point in points}


def _recorded_intensity(run: Run) -> CarbonIntensity | None:
    g_per_kwh = run.data.metrics.get(keys.INTENSITY_G_PER_KWH)
    region = run.data.tags.get(keys.TAG_REGION)
    if g_per_kwh is None or region is None:
        return None
    texts = {
        name: run.data.tags.get(tag, "")
        for name, tag in (
            ("period", keys.TAG_PERIOD),
            ("intensity_set", keys.TAG_INTENSITY_SET),
            ("basis", keys.TAG_INTENSITY_BASIS),
            ("source", keys.TAG_INTENSITY_SOURCE),
        )
    }
    return CarbonIntensity(
        g_per_kwh=g_per_kwh,
        region=region,
        period=texts["period"],
        intensity_set=texts["intensity_set"],
        basis=texts["basis"],
        source=texts["source"],
        source_url="",
        licence="",
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
