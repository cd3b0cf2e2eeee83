"""Trainings that can be resumed: keeps one state per run until the run's model is registered."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ldm_project.cache import CACHE_VARIABLE, cache_folder
from ldm_project.diffusion.training_states import (
    Resumable,
    TrainingState,
    load_training,
    save_training,
    take_up,
)
from ldm_project.errors import CheckpointError, InvalidInputError
from ldm_project.resolution import as_interrupted, settings_of
from ldm_project.settings import RunSettings, TrainingSettings

COMMAND = "command"  # key under which a state keeps its command
LAUNCH_VARIABLE = "TORCHELASTIC_RUN_ID"  # the launch's name: the run's id where we launch


def as_started(settings: RunSettings) -> RunSettings:
    """Returns the settings of the interrupted training; ``settings`` itself if none is resumed.

    Raises:
        CheckpointError: the training's state is missing here, or damaged.
        InvalidInputError: the run does not exist, or a parameter that must not change has changed.
    """
    run_id = settings.resumed_run_id
    if run_id is None:
        return settings
    try:
        MlflowClient().get_run(run_id)
    except MlflowException as error:
        raise InvalidInputError(
            f"resume is {run_id!r}, but {mlflow.get_tracking_uri()} has no such run. "
            f"Give the id of a training's run, as the MLflow UI shows it."
        ) from error
    path = state_file(run_id)
    if not path.is_file():
        raise CheckpointError(
            f"There is no state of run {run_id} at {path}: it has ended well, had not come to its "
            f"first state, or ran elsewhere ({CACHE_VARIABLE} names the folder). Start anew "
            f"without resume=."
        )
    started_with = dict(load_training(path).started_with)
    command = started_with.pop(COMMAND)
    if command != settings.command:
        raise InvalidInputError(f"Run {run_id} is one of {command}: use `-e {command}`.")
    return settings_of(as_interrupted(settings.config, started_with))


def state_file(run_id: str) -> Path:
    """Returns the file of the state of a run's training."""
    return cache_folder() / "trainings" / f"{run_id}.pt"


class StateKeeper:
    """Writes a training's state from time to time; a full disk does not stop the training."""

    def __init__(self, run_id: str, training: Resumable, settings: TrainingSettings) -> None:
        self._path = state_file(run_id)
        self._training = training
        self._started_with = asdict(settings.config) | {COMMAND: settings.command}
        self._started_with.pop("resume", None)
        self._has_warned = False

    def save(self, iteration: int) -> None:  # noqa: ARG002  # the state holds it
        """Writes the state; prints a warning at the first failure."""
        try:
            save_training(self._path, self._training, self._started_with)
        except CheckpointError as error:
            if not self._has_warned:
                print(f"Warning: {error} The training goes on.", file=sys.stderr)
            self._has_warned = True


def state_left_in(path: Path) -> TrainingState | None:
    """Returns the state that an earlier process left in a file; ``None`` for a new training.

    Raises:
        CheckpointError: the state is damaged.
    """
    return load_training(path) if path.is_file() else None


def go_on(training: Resumable, state: TrainingState | None, run_id: str) -> None:
    """Restores a training from the state of an earlier process; does nothing if it is ``None``.

    Raises:
        CheckpointError: the state belongs to other networks.
    """
    if state is not None:
        take_up(training, state, state_file(run_id))


def how_to_resume(command: str, run_id: str) -> str:
    """Returns a sentence on how to resume the run's training; "" if it cannot be resumed."""
    is_file = state_file(run_id).is_file()
    way = f"`mlflow run . -e {command} -P resume={run_id}`"
    return f"The training can go on: {way}." if is_file else ""


@contextmanager
def kept_until_registered(command: str, run_id: str) -> Iterator[None]:
    """Deletes the run's state after the block, which trains and registers, has succeeded."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        is_launched_for_run = os.environ.get(LAUNCH_VARIABLE) == run_id
        if not is_launched_for_run and how_to_resume(command, run_id):  # else the launcher says so
            print(how_to_resume(command, run_id), file=sys.stderr)
        raise
    state_file(run_id).unlink(missing_ok=True)


@contextmanager
def training_run(
    settings: TrainingSettings, run_id: str, tags: Mapping[str, str], *, is_first: bool = True
) -> Iterator[None]:
    """Makes the run active, in the first process only, for a block that trains and registers.

    Args:
        settings: of the training.
        run_id: of its run.
        tags: of its run.
        is_first: whether this process writes to the run.
    """
    if not is_first:
        yield
        return
    with mlflow.start_run(run_id=run_id), kept_until_registered(settings.command, run_id):
        mlflow.set_tags(dict(tags))
        yield
