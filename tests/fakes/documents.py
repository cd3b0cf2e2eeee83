"""The fenced blocks of our documents that a reader is meant to run, and what a reader has."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import mlflow
from mlflow import MlflowClient

import mlflow_carbon
from mlflow_carbon.registry.run_models import record_run_models
from mlflow_carbon.testing.meter import FakeMeter, reading

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
RUNNABLE = ("sh", "python")

_FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]*?) -->\n)?"
    r"```(?P<language>\w+)(?: title=\"(?P<file>[\w.]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: ``sh`` or ``python``.
        text: what is between the fences.
        line: of the page, where it begins.
        file: the name under which a reader saves it, if its title gives one.
        reason: why it is not run, if a comment above it says ``<!-- not run: why -->``.
    """

    language: str
    text: str
    line: int
    file: str | None
    reason: str | None


def blocks_of(markdown: str) -> list[Block]:
    """Returns the blocks of a document that a reader would run, in order."""
    return [
        Block(
            match["language"],
            match["text"],
            markdown.count("\n", 0, match.start("language")) + 1,
            match["file"],
            match["reason"],
        )
        for match in _FENCE.finditer(markdown)
        if match["language"] in RUNNABLE
    ]


def write_what_a_reader_has(folder: Path) -> None:
    """Fills the current store as the pages take it to be, and a folder with their files.

    The experiments ``ct``, ``sizes`` and ``Default`` hold samplings of several step counts and
    image sizes, and the model ``ldm`` has a champion and a candidate.
    """
    client = MlflowClient()
    client.create_registered_model("ldm")
    for version, alias in (("1", "champion"), ("2", "candidate")):
        run_id = _write_run("ct", f"training {version}", "iteration", [3.6e5, 3.7e5, 3.6e5], {})
        client.create_model_version("ldm", f"s3://bucket/{version}", run_id)
        client.set_registered_model_alias("ldm", alias, version)
        record_run_models(client, run_id)
    for steps in (50, 200, 1000):
        for experiment in ("ct", "Default"):
            for again in ("", "-again"):
                _write_sampling(experiment, f"{experiment}-{steps}{again}", steps=steps, size=64)
    for size in (64, 128, 256):
        _write_sampling("sizes", f"size {size}", steps=50, size=size)
    _write_hours(folder / "hourly.csv")


def _write_sampling(experiment: str, name: str, *, steps: int, size: int) -> None:
    joules = (50 + steps) * (size / 64) ** 2
    params = {"steps": steps, "dims": 2, "size": size, "model_size": "tiny"}
    windows = [joules * factor for factor in (1.0, 1.04, 0.97, 1.01, 0.99, 1.02)]
    _write_run(experiment, name, "sample", windows, params, {"ldm/kid": 1 / steps})


def _write_run(
    experiment: str,
    name: str,
    unit: str,
    joules: list[float],
    params: dict[str, object],
    metrics: dict[str, float] | None = None,
) -> str:
    """Returns the id of a run that a fake meter measured, with a window for each of the joules."""
    mlflow.set_experiment(experiment)
    readings = [reading(cpu_joules=it, duration_s=30) for it in joules]
    readings.append(reading(cpu_joules=sum(joules), duration_s=30 * len(joules)))
    with mlflow.start_run(run_name=name) as run:
        mlflow.log_params(params)
        mlflow.log_metrics(metrics or {})
        meter = FakeMeter(readings)
        with mlflow_carbon.track(unit=unit, region="EU27", meter=meter, silent=True) as tracker:
            for _ in joules:
                with tracker.window(10):
                    pass
    return run.info.run_id


def _write_hours(path: Path) -> None:
    """Writes intensities by the hour, from yesterday until the day after tomorrow."""
    now = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
    hours = [now + timedelta(hours=hour) for hour in range(-24, 72)]
    rows = [f"{hour:%Y-%m-%dT%H:%MZ},{200 + 10 * (hour.hour % 12)}" for hour in hours]
    path.write_text("\n".join(["timestamp,g_per_kwh", *rows]) + "\n")
