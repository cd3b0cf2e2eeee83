"""What an earlier part of a resumed run has written, so that its energy is not lost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from mlflow_carbon.contract import keys
from mlflow_carbon.metering.readings import DeviceEnergy, Reading
from mlflow_carbon.recording.figures import WindowColumns, WindowRecord
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

MIN_PART_S = 0.002  # time stamps are whole ms


@dataclass
class WindowSeries:
    """The points of the window metrics so far.

    Attributes:
        unit: what its windows count; ``None`` before the first.
        windows: those that count ``unit``; points before them counted something else.
        num_points: the last step that is taken.
    """

    unit: str | None = None
    windows: WindowColumns = field(default_factory=WindowColumns)
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
        self.unit, self.windows = unit, WindowColumns([record])
        is_first = self.num_points == 1
        first_step = {} if is_first else {keys.TAG_FIRST_WINDOW_STEP: str(self.num_points)}
        return {keys.TAG_UNIT: unit, **first_step}


@dataclass(frozen=True)
class EarlierPart:
    """One or more earlier parts of a run, added up."""

    total: Reading
    series: WindowSeries
    scope: str


def read_earlier_part(
    client: MlflowClient, run: Run, *, node_index: int | None = None
) -> EarlierPart | None:
    """Returns what is on a run that was metered before; ``None`` if it was not.

    A part that was killed left windows and no totals, or totals of the time before it; the
    windows after those count too.

    Args:
        client: of the run's store.
        run: the run.
        node_index: whose part it is where the run is on several nodes; the first has the windows.

    Raises:
        Exception: whatever the store raises.
    """
    tags = run.data.tags
    metrics = run.data.metrics if node_index is None else of_node(run.data.metrics, node_index)
    if keys.TAG_SCHEMA not in tags:
        return None
    if not any(key.startswith("carbon/") for key in (metrics if node_index else run.data.metrics)):
        return None
    windows, series = ([], WindowSeries()) if node_index else _read_series(client, run)
    total = recorded_total(run, metrics)
    parts = [] if total is None else [total]
    if total is None or windows:
        since_s = 0.0 if total is None else _end_unix_s(client, run, node_index)
        parts += [after for record in windows if (after := _after(record.reading, since_s))]
    total = added(parts) if parts else Reading(run.info.start_time / MILLISECONDS_PER_SECOND, 0.0)
    return EarlierPart(total, series, tags.get(keys.TAG_SCOPE, keys.SCOPE_RUN))


def of_node(metrics: Mapping[str, float], node_index: int) -> dict[str, float]:
    """Returns one node's totals under the names that a run on one node has."""
    prefix = keys.node_metric("", node_index)
    return {
        f"carbon/{key.removeprefix(prefix)}": value
        for key, value in metrics.items()
        if key.startswith(prefix)
    }


def recorded_total(run: Run, metrics: Mapping[str, float]) -> Reading | None:
    """Returns the totals among a run's metrics; ``None`` if none were written."""
    if keys.DURATION_S not in metrics:
        return None
    return Reading(
        start_unix_s=run.info.start_time / MILLISECONDS_PER_SECOND,
        duration_s=metrics[keys.DURATION_S],
        devices=tuple(_devices(metrics, run.data.tags)),
        coverage_fraction=metrics.get(keys.COVERAGE_FRACTION),
    )


def _end_unix_s(client: MlflowClient, run: Run, node_index: int | None) -> float:
    """Returns when the interval of the totals ended."""
    key = keys.DURATION_S
    key = key if node_index is None else keys.node_metric(key, node_index)
    points = client.get_metric_history(run.info.run_id, key)
    return max(point.timestamp for point in points) / MILLISECONDS_PER_SECOND


def _after(window: Reading, since_unix_s: float) -> Reading | None:
    """Returns the part of a window that is after a time, its energy spread evenly over it."""
    end_s = window.start_unix_s + window.duration_s
    after_s = min(end_s - since_unix_s, window.duration_s)
    if after_s <= MIN_PART_S or window.duration_s <= 0:
        return None
    fraction = after_s / window.duration_s
    return replace(
        window,
        duration_s=after_s,
        devices=tuple(
            replace(device, energy_kwh=device.energy_kwh * fraction) for device in window.devices
        ),
    )


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


def _devices(metrics: Mapping[str, float], tags: Mapping[str, str]) -> Iterable[DeviceEnergy]:
    """Yields the energy of each device; keys of the contract: carbon/gpu/0/energy_kwh."""
    for key, energy_kwh in metrics.items():
        match key.split("/"):
            case ["carbon", component, index, "energy_kwh"] if (
                index.isdigit() and component != "node"
            ):
                method = tags.get(keys.method_tag(component), keys.METHOD_UNAVAILABLE)
                yield DeviceEnergy(component, int(index), energy_kwh, method)


def _read_series(client: MlflowClient, run: Run) -> tuple[list[WindowRecord], WindowSeries]:
    """Returns the windows of the newest unit, and the series that they are the end of.

    A window's devices are known per component only.
    """
    energies_kwh = {
        name: _by_step(client, run, keys.window_component_energy_kwh(name))
        for name in map(_window_component, run.data.metrics)
        if name is not None
    }
    durations = _history(client, run, keys.WINDOW_DURATION_S)
    durations_s = {point.step: point.value for point in durations}
    ends_ms = {point.step: point.timestamp for point in durations}
    nums_units = _by_step(client, run, keys.WINDOW_NUM_UNITS)
    first_step = int(run.data.tags.get(keys.TAG_FIRST_WINDOW_STEP, "1"))
    windows = [
        WindowRecord(
            Reading(
                start_unix_s=ends_ms[step] / MILLISECONDS_PER_SECOND - durations_s[step],
                duration_s=durations_s[step],
                devices=tuple(
                    DeviceEnergy(name, 0, by_step[step], keys.METHOD_UNAVAILABLE)
                    for name, by_step in energies_kwh.items()
                    if step in by_step
                ),
            ),
            num_units,
        )
        for step, num_units in sorted(nums_units.items())
        if step >= first_step and step in durations_s
    ]
    unit, num_points = run.data.tags.get(keys.TAG_UNIT), max(nums_units, default=0)
    return windows, WindowSeries(unit, WindowColumns(windows), num_points)


def _window_component(key: str) -> str | None:
    match key.split("/"):
        case ["carbon", "window", component, "energy_kwh"]:
            return component
    return None


def _by_step(client: MlflowClient, run: Run, key: str) -> dict[int, float]:
    return {point.step: point.value for point in _history(client, run, key)}


def _history(client: MlflowClient, run: Run, key: str) -> list[Metric]:
    if key not in run.data.metrics:
        return []
    return list(client.get_metric_history(run.info.run_id, key))
