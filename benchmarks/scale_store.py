"""Fills a store with many metered runs, as a year of a group's work leaves it.

MLflow's own migrated tables are filled by SQLAlchemy Core: through the client 100,000 runs would
take hours.
"""

import random
from collections.abc import Iterator
from typing import Any

import sqlalchemy
from mlflow import MlflowClient

from mlflow_carbon.contract import keys
from mlflow_carbon.contract.figures import worded

EXPERIMENT = "scale"
NUM_METRICS, NUM_PARAMS, NUM_TAGS = 12, 8, 15  # of each run
NUM_SEEDS = 2820
STEP_COUNTS = (50, 200, 500, 1000)

_START_MS = 1_700_000_000_000
_RUNS_PER_INSERT = 2000
_PUE, _G_PER_KWH = 1.55, 251.0
_NUM_SAMPLES = 8
_FIXED_KWH, _STEP_KWH = 2e-6, 1e-7  # of one sample

Row = dict[str, Any]


def fill(uri: str, num_runs: int, *, seed: int = 0, version: int = 1) -> None:
    """Makes a store with one experiment of finished metered runs.

    Args:
        uri: of a database that does not exist yet or is empty.
        num_runs: each with ``NUM_METRICS`` metrics, ``NUM_PARAMS`` parameters, ``NUM_TAGS`` tags.
        seed: of the energies, ids and parameters.
        version: of the contract; 2 has fewer metrics of ours, which the user's make up for, and
            more tags.
    """
    client = MlflowClient(tracking_uri=uri)
    experiment_id = int(client.create_experiment(EXPERIMENT))
    engine = sqlalchemy.create_engine(uri)
    names = ("runs", "latest_metrics", "params", "tags")
    tables = sqlalchemy.MetaData()
    tables.reflect(engine, only=names)
    chance = random.Random(seed)
    try:
        for start in range(0, num_runs, _RUNS_PER_INSERT):
            numbers = range(start, min(start + _RUNS_PER_INSERT, num_runs))
            rows = [_run(number, experiment_id, chance, version) for number in numbers]
            with engine.begin() as connection:
                for position, name in enumerate(names):
                    listed = [row for run in rows for row in run[position]]
                    connection.execute(tables.tables[name].insert(), listed)
        if engine.dialect.name == "postgresql":  # what autovacuum does for a store that grew slowly
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(sqlalchemy.text("ANALYZE"))
    finally:
        engine.dispose()


def _run(
    number: int, experiment_id: int, chance: random.Random, version: int
) -> tuple[list[Row], ...]:
    """Returns the rows of one run in each table."""
    run_id = f"{chance.getrandbits(128):032x}"
    num_steps = STEP_COUNTS[number % len(STEP_COUNTS)]
    start_ms = _START_MS + 60_000 * number
    run = {
        "run_uuid": run_id,
        "name": f"synth {number}",
        "source_type": "LOCAL",
        "source_name": "synth.py",
        "entry_point_name": "",
        "user_id": "lab",
        "status": "FINISHED",
        "start_time": start_ms,
        "end_time": start_ms + 50_000,
        "source_version": "",
        "lifecycle_stage": "active",
        "artifact_uri": f"s3://bucket/{run_id}",
        "experiment_id": experiment_id,
    }
    figures, named = dict(_metrics(num_steps, chance)), dict(_tags(number))
    if version == 2:
        figures, named = _as_version_2(figures, named, start_ms + 50_000)
    metrics = [
        {
            "run_uuid": run_id,
            "key": key,
            "value": value,
            "timestamp": start_ms + 50_000,
            "step": 0,
            "is_nan": False,
        }
        for key, value in figures.items()
    ]
    params = {
        "steps": num_steps,
        "seed": chance.randrange(NUM_SEEDS),
        "size": "64",
        "model_size": "tiny",
        "sampler": "unipc",
        "batch_size": 8,
        "lr": 0.0001,
        "data": "phantoms",
    }
    texts = [{"run_uuid": run_id, "key": key, "value": str(value)} for key, value in params.items()]
    tags = [{"run_uuid": run_id, "key": key, "value": value} for key, value in named.items()]
    return [run], metrics, texts, tags


def _metrics(num_steps: int, chance: random.Random) -> Iterator[tuple[str, float]]:
    per_sample_kwh = (_FIXED_KWH + num_steps * _STEP_KWH) * chance.gauss(1.0, 0.05)
    energy_kwh = per_sample_kwh * _NUM_SAMPLES * 1.02
    per_unit = keys.energy_kwh_per_unit("sample")
    yield keys.ENERGY_KWH, energy_kwh
    yield keys.FACILITY_ENERGY_KWH, energy_kwh * _PUE
    yield keys.CO2E_G, energy_kwh * _PUE * _G_PER_KWH
    yield keys.CO2E_KG, energy_kwh * _PUE * _G_PER_KWH / 1000
    yield keys.DURATION_S, 50.0
    yield keys.COVERAGE_FRACTION, 1.0
    yield keys.PUE, _PUE
    yield keys.INTENSITY_G_PER_KWH, _G_PER_KWH
    yield "carbon/gpu/energy_kwh", energy_kwh
    yield per_unit, per_sample_kwh
    yield keys.std_of(per_unit), per_sample_kwh * chance.uniform(0.01, 0.03)
    yield "loss", chance.random()


def _tags(number: int) -> Iterator[tuple[str, str]]:
    yield keys.TAG_SCHEMA, "1"
    yield keys.TAG_SCOPE, keys.SCOPE_RUN
    yield keys.TAG_REGION, "EU27"
    yield keys.TAG_PERIOD, "2022"
    yield keys.TAG_INTENSITY_SET, "paper_table1"
    yield keys.TAG_INTENSITY_BASIS, "production; direct"
    yield keys.TAG_ATTRIBUTION, "whole_node"
    yield keys.TAG_HARDWARE, "1 x NVIDIA A100"
    yield keys.TAG_TRACKER, "carbontracker 2.4.7"
    yield keys.method_tag("gpu"), keys.METHOD_SAMPLED
    yield keys.TAG_UNIT, "sample"
    yield keys.TAG_NUM_UNITS, str(_NUM_SAMPLES)
    yield keys.TAG_NUM_WINDOWS, str(2 + number % 3)
    yield keys.TAG_NUM_DISTINCT_READINGS, str(40 + number % 17)
    yield "mlflow.runName", f"synth {number}"


def _as_version_2(
    figures: dict[str, float], named: dict[str, str], end_ms: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the metrics and tags of the same run as version 2 writes them."""
    energy_kwh, per_unit = figures[keys.ENERGY_KWH], keys.energy_kwh_per_unit("sample")
    kept = (keys.ENERGY_KWH, keys.CO2E_G, "loss")
    metrics = {key: figures[key] for key in kept}
    metrics[keys.POWER_W] = 100.0
    metrics[keys.co2e_g_per_unit("sample")] = figures[per_unit] * _PUE * _G_PER_KWH
    metrics |= {f"metric_{number}": 1.0 for number in range(NUM_METRICS - len(metrics))}
    total = worded(
        {"energy_kwh": energy_kwh, "duration_s": 50.0, "coverage_fraction": 1.0, "gpu": energy_kwh}
    )
    tags = named | {
        keys.TAG_SCHEMA: "2",
        keys.TAG_PUE: str(_PUE),
        keys.TAG_INTENSITY_G_PER_KWH: str(_G_PER_KWH),
        keys.TAG_TOTAL: f"ended {end_ms} {total}",
        keys.TAG_ENERGY_KWH_PER_UNIT: worded(
            {"sample": figures[per_unit], "sample_std": figures[keys.std_of(per_unit)]}
        ),
        "mlflow.note.content": f"{energy_kwh} kWh",
    }
    return metrics, tags
