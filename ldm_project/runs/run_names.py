"""Names by which a person tells the runs of the commands apart in a list."""

import re

from ldm_project.config import DIFFUSION, TINY, VQ
from ldm_project.settings import (
    EstimateSettings,
    RunSettings,
    SynthSettings,
    TrainingSettings,
    TrainSettings,
)

_GIVEN_BY_MLFLOW = re.compile(r"[a-z]+-[a-z]+-\d+")  # as it names a run that nobody has named


def run_name(settings: RunSettings) -> str:
    """Returns a name such as ``synth 2D 64² dpmpp_sde-200 seed 1``; defaults are left out of it."""
    parts = [settings.command, f"{settings.dims}D", _size(settings.size)]
    if settings.model_size != TINY:
        parts.append(settings.model_size)
    if settings.autoencoder != VQ:
        parts.append(settings.autoencoder)
    if isinstance(settings, SynthSettings | EstimateSettings):
        parts.append(f"{settings.sampler}-{settings.steps}")
    if isinstance(settings, TrainSettings) and settings.objective != DIFFUSION:
        parts.append(settings.objective)
    if isinstance(settings, TrainingSettings):
        parts.append(f"{settings.iterations} iterations")
    parts.append(f"seed {settings.seed}")
    return " ".join(parts)


def is_chosen(name: str | None) -> bool:
    """Returns whether a user chose the name of a run; MLflow makes up the others."""
    return name is not None and _GIVEN_BY_MLFLOW.fullmatch(name) is None


def _size(size: tuple[int, ...]) -> str:
    """Returns ``64²``, ``32³`` or, where axes differ, ``256×256×192``."""
    if len(set(size)) == 1:
        return f"{size[0]}{'²' if len(size) == 2 else '³'}"
    return "×".join(map(str, size))
