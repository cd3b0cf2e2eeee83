"""Measures the commands that read a registry or a run, beside many runs and models.

Run it as ``python -m benchmarks.command_scale --keep benchmarks/measured/compare_scale.json``; the
page is that of ``benchmarks.compare_scale``. Each command runs as a user starts it, in a process of
its own; what it costs on a store of ten runs is its imports.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import mlflow
import sqlalchemy
from mlflow import MlflowClient

import mlflow_carbon
from benchmarks.compare_scale_page import TAG_AGAIN, TAG_ALL
from benchmarks.scale_store import EXPERIMENT, fill
from mlflow_carbon.contract import keys
from mlflow_carbon.testing.meter import FakeMeter, reading

MODEL = "models:/model-0/1"
COMMANDS = {
    "models": ("models", "--format", "csv"),
    "gate": ("gate", MODEL, "--max-co2e-kg", "1"),
    "card": ("card", MODEL),
    "predict latest": ("predict", "latest", "--units", "100"),
    "advise latest": ("advise", "latest"),
    "total": ("total", "--experiment", EXPERIMENT),
    "report": ("report", "--experiment", EXPERIMENT, "--out", os.devnull),
    TAG_ALL: ("tag-models", "--all"),
    TAG_AGAIN: ("tag-models", "--all"),
}
_FEW = 10
# Starts a command and prints its cost: a process keeps the peak memory of the one that started it.
_THIN = (
    "import os, sys, time; start = time.perf_counter(); "
    "pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ); "
    "_, status, usage = os.wait4(pid, 0); wall = time.perf_counter() - start; "
    "print(usage.ru_utime + usage.ru_stime, wall, usage.ru_maxrss / 1024, file=sys.stderr); "
    "sys.exit(os.waitstatus_to_exitcode(status))"
)
_MODELS_PER_INSERT = 500
_TAGS = keys.emission_tags(1e-3, 4e-3, "EU27") | {
    keys.TAG_MODEL_PUE: "1",
    keys.TAG_PERIOD: "2022",
    keys.TAG_INTENSITY_SET: "paper_table1",
    keys.method_tag("gpu"): keys.METHOD_COUNTER,
}
_ROOT = Path(__file__).parent.parent


def fill_registry(uri: str, num_models: int) -> None:
    """Registers models of one version each, with their tags, trained by the first runs of a store.

    Args:
        uri: of a store with so many runs or more.
        num_models: called ``model-0``, ``model-1`` and so on.
    """
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models(max_results=1)
    engine = sqlalchemy.create_engine(uri)
    names = ("registered_models", "model_versions", "model_version_tags")
    tables = sqlalchemy.MetaData()
    tables.reflect(engine, only=("runs", *names))
    runs, models = tables.tables["runs"], tables.tables["registered_models"]
    with engine.begin() as connection:
        asked = sqlalchemy.select(runs.c.run_uuid).order_by(runs.c.start_time).limit(num_models)
        run_ids = list(connection.execute(asked).scalars())
        for start in range(0, num_models, _MODELS_PER_INSERT):
            numbers = range(start, min(start + _MODELS_PER_INSERT, num_models))
            made = {"creation_time": 0, "last_updated_time": 0}
            connection.execute(
                models.insert(), [{"name": f"model-{number}", **made} for number in numbers]
            )
            versions = [
                {
                    "name": f"model-{number}",
                    "version": 1,
                    "run_id": run_ids[number],
                    "source": f"s3://bucket/{run_ids[number]}/model",
                    "current_stage": "None",
                    "status": "READY",
                    **made,
                }
                for number in numbers
            ]
            connection.execute(tables.tables["model_versions"].insert(), versions)
            tags = [
                {"name": version["name"], "version": 1, "key": key, "value": value}
                for version in versions
                for key, value in _TAGS.items()
            ]
            connection.execute(tables.tables["model_version_tags"].insert(), tags)
    engine.dispose()


def add_newest_run(uri: str) -> None:
    """Meters one more run, with windows, as `predict latest` needs them."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(EXPERIMENT)
    now_s = time.time()
    windows = [
        replace(reading(cpu_joules=joules, duration_s=30.0), start_unix_s=now_s + 30 * position)
        for position, joules in enumerate((60.0, 62.0, 58.0, 61.0, 59.0))
    ]
    whole = replace(reading(cpu_joules=310.0, duration_s=160.0), start_unix_s=now_s)
    with (
        mlflow.start_run(run_name="newest"),
        mlflow_carbon.track(
            region="SE", unit="sample", meter=FakeMeter([*windows, whole]), silent=True
        ) as tracker,
    ):
        for _ in windows:
            with tracker.window(8):
                pass


def cost_of(arguments: tuple[str, ...], uri: str) -> tuple[float, float, float]:
    """Returns the CPU and wall time in s of a command, and its peak memory in MB.

    Raises:
        ClickException: the command fails.
    """
    environment = os.environ | {
        "MLFLOW_TRACKING_URI": uri,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(_ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", _THIN, "-m", "mlflow_carbon", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"{arguments} failed:\n{done.stderr[-2000:]}")
    cpu_s, wall_s, peak_mb = map(float, done.stderr.splitlines()[-1].split())
    return cpu_s, wall_s, peak_mb


def measured(num_runs: int, num_models: int, folder: Path) -> list[dict[str, Any]]:
    """Returns what each command costs on a store of so many runs and models, and on a small one.

    Args:
        num_runs: of the store, where the folder has none yet.
        num_models: of it.
        folder: of both stores.
    """
    uris = []
    for name, runs, models in (("few", _FEW, _FEW), ("many", num_runs, num_models)):
        path = folder / f"{name}.db"
        uris.append(f"sqlite:///{path}")
        if not path.exists():
            fill(uris[-1], runs, version=2)
            fill_registry(uris[-1], models)
            add_newest_run(uris[-1])
    found = []
    for command, arguments in COMMANDS.items():
        few, many = (cost_of(arguments, uri) for uri in uris)
        names = ("cpu_s", "wall_s", "peak_mb")
        one = {"command": command, **dict(zip(names, many, strict=True))}
        found.append(one | {f"few_{name}": value for name, value in zip(names, few, strict=True)})
        click.echo(found[-1], err=True)
    return found


@click.command()
@click.option("--num-runs", type=int, default=100_000, show_default=True)
@click.option("--num-models", type=int, default=2000, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Keeps the stores; else temporary.")
@click.option("--keep", type=click.Path(path_type=Path), required=True, help="JSON to add to.")
def main(num_runs: int, num_models: int, folder: Path | None, keep: Path) -> None:
    """Measures commands beside many runs and models."""
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["MLFLOW_CARBON_JOURNAL_DIR"] = f"{temporary}/journals"
        rows = measured(num_runs, num_models, folder or Path(temporary))
    record = json.loads(keep.read_text(encoding="utf-8"))
    record["commands"] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
        "load": round(os.getloadavg()[0], 1),
        "num_runs": num_runs,
        "num_models": num_models,
        "is_in_memory": str(folder).startswith("/dev/shm"),
        "measured": rows,
    }
    keep.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
