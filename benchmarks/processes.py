"""Compares one process with several at the same images and trainings: time and energy.

Run it as ``python -m benchmarks.processes``; ``--write docs/processes.md`` writes the page. Each
round does every work with one process and with several, in a new random order. Each measurement is
a command of its own, and the figures come from the command's run.
"""

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from benchmarks.processes_page import Cost, Machine, Round, page
from ldm_project.config import TrainRunConfig
from ldm_project.resolution import train_settings
from ldm_project.runs.references import ldm_name, vqgan_name
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.units import joules_from_kwh


@dataclass(frozen=True)
class Settings:
    """What is sampled and trained, by how many processes at most."""

    max_processes: int
    size: str
    model_size: str
    num_samples: int
    iterations: int
    batch_size: int


@dataclass(frozen=True)
class Work:
    """One thing to do, in as many images and iterations, by the options of a command."""

    name: str
    command: str
    options: tuple[str, ...]
    num_images: int


def works(settings: Settings, count: int) -> list[Work]:
    """Returns the works to compare, as ``count`` processes do them."""
    samples = max(1, settings.num_samples // settings.max_processes)
    iterations, batch_size = settings.iterations, settings.batch_size
    fewer = max(1, iterations // count)
    return [
        Work(
            "sampling, the same images",
            "synth",
            (f"--num-samples={settings.num_samples}", f"--batch-size={min(samples, 32)}"),
            settings.num_samples,
        ),
        _training(
            "training, one batch shared: equal iterations and images", iterations, batch_size
        ),
        _training("training, a batch each: equal iterations", iterations, batch_size * count),
        _training("training, a batch each: equal images", fewer, batch_size * count),
    ]


def _training(name: str, iterations: int, batch_size: int) -> Work:
    options = (f"--iterations={iterations}", f"--batch-size={batch_size}")
    return Work(name, "train", options, iterations * batch_size)


class Store:
    """A store of its own, in which the commands run one after another."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        self._folder = folder
        self._shape = (f"--size={settings.size}", f"--model-size={settings.model_size}")
        shape = train_settings(TrainRunConfig(size=settings.size, model_size=settings.model_size))
        self._used = {
            "synth": f"--model=models:/{ldm_name(shape)}/1",
            "train": f"--vqgan=models:/{vqgan_name(shape)}/1",
        }

    def prepare(self) -> None:
        """Trains the autoencoder and the LDM that all works use."""
        self._run("train", "--iterations=20")

    def cost(self, work: Work, num_processes: int) -> Cost:
        """Returns the cost of a work that ``num_processes`` processes share."""
        start_s = time.perf_counter()
        used = self._used[work.command]
        self._run(work.command, used, f"--num-processes={num_processes}", *work.options)
        command_s = time.perf_counter() - start_s
        total = RunRecord.read(self._newest_run()).total
        if total is None or total.energy_kwh is None or total.duration_s is None:
            raise click.ClickException("Nothing was measured: see `mlflow-carbon doctor`.")
        joules = joules_from_kwh(total.energy_kwh)
        return Cost(work.num_images, total.duration_s, joules, command_s)

    def machine(self) -> Machine:
        """Returns the machine of the last work, and its method of measurement."""
        tags = self._newest_run().data.tags
        components = tags[keys.TAG_COMPONENTS].split(",")
        methods = ", ".join(f"{name} {tags[keys.method_tag(name)]}" for name in components)
        load, num_gpus = os.getloadavg()[0], torch.cuda.device_count()
        return Machine(tags[keys.TAG_HARDWARE], methods, load, num_gpus)

    def _newest_run(self) -> Run:
        (run,) = self._client.search_runs(["0"], max_results=1, order_by=["start_time DESC"])
        return run

    def _run(self, command: str, *options: str) -> None:
        with tempfile.TemporaryDirectory() as cache:  # else only the first training encodes
            done = subprocess.run(
                [sys.executable, "-m", "ldm_project", command, *self._shape, *options],
                cwd=self._folder,
                env=os.environ
                | {
                    "PYTHONPATH": str(Path(__file__).parent.parent),
                    "MLFLOW_TRACKING_URI": f"sqlite:///{self._folder}/mlflow.db",
                    "MLFLOW_CARBON_JOURNAL_DIR": str(self._folder / "journals"),
                    "LDM_PROJECT_CACHE": cache,
                },
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode:
            raise click.ClickException(f"{command} {options} failed:\n{done.stderr[-2000:]}")


def measured(
    store: Store, settings: Settings, counts: Sequence[int], num_rounds: int
) -> Iterator[tuple[str, Round]]:
    """Yields each round of each work."""
    for number in range(num_rounds):
        same_works = list(zip(*(works(settings, count) for count in counts), strict=True))
        for by_count in random.Random(number).sample(same_works, len(same_works)):
            name = by_count[0].name
            pairs = list(zip(counts, by_count, strict=True))
            order = random.Random(f"{number} {name}").sample(pairs, len(pairs))
            yield name, {count: store.cost(work, count) for count, work in order}


@click.command()
@click.option(
    "--num-processes",
    default=(2, 4),
    show_default=True,
    multiple=True,
    help="Several; give it again for more.",
)
@click.option("--size", default="64", show_default=True, help="Of the images, in 2D.")
@click.option("--model-size", default="tiny", show_default=True, help="Widths of the networks.")
@click.option("--num-samples", default=64, show_default=True, help="Images to sample.")
@click.option("--iterations", default=100, show_default=True, help="Of a training.")
@click.option("--batch-size", default=8, show_default=True, help="Images per iteration.")
@click.option(
    "--num-rounds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    help="Measurements of each.",
)
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="Page to write.")
def main(
    num_processes: tuple[int, ...],
    size: str,
    model_size: str,
    num_samples: int,
    iterations: int,
    batch_size: int,
    num_rounds: int,
    write: Path | None,
) -> None:
    """Compares one process with several at equal samples and at equal iterations."""
    settings = Settings(max(num_processes), size, model_size, num_samples, iterations, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), settings)
        store.prepare()
        rounds: dict[str, list[Round]] = {work.name: [] for work in works(settings, 1)}
        for name, each in measured(store, settings, (1, *num_processes), num_rounds):
            rounds[name].append(each)
        machine = store.machine()
    text = page(rounds, machine)
    click.echo(text)
    if write is not None:
        write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
