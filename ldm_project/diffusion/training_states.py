"""The state of an unfinished training on disk: written completely or not at all."""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from ldm_project.errors import CheckpointError

FORMAT_VERSION = 1


class Resumable(Protocol):
    """A training that can continue where it stopped."""

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that the training needs to continue."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a state from ``state_dict``."""
        ...


@dataclass(frozen=True)
class TrainingState:
    """The state of a training, and the parameters that it was started with."""

    started_with: dict[str, Any]
    values: dict[str, Any]


def save_training(path: Path, training: Resumable, started_with: Mapping[str, Any]) -> None:
    """Writes the state of a training; an older state is replaced only when this one is complete.

    Raises:
        CheckpointError: the state cannot be written.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "started_with": dict(started_with),
        "values": training.state_dict(),
    }
    staging = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut after the move could leave it empty
        staging.replace(path)
    except (OSError, RuntimeError) as error:  # torch: RuntimeError on a full disk
        staging.unlink(missing_ok=True)
        raise CheckpointError(
            f"Cannot write the training's state {path}: {error}. Free disk space; "
            f"a state that was there before is unchanged."
        ) from error


def load_training(path: Path) -> TrainingState:
    """Returns the state of a training, on the CPU.

    Raises:
        CheckpointError: there is no state, it is damaged, or another release wrote it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise _damaged(path, f"{damaged} has another checksum")
        content = torch.load(path, map_location="cpu", weights_only=True)
        version = content["format_version"]
        if version == FORMAT_VERSION:
            return TrainingState(content["started_with"], content["values"])
    except FileNotFoundError as error:
        raise CheckpointError(f"No state of a training at {path}.") from error
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise _damaged(path, repr(error)) from error
    raise CheckpointError(
        f"{path} has format version {version!r}; this release reads {FORMAT_VERSION}. "
        f"Go on with the release that wrote it, or delete it and start anew."
    )


def take_up(training: Resumable, state: TrainingState, path: Path) -> None:
    """Restores a training from its saved state.

    Raises:
        CheckpointError: the state belongs to other networks.
    """
    try:
        training.load_state_dict(state.values)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise _damaged(path, f"it does not fit the networks: {reason}") from error


def _damaged(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"The training's state {path} is damaged ({reason}). Copy it again, or delete it and "
        f"start anew."
    )
