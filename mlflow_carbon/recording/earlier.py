"""Reads the figures of a resumed run's earlier parts, so that their energy is not lost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.unit_series import UnitSeries, UnitSums
from mlflow_carbon.contract.windows import WindowColumns, WindowSeries, without_overlap
from mlflow_carbon.store.run_records import read_record, read_sums_of_unit
from mlflow_carbon.units import MILLISECONDS_PER_SECOND


@dataclass(frozen=True)
class EarlierPart:
    """One or more earlier parts of a run, added up.

    Attributes:
        total: sum of all earlier parts.
        series: their windows of the run's own unit.
        other_units: sums of their windows of other units.
        scope: as the run is tagged.
        newest_ms: the newest time stamp that they have written.
        is_partial: whether the run's total is tagged as a lower bound.
        last_step: of their points.
    """

    total: Total
    series: WindowSeries = field(default_factory=WindowSeries)
    other_units: Mapping[str, UnitSums] = field(default_factory=dict)
    scope: str = keys.SCOPE_RUN
    newest_ms: int = 0
    is_partial: bool = False
    last_step: int = 0

    def unit_series(self) -> UnitSeries:
        """Returns the series that the present part continues."""
        is_replaceable = self.series.unit in (None, keys.UNIT_MINUTE)
        return UnitSeries(self.series, dict(self.other_units), is_replaceable)


def read_earlier_part(
    client: MlflowClient, run: Run, *, node_index: int | None = None
) -> EarlierPart | None:
    """Returns the earlier parts of a run; ``None`` if the run was not metered before.

    A killed part left windows without totals, or with totals of the time before it; the windows
    after those totals count too.

    Args:
        client: of the run's store.
        run: the run.
        node_index: the node to read in a run on several nodes; the first node has the windows.

    Raises:
        Exception: whatever the store raises.
    """
    if keys.TAG_SCHEMA not in run.data.tags:
        return None
    record = RunRecord.read(run) if node_index else read_record(client, run)
    total, total_end_ms = record.total or record.so_far, record.total_end_ms or 0
    has_all = keys.TAG_TOTAL in run.data.tags  # version 2 has its total up to its newest window
    if node_index is not None:
        part = record.parts.get(node_index)
        total, total_end_ms = (None, 0) if part is None else (part.total, part.end_ms)
        has_all = False
    if total is None and not record.windows:
        return None
    since_s = total_end_ms / MILLISECONDS_PER_SECOND
    later = [
        after
        for window in record.windows.values()
        if not has_all and (after := window.after(since_s))
    ]
    of_later = Total.of_windows(without_overlap(later))
    newest = [window for window in record.windows.values() if window.unit is not None]
    ends_ms = [round(w.end_unix_s * MILLISECONDS_PER_SECOND) for w in record.windows.values()]
    return EarlierPart(
        total=of_later if total is None else total.plus(of_later),
        series=WindowSeries(record.unit, WindowColumns(newest), record.last_step),
        other_units={} if node_index else _other_units(client, run),
        scope=record.scope or keys.SCOPE_RUN,
        newest_ms=max([total_end_ms, *ends_ms]),
        is_partial=record.is_partial,
        last_step=record.last_step,
    )


def _other_units(client: MlflowClient, run: Run) -> dict[str, UnitSums]:
    """Returns the sums of units that are not the run's own."""
    found = {unit: read_sums_of_unit(client, run, unit) for unit in keys.UNITS}
    return {unit: sums for unit, sums in found.items() if sums is not None}


def read_earlier_total(client: MlflowClient, run: Run) -> EarlierPart | None:
    """Returns the earlier totals without windows, which may be another part's.

    ``None`` if the run has no totals.

    Raises:
        Exception: whatever the store raises.
    """
    wanted = [key for key in (keys.DURATION_S, keys.ENERGY_KWH) if key in run.data.metrics]
    histories = {key: client.get_metric_history(run.info.run_id, key) for key in wanted}
    record = RunRecord.read(run, histories)
    total = record.total or record.so_far
    if total is None:
        return None
    steps = [point.step for point in histories.get(keys.ENERGY_KWH, ())]
    return EarlierPart(
        total,
        newest_ms=record.total_end_ms or 0,
        is_partial=record.is_partial,
        last_step=max(steps, default=0),
    )
