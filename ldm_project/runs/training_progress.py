"""A training loop as a run shows it: windows, losses, and what is repeated on the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import mlflow
from tqdm import tqdm

from ldm_project.config import WINDOWS_PER_TRAINING
from ldm_project.diffusion.diffusion_training import DiffusionStep
from ldm_project.diffusion.vqgan_training import VqganStep
from mlflow_carbon.tracking.track import Tracker


@dataclass(frozen=True)
class Repeated:
    """What is done after every so many iterations."""

    every: int
    action: Callable[[int], None]  # given the iteration


def resolve_window_size(iterations: int) -> int:
    """Returns the number of iterations that are measured together."""
    return max(1, iterations // WINDOWS_PER_TRAINING)


def run_training(
    tracker: Tracker,
    steps: Iterator[VqganStep] | Iterator[DiffusionStep],
    *,
    title: str,
    done: int,
    iterations: int,
    repeated: Sequence[Repeated],
) -> None:
    """Runs a training loop in windows of equal length; logs its losses at each window's end.

    Args:
        tracker: of the run that is written to.
        steps: one record per iteration, from number ``done`` + 1 to ``iterations``.
        title: of the progress bar.
        done: iterations that an earlier process did.
        iterations: of the training in all.
        repeated: what else is done on the way.
    """
    window_size = resolve_window_size(iterations)
    windows: Iterator[VqganStep | DiffusionStep]
    windows = tracker.windows(steps, units_per_window=window_size)
    bar = tqdm(windows, total=iterations, initial=done, desc=title, unit="it", mininterval=0.5)
    for step in bar:
        if step.iteration % window_size == 0:
            losses = {name: loss for name, loss in asdict(step).items() if name != "iteration"}
            mlflow.log_metrics(losses, step=step.iteration)
        for each in repeated:
            if step.iteration % each.every == 0:
                each.action(step.iteration)
