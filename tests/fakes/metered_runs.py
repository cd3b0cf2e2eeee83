"""Writes to a real store what a metered run leaves there, from figures given by hand."""

import sqlite3
import statistics
from collections.abc import Sequence
from contextlib import closing

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.contract import keys
from mlflow_carbon.units import watts_from_kwh

TIMESTAMP_MS = 1_700_000_000_000  # when every run ends, 2023-11-14T22:13:20Z
WINDOW_S = 60.0  # windows follow each other without a gap, up to the end


def experiment_id(client: MlflowClient, name: str) -> str:
    """Returns the id of an experiment, made if need be."""
    experiment = client.get_experiment_by_name(name)
    return client.create_experiment(name) if experiment is None else experiment.experiment_id


def write_run(
    client: MlflowClient,
    experiment: str,
    *,
    windows: Sequence[tuple[float, float]],
    gap_kwh: float = 0.0,
    unit: str = "sample",
    name: str = "run",
    params: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    region: str = "EU27",
    intensity_g_per_kwh: float = 250.0,
    pue: float = 1.5,
    method: str = keys.METHOD_COUNTER,
    status: str = "FINISHED",
    parent_run_id: str | None = None,
) -> str:
    """Returns the id of a metered run with these windows of (energy in kWh, number of units).

    Windows last ``WINDOW_S`` each; the last one ends at ``TIMESTAMP_MS``. ``gap_kwh`` is energy
    between the windows. No windows: a run that could not be measured.
    """
    run = client.create_run(experiment_id(client, experiment), run_name=name)
    all_tags = {
        keys.TAG_SCHEMA: "1",
        keys.TAG_SCOPE: keys.SCOPE_RUN,
        keys.TAG_REGION: region,
        keys.TAG_PERIOD: "2022",
        keys.TAG_INTENSITY_SET: "paper_table1",
        keys.TAG_INTENSITY_BASIS: "production; direct",
        keys.TAG_ATTRIBUTION: "whole_node",
        keys.method_tag("cpu"): method,
        **({} if parent_run_id is None else {MLFLOW_PARENT_RUN_ID: parent_run_id}),
        **(_window_tags(windows, unit) if windows else {}),
        **(tags or {}),
    }
    metrics = _metrics(windows, gap_kwh, unit, pue, intensity_g_per_kwh) if windows else []
    client.log_batch(
        run.info.run_id,
        metrics=metrics,
        params=[Param(key, value) for key, value in (params or {}).items()],
        tags=[RunTag(key, value) for key, value in all_tags.items()],
    )
    if status != "RUNNING":
        client.set_terminated(run.info.run_id, status=status)
    return run.info.run_id


def copy_run(client: MlflowClient, run_id: str, *, num_copies: int) -> None:
    """Copies a run in the database itself: a thousand runs take seconds, not minutes."""
    with closing(sqlite3.connect(client.tracking_uri.removeprefix("sqlite:///"))) as database:
        for table in ("runs", "tags", "params", "latest_metrics"):
            rows = database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,))
            names = [column[0] for column in rows.description]
            marks = ", ".join(f":{name}" for name in names)
            copies = [
                dict(zip(names, row, strict=True)) | {"run_uuid": f"{number:032x}"}
                for row in rows.fetchall()
                for number in range(num_copies)
            ]
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", copies)
        database.commit()


def _window_tags(windows: Sequence[tuple[float, float]], unit: str) -> dict[str, str]:
    return {
        keys.TAG_UNIT: unit,
        keys.TAG_NUM_UNITS: f"{sum(units for _, units in windows):g}",
        keys.TAG_NUM_WINDOWS: str(len(windows)),
        keys.TAG_NUM_DISTINCT_READINGS: str(len({kwh for kwh, _ in windows})),
    }


def _metrics(
    windows: Sequence[tuple[float, float]],
    gap_kwh: float,
    unit: str,
    pue: float,
    intensity_g_per_kwh: float,
) -> list[Metric]:
    window_kwh = sum(kwh for kwh, _ in windows)
    energy_kwh = window_kwh + gap_kwh
    run_value_kwh = window_kwh / sum(units for _, units in windows)
    per_unit = [kwh / units for kwh, units in windows]
    per_unit_key = keys.energy_kwh_per_unit(unit)
    totals = {
        keys.ENERGY_KWH: energy_kwh,
        keys.CO2E_G: energy_kwh * pue * intensity_g_per_kwh,
        keys.CO2E_KG: energy_kwh * pue * intensity_g_per_kwh / 1000,
        keys.DURATION_S: WINDOW_S * len(windows),
        keys.COVERAGE_FRACTION: 1.0,
        keys.PUE: pue,
        keys.INTENSITY_G_PER_KWH: intensity_g_per_kwh,
        per_unit_key: run_value_kwh,
    }
    if len(windows) > 1:
        totals[keys.std_of(per_unit_key)] = statistics.stdev(per_unit)
    metrics = [Metric(key, value, TIMESTAMP_MS, 0) for key, value in totals.items()]
    for step, (kwh, units) in enumerate(windows, start=1):
        end_ms = TIMESTAMP_MS - round(1000 * WINDOW_S * (len(windows) - step))
        series = {
            keys.WINDOW_ENERGY_KWH: kwh,
            keys.WINDOW_NUM_UNITS: units,
            keys.WINDOW_DURATION_S: WINDOW_S,
            keys.WINDOW_POWER_W: watts_from_kwh(kwh, WINDOW_S),
        }
        metrics += [Metric(key, value, end_ms, step) for key, value in series.items()]
    return metrics
