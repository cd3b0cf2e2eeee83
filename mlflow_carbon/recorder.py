"""A meter's windows, written to one MLflow run while it goes on and summed up at its end."""

import logging
import math
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon import schema
from mlflow_carbon.assumptions import Assumptions, Defaults, resolve_assumptions
from mlflow_carbon.emissions import co2e_g, facility_energy_kwh, mean_std
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.meter import Meter, MeterDescription, MeterSettings, Reading, Window
from mlflow_carbon.units import SECONDS_PER_MINUTE, kg_from_grams, watts_from_kwh

# A child of MLflow's logger: same handler (stderr), same MLFLOW_LOGGING_LEVEL.
_logger = logging.getLogger("mlflow.carbon")

MAX_TAG_LENGTH = 5000  # MLflow refuses longer values

T = TypeVar("T")


@dataclass(frozen=True)
class WindowRecord:
    """One marked stretch of work: what it cost and how many units it did."""

    reading: Reading
    num_units: float


class Recorder:
    """Meters one run: windows while it goes on, totals when it ends.

    Nothing it does can stop the run: what fails is logged once, and what could not be measured
    is absent from the run and named in a tag.
    """

    def __init__(
        self,
        run_id: str,
        *,
        unit: str,
        assumptions: Assumptions,
        client: MlflowClient,
        meter: Meter,
    ) -> None:
        self.run_id = run_id
        self._unit = unit
        self._assumptions = assumptions
        self._client = client
        self._meter = meter
        self._total: Window | None = None
        self._windows: list[WindowRecord] = []
        self._warned = False
        self._process_id = os.getpid()

    @property
    def windows(self) -> tuple[WindowRecord, ...]:
        """The windows closed so far, in order."""
        return tuple(self._windows)

    def start(self) -> None:
        """Opens the run's own interval and tags the run with what is assumed about it."""
        tags = {schema.TAG_SCHEMA: schema.SCHEMA_VERSION, schema.TAG_SCOPE: schema.SCOPE_RUN}
        self._write([], tags | self._assumptions.tags())
        self._tag_parent()
        self._total = self._meter.open_window()

    def open(self) -> Window:
        """Opens a window; any number may be open at once, in any thread."""
        return self._meter.open_window()

    def close(self, window: Window, num_units: float) -> None:
        """Closes a window and writes it as the next point of the run's window series.

        A window that did nothing (``num_units`` 0) or that nothing could measure is left out.
        """
        reading = self._meter.close_window(window)
        if reading.energy_kwh is None or num_units == 0 or self._is_forked():
            return
        self._windows.append(WindowRecord(reading, num_units))
        values = window_metrics(reading, num_units)
        self._write(_metrics(values, reading, step=len(self._windows)), {})

    def finish(self) -> None:
        """Closes the run's interval and writes its totals; call it before the run ends."""
        if self._total is None or self._is_forked():
            return
        total = self._meter.close_window(self._total)
        windows, unit = self._windows, self._unit
        if not windows and total.energy_kwh is not None:
            windows, unit = [WindowRecord(total, total.duration_s / SECONDS_PER_MINUTE)], "minute"
        values = total_metrics(total, self._assumptions)
        values |= per_unit_metrics(windows, unit, self._assumptions)
        tags = description_tags(self._meter.description) | window_tags(windows, unit)
        self._write(_metrics(values, total, step=0), tags)

    def _is_forked(self) -> bool:
        """Returns whether this is a child process, which must not repeat its parent's figures."""
        return os.getpid() != self._process_id

    def _tag_parent(self) -> None:
        """Marks a metered parent run: its energy contains this run's."""
        try:
            parent_run_id = self._client.get_run(self.run_id).data.tags.get(MLFLOW_PARENT_RUN_ID)
            if parent_run_id is None:
                return
            if schema.TAG_SCHEMA in self._client.get_run(parent_run_id).data.tags:
                self._client.set_tag(parent_run_id, schema.TAG_SCOPE, schema.SCOPE_PARENT)
        except Exception as error:  # the store is the user's: whatever it raises, the run goes on
            self._warn(error)

    def _write(self, metrics: list[Metric], tags: dict[str, str]) -> None:
        run_tags = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in tags.items()]
        try:
            self._client.log_batch(self.run_id, metrics=metrics, tags=run_tags)
        except Exception as error:  # the store is the user's: whatever it raises, the run goes on
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning("Energy of run %s could not be written: %s", self.run_id, error)


class Tracker:
    """What ``track()`` hands to its block: marks windows of the run that is being measured."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def run_id(self) -> str:
        """The MLflow run that is being measured."""
        return self._recorder.run_id

    @contextmanager
    def window(self, num_units: float = 1) -> Iterator[None]:
        """Measures the block as one window that did ``num_units`` units of work.

        Raises:
            InvalidInputError: ``num_units`` is not a number above zero.
        """
        if not (math.isfinite(num_units) and num_units > 0):
            raise InvalidInputError(f"num_units is {num_units}; give a number above zero.")
        window = self._recorder.open()
        try:
            yield
        finally:
            self._recorder.close(window, num_units)

    def windows(self, items: Iterable[T], *, units_per_window: int = 1) -> Iterator[T]:
        """Yields the items and measures every ``units_per_window`` of them as one window.

        A window holds the making of its items and what the caller's loop does with them.

        Raises:
            InvalidInputError: ``units_per_window`` is below 1.
        """
        if units_per_window < 1:
            raise InvalidInputError(f"units_per_window is {units_per_window}; give 1 or more.")
        return self._windowed(iter(items), units_per_window)

    def _windowed(self, items: Iterator[T], units_per_window: int) -> Iterator[T]:
        is_exhausted = False
        while not is_exhausted:
            window = self._recorder.open()
            num_units = 0
            try:
                for item in islice(items, units_per_window):
                    num_units += 1
                    yield item
            finally:
                self._recorder.close(window, num_units)
            is_exhausted = num_units < units_per_window


class _ProcessMeter:
    """The one meter of this process: the first run starts it, the last one to end stops it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meter: Meter | None = None
        self._num_users = 0

    @contextmanager
    def shared(self, settings: MeterSettings) -> Iterator[Meter]:
        """Gives the running meter, or starts one with these settings."""
        with self._lock:
            if self._meter is None:
                self._meter = Meter(settings)
                self._meter.start()
            self._num_users += 1
            meter = self._meter
        try:
            yield meter
        finally:
            with self._lock:
                self._num_users -= 1
                if self._num_users == 0:
                    self._meter = None
                    meter.stop()


_process_meter = _ProcessMeter()


@contextmanager
def track(
    *,
    unit: str = "iteration",
    region: str | None = None,
    month: str | None = None,
    pue: float | None = None,
    intensity_set: str | None = None,
    defaults: Defaults = Defaults(),  # noqa: B008  # frozen
    settings: MeterSettings = MeterSettings(),  # noqa: B008  # frozen
    run_id: str | None = None,
    meter: Meter | None = None,
) -> Iterator[Tracker]:
    """Measures the block's energy and writes it, with its CO2e, to an MLflow run.

    Args:
        unit: what one unit of a window is: ``iteration``, ``epoch``, ``sample``, ``minute``.
            A block that marks no window is reported per minute.
        region: where the electricity comes from; ``None`` takes the default's.
        month: ``2022-02``; ``None`` takes the year's mean.
        pue: facility energy over IT energy; ``None`` takes the default's.
        intensity_set: the only set of intensities to look in.
        defaults: what is assumed for what is left open; each use is tagged.
        settings: what is measured, and how a shared node is attributed.
        run_id: the run to write to; ``None`` takes the active one, or starts one for the block.
        meter: a started meter to use instead of the process's own.

    Raises:
        MlflowCarbonError: a setting is none; raised before the block starts, never later.
    """
    if unit not in schema.UNITS:
        raise InvalidInputError(f"unit is {unit!r}; use one of {', '.join(schema.UNITS)}.")
    assumptions = resolve_assumptions(
        region=region, month=month, pue=pue, intensity_set=intensity_set, defaults=defaults
    )
    if assumptions.defaulted:
        _logger.info(assumptions.sentence())
    metering = _process_meter.shared(settings) if meter is None else nullcontext(meter)
    with _run(run_id) as tracked_run_id, metering as running_meter:
        recorder = Recorder(
            tracked_run_id,
            unit=unit,
            assumptions=assumptions,
            client=MlflowClient(),
            meter=running_meter,
        )
        recorder.start()
        try:
            yield Tracker(recorder)
        finally:
            recorder.finish()


def _run(run_id: str | None) -> AbstractContextManager[str]:
    """Returns a context that gives the run to write to, started for the block if need be."""
    active_run = mlflow.active_run()
    if run_id is not None:
        return nullcontext(run_id)
    if active_run is not None:
        return nullcontext(active_run.info.run_id)
    return _new_run()


@contextmanager
def _new_run() -> Iterator[str]:
    with mlflow.start_run() as run:
        yield run.info.run_id


def window_metrics(reading: Reading, num_units: float) -> dict[str, float]:
    """Returns one point of each window series; ``reading`` must hold energy."""
    assert reading.energy_kwh is not None
    values = {
        schema.WINDOW_ENERGY_KWH: reading.energy_kwh,
        schema.WINDOW_DURATION_S: reading.duration_s,
        schema.WINDOW_NUM_UNITS: num_units,
    }
    if reading.duration_s > 0:
        values[schema.WINDOW_POWER_W] = watts_from_kwh(reading.energy_kwh, reading.duration_s)
    for component, energy_kwh in reading.energy_kwh_by_component().items():
        values[schema.window_component_energy_kwh(component)] = energy_kwh
    return values


def total_metrics(total: Reading, assumptions: Assumptions) -> dict[str, float]:
    """Returns the run's totals: energy by component and device, CO2e, and what was assumed."""
    values = {schema.DURATION_S: total.duration_s}
    if total.energy_kwh is None:
        return values
    mass_g = co2e_g(
        total.energy_kwh,
        pue=assumptions.pue,
        intensity_g_per_kwh=assumptions.intensity.g_per_kwh,
    )
    values |= {
        schema.ENERGY_KWH: total.energy_kwh,
        schema.FACILITY_ENERGY_KWH: facility_energy_kwh(total.energy_kwh, assumptions.pue),
        schema.CO2E_G: mass_g,
        schema.CO2E_KG: kg_from_grams(mass_g),
        schema.INTENSITY_G_PER_KWH: assumptions.intensity.g_per_kwh,
        schema.PUE: assumptions.pue,
    }
    if total.coverage_fraction is not None:
        values[schema.COVERAGE_FRACTION] = total.coverage_fraction
    by_place: dict[tuple[str, int | None], float] = {
        (device.component, device.index): device.energy_kwh for device in total.devices
    }
    by_place |= {(name, None): kwh for name, kwh in total.energy_kwh_by_component().items()}
    for (component, index), energy_kwh in by_place.items():
        values[schema.component_energy_kwh(component, index)] = energy_kwh
    if total.duration_s > 0:
        values[schema.POWER_W] = watts_from_kwh(total.energy_kwh, total.duration_s)
        for (component, index), energy_kwh in by_place.items():
            power_w = watts_from_kwh(energy_kwh, total.duration_s)
            values[schema.component_power_w(component, index)] = power_w
    return values


def per_unit_metrics(
    windows: list[WindowRecord], unit: str, assumptions: Assumptions
) -> dict[str, float]:
    """Returns the run value and ``std_within`` of energy in kWh and CO2e in g per unit."""
    measured = [
        (record.reading.energy_kwh, record.num_units)
        for record in windows
        if record.reading.energy_kwh is not None and record.num_units > 0
    ]
    if not measured:
        return {}
    run_value_kwh = sum(kwh for kwh, _ in measured) / sum(units for _, units in measured)
    std_kwh = mean_std([kwh / units for kwh, units in measured]).std
    g_per_kwh = assumptions.pue * assumptions.intensity.g_per_kwh
    values = {
        schema.energy_kwh_per_unit(unit): run_value_kwh,
        schema.co2e_g_per_unit(unit): run_value_kwh * g_per_kwh,
    }
    if std_kwh is not None:
        values[schema.std_of(schema.energy_kwh_per_unit(unit))] = std_kwh
        values[schema.std_of(schema.co2e_g_per_unit(unit))] = std_kwh * g_per_kwh
    return values


def window_tags(windows: list[WindowRecord], unit: str) -> dict[str, str]:
    """Returns the tags that say how many windows and units the per-unit figures rest on."""
    if not windows:
        return {}
    return {
        schema.TAG_UNIT: unit,
        schema.TAG_NUM_UNITS: f"{sum(record.num_units for record in windows):g}",
        schema.TAG_NUM_WINDOWS: str(len(windows)),
    }


def description_tags(description: MeterDescription) -> dict[str, str]:
    """Returns the tags that say what measured, how, on what, and what could not be measured."""
    tags = {
        schema.TAG_COMPONENTS: ",".join(description.components),
        schema.TAG_ATTRIBUTION: description.attribution,
        schema.TAG_HARDWARE: description.hardware,
        schema.TAG_TRACKER: description.tracker,
    }
    for component, method in description.method_by_component.items():
        tags[schema.method_tag(component)] = method
    if description.cpu_tdp_source is not None:
        tags[schema.TAG_CPU_TDP_SOURCE] = description.cpu_tdp_source
    if description.problems:
        tags[schema.TAG_ERROR] = " ".join(description.problems)
    return tags


def _metrics(values: dict[str, float], reading: Reading, *, step: int) -> list[Metric]:
    """Returns MLflow metrics stamped with the end of the interval they describe."""
    timestamp_ms = round((reading.start_unix_s + reading.duration_s) * 1000)
    return [Metric(key, value, timestamp_ms, step) for key, value in values.items()]
