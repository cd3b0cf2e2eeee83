"""Runs a training loop with windows, logged losses, and actions repeated on the way."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import mlflow
from tqdm import tqdm

from ldm_project.config import PHANTOM, PREVIEWS_PER_TRAINING
from ldm_project.ct.data import CtScans
from ldm_project.diffusion.diffusion_training import DiffusionStep
from ldm_project.diffusion.vqgan_training import VqganStep
from ldm_project.parsing import size_text
from ldm_project.runs.references import TAG_DATA_DIGEST
from ldm_project.settings import TrainingSettings
from mlflow_carbon.tracking.track import Tracker


@dataclass(frozen=True)
class Repeated:
    """An action to repeat after every so many iterations."""

    every: int
    action: Callable[[int], None]  # given the iteration


def preview_every(settings: TrainingSettings) -> int:
    """Returns the number of iterations between two previews."""
    return max(1, settings.iterations // PREVIEWS_PER_TRAINING)


def data_tags(settings: TrainingSettings, scans: CtScans) -> dict[str, str]:
    """Returns the run tags that describe the scans; the folder's name stays out of them."""
    return {
        "ldm.size": size_text(settings.size),
        "ldm.data": PHANTOM if scans.is_phantom else "files",
        TAG_DATA_DIGEST: scans.digest,
        "ldm.num_scans": str(scans.num_scans),
        "ldm.num_skipped_files": str(scans.num_skipped),
    }


def run_training(
    tracker: Tracker,
    steps: Iterator[VqganStep] | Iterator[DiffusionStep],
    *,
    title: str,
    done: int,
    iterations: int,
    window_size: int,
    repeated: Sequence[Repeated],
    is_first: bool = True,
) -> None:
    """Runs a training loop in windows of equal length.

    Args:
        tracker: of the run that is written to.
        steps: one record per iteration, from number ``done`` + 1 to ``iterations``.
        title: of the progress bar.
        done: iterations that an earlier process did.
        iterations: of the training in all.
        window_size: iterations that are measured together.
        repeated: what else is done on the way.
        is_first: whether this process shows the training: logs the losses at each window's end,
            draws the bar and does what is repeated.
    """
    windows: Iterator[VqganStep | DiffusionStep]
    windows = tracker.windows(steps, units_per_window=window_size)
    if not is_first:
        for _ in windows:
            pass
        return
    bar = tqdm(windows, total=iterations, initial=done, desc=title, unit="it", mininterval=0.5)
    for step in bar:
        if step.iteration % window_size == 0:
            mlflow.log_metrics(losses_of(step), step=step.iteration)
        for each in repeated:
            if step.iteration % each.every == 0:
                each.action(step.iteration)


def losses_of(step: VqganStep | DiffusionStep) -> dict[str, float]:
    """Returns the losses of an iteration by name, without terms that are not in use yet."""
    return {
        name: loss
        for name, loss in asdict(step).items()
        if name != "iteration" and loss is not None
    }
