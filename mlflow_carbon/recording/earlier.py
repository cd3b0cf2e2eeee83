"""What an earlier part of a resumed run has written, so that its energy is not lost."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon import schema
from mlflow_carbon.metering.readings import DeviceEnergy, Reading
from mlflow_carbon.recording.figures import WindowRecord


@dataclass
class WindowSeries:
    """The points of the window metrics so far.

    Attributes:
        unit: what its windows count; ``None`` before the first.
        windows: those that count ``unit``; points before them counted something else.
        num_points: the last step that is taken.
    """

    unit: str | None = None
    windows: list[WindowRecord] = field(default_factory=list)
    num_points: int = 0

    def add(self, record: WindowRecord, unit: str) -> dict[str, str]:
        """Takes one more point; another unit than before makes a new start.

        Returns:
            The tags that say so.
        """
        self.num_points += 1
        if unit == self.unit:
            self.windows.append(record)
            return {}
        self.unit, self.windows = unit, [record]
        is_first = self.num_points == 1
        first_step = {} if is_first else {schema.TAG_FIRST_WINDOW_STEP: str(self.num_points)}
        return {schema.TAG_UNIT: unit, **first_step}


@dataclass(frozen=True)
class EarlierPart:
    """One or more earlier parts of a run, added up."""

    total: Reading
    series: WindowSeries
    scope: str


def read_earlier_part(client: MlflowClient, run: Run) -> EarlierPart | None:
    """Returns what is on a run that was metered before; ``None`` if it was not.

    A part that was killed left windows and no totals; they count as its total.
    """
    metrics, tags = run.data.metrics, run.data.tags
    if schema.TAG_SCHEMA not in tags:
        return None
    if not any(key.startswith("carbon/") for key in metrics):
        return None
    series = _read_series(client, run)
    if schema.DURATION_S in metrics:
        total = Reading(
            start_unix_s=run.info.start_time / 1000,
            duration_s=metrics[schema.DURATION_S],
            devices=tuple(_devices(metrics, tags)),
            coverage_fraction=metrics.get(schema.COVERAGE_FRACTION),
        )
    else:
        total = added([record.reading for record in series.windows])
    return EarlierPart(total, series, tags.get(schema.TAG_SCOPE, schema.SCOPE_RUN))


def added(readings: Iterable[Reading]) -> Reading:
    """Returns intervals that follow each other as one, from the start of the first.

    Raises:
        ValueError: there is none.
    """
    first, *others = readings
    total = first
    for other in others:
        total = _sum(total, other)
    return total


def _sum(first: Reading, second: Reading) -> Reading:
    by_device = {(device.component, device.index): device for device in first.devices}
    for device in second.devices:
        place = (device.component, device.index)
        before_kwh = by_device[place].energy_kwh if place in by_device else 0.0
        by_device[place] = DeviceEnergy(*place, before_kwh + device.energy_kwh, device.method)
    duration_s = first.duration_s + second.duration_s
    coverages = [
        (reading.coverage_fraction, reading.duration_s)
        for reading in (first, second)
        if reading.coverage_fraction is not None
    ]
    observed_s = sum(fraction * seconds for fraction, seconds in coverages)
    return Reading(
        start_unix_s=first.start_unix_s,
        duration_s=duration_s,
        devices=tuple(by_device.values()),
        coverage_fraction=observed_s / duration_s if coverages and duration_s > 0 else None,
        num_readings=first.num_readings + second.num_readings,
    )


def _devices(metrics: dict[str, float], tags: dict[str, str]) -> Iterable[DeviceEnergy]:
    """Yields the energy of each device; keys of the contract: carbon/gpu/0/energy_kwh."""
    for key, energy_kwh in metrics.items():
        match key.split("/"):
            case ["carbon", component, index, "energy_kwh"] if (
                index.isdigit() and component != "node"
            ):
                method = tags.get(schema.method_tag(component), schema.METHOD_UNAVAILABLE)
                yield DeviceEnergy(component, int(index), energy_kwh, method)


def _read_series(client: MlflowClient, run: Run) -> WindowSeries:
    """Returns the window series; a window's devices are known per component only."""
    energies_kwh = {
        name: _by_step(client, run, schema.window_component_energy_kwh(name))
        for name in map(_window_component, run.data.metrics)
        if name is not None
    }
    durations_s = _by_step(client, run, schema.WINDOW_DURATION_S)
    nums_units = _by_step(client, run, schema.WINDOW_NUM_UNITS)
    first_step = int(run.data.tags.get(schema.TAG_FIRST_WINDOW_STEP, "1"))
    windows = [
        WindowRecord(
            Reading(
                start_unix_s=run.info.start_time / 1000,
                duration_s=durations_s[step],
                devices=tuple(
                    DeviceEnergy(name, 0, by_step[step], schema.METHOD_UNAVAILABLE)
                    for name, by_step in energies_kwh.items()
                    if step in by_step
                ),
            ),
            num_units,
        )
        for step, num_units in sorted(nums_units.items())
        if step >= first_step and step in durations_s
    ]
    return WindowSeries(run.data.tags.get(schema.TAG_UNIT), windows, max(nums_units, default=0))


def _window_component(key: str) -> str | None:
    match key.split("/"):
        case ["carbon", "window", component, "energy_kwh"]:
            return component
    return None


def _by_step(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    if key not in run.data.metrics:
        return {}
    points = client.get_metric_history(run.info.run_id, key)
    return {point.step: point.value for point in points}
