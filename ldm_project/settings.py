"""What the parameters of a command stand for: ``auto`` and texts resolved, and bad ones refused."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from ldm_project.config import (
    AUTO,
    DEFAULT_BATCH_SIZE_BY_DIMS,
    DEFAULT_NUM_JUDGED,
    DEFAULT_NUM_SAMPLES,
    DEFAULT_PUE,
    DEFAULT_REGION,
    DEFAULT_SIZE_BY_DIMS,
    DOWNSAMPLING_FACTOR,
    LARGE,
    MAX_LATENT_POSITIONS,
    MAX_SYNTH_BATCH_SIZE,
    MIN_SYNTH_WINDOWS,
    NUM_TRAIN_TIMESTEPS,
    SAMPLERS_BY_OBJECTIVE,
    WHERE_IT_RUNS,
    WINDOWS_PER_TRAINING,
    BatchConfig,
    ParallelConfig,
    QualityConfig,
    RunConfig,
    SamplingConfig,
    StepsConfig,
    SynthConfig,
    TrainConfig,
    TrainRunConfig,
    VqganConfig,
)
from ldm_project.errors import InvalidInputError
from ldm_project.presets import PRESETS, ModelPreset

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def resolve_preset(model_size: str) -> ModelPreset:
    """Returns the widths that a model size names.

    Raises:
        InvalidInputError: no preset has that name.
    """
    if model_size not in PRESETS:
        raise InvalidInputError(f"model_size is {model_size!r}; use one of {', '.join(PRESETS)}.")
    return PRESETS[model_size]


def resolve_size(size: str, dims: int, model_size: str) -> tuple[int, ...]:
    """Returns the image size in pixels or voxels, one number per axis.

    Args:
        size: ``auto``, one number for every axis (``192``), or one per axis (``256x256x192``).
        dims: 2 or 3.
        model_size: the preset, whose depth decides by what an axis must be divisible.

    Raises:
        InvalidInputError: ``dims`` is neither, ``size`` is no size, has another number of axes,
            or an axis is not divisible by what the networks halve.
    """
    if dims not in DEFAULT_SIZE_BY_DIMS:
        raise InvalidInputError(f"dims is {dims}; it must be 2 (slices) or 3 (volumes).")
    if size == AUTO:
        return DEFAULT_SIZE_BY_DIMS[dims]
    parts = size.lower().split("x")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InvalidInputError(
            f"size is {size!r}; give one number (192) or one per axis (256x256x192)."
        )
    axes = tuple(int(part) for part in parts)
    if len(axes) == 1:
        axes = axes * dims
    if len(axes) != dims:
        raise InvalidInputError(
            f"size {size!r} has {len(axes)} axes but dims is {dims}; give one number or {dims}."
        )
    # The UNet halves the latent between its levels, on top of the autoencoder's factor.
    divisor = DOWNSAMPLING_FACTOR * 2 ** (len(resolve_preset(model_size).unet_channels) - 1)
    for axis in axes:
        if axis % divisor:
            nearest = max(divisor, round(axis / divisor) * divisor)
            raise InvalidInputError(
                f"size {size!r}: {axis} is not divisible by {divisor}, "
                f"which model_size {model_size} needs; use {nearest}."
            )
    return axes


def given(value: str) -> str | None:
    """Returns the text, or ``None`` where it leaves the choice open."""
    return None if value == AUTO else value


def resolve_count(name: str, value: str, default: int) -> int:
    """Returns a count above zero from its text, or the default for ``auto``.

    Raises:
        InvalidInputError: the text is no such count.
    """
    if value == AUTO:
        return default
    if not value.isdecimal() or int(value) == 0:
        raise InvalidInputError(f"{name} is {value!r}; give a whole number above zero, or auto.")
    return int(value)


def resolve_training_batch_size(config: VqganConfig) -> int:
    """Returns the number of images per training iteration."""
    return resolve_count("batch_size", config.batch_size, DEFAULT_BATCH_SIZE_BY_DIMS[config.dims])


def num_fitting(latent_size: Sequence[int]) -> int:
    """Returns the number of images that fill a device, by the axes of their latents: 1 or more."""
    return max(1, MAX_LATENT_POSITIONS // math.prod(latent_size))


def resolve_synth_batch_size(config: BatchConfig) -> int:
    """Returns the number of images sampled together, and measured in one window.

    ``auto`` takes as many as fill a device, and leaves windows enough for a spread.
    """
    size = resolve_size(config.size, config.dims, config.model_size)
    latent_size = [axis // DOWNSAMPLING_FACTOR for axis in size]
    for_a_spread = math.ceil(resolve_num_samples(config) / MIN_SYNTH_WINDOWS)
    default = min(MAX_SYNTH_BATCH_SIZE, num_fitting(latent_size), for_a_spread)
    return resolve_count("batch_size", config.batch_size, default)


def resolve_num_samples(config: BatchConfig) -> int:
    """Returns the number of images to make."""
    is_judged = isinstance(config, QualityConfig)
    default = DEFAULT_NUM_JUDGED if is_judged else DEFAULT_NUM_SAMPLES
    return resolve_count("num_samples", config.num_samples, default)


def num_launched() -> int:
    """Returns the number of processes that torchrun, or one who sets its variables, started."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def resolve_num_processes(config: ParallelConfig) -> int:
    """Returns the number of processes that a command is to be shared by."""
    return resolve_count("num_processes", config.num_processes, num_launched())


def check_processes(config: ParallelConfig, num_shares: int, shares: str) -> None:
    """Checks that every process of a command gets a share of what there is to do.

    Raises:
        InvalidInputError: there are fewer shares than processes, or a count is none.
    """
    num_processes = resolve_num_processes(config)
    if num_processes > num_shares:
        raise InvalidInputError(
            f"num_processes is {num_processes}, but there are {num_shares} {shares} to share; "
            f"use {num_shares} at most, or another batch_size=."
        )
    if config.max_restarts < 0:
        raise InvalidInputError(f"max_restarts is {config.max_restarts}; give 0 or more.")


def resolve_settings(config: QualityConfig) -> list[SynthConfig]:
    """Returns the synthesis of each sampler at each number of steps, 1000 reference steps first.

    Raises:
        InvalidInputError: an unknown sampler, or a number of steps that no model is trained for.
    """
    shared = {item.name: getattr(config, item.name) for item in fields(SamplingConfig)}
    shared["num_samples"] = str(resolve_num_samples(config))
    step_counts = [
        resolve_count("step_counts", text.strip(), NUM_TRAIN_TIMESTEPS)
        for text in config.step_counts.split(",")
    ]
    grid = [
        SynthConfig(**shared, sampler=sampler.strip(), steps=steps)
        for sampler in config.samplers.split(",")
        for steps in step_counts
    ]
    reference = SynthConfig(
        **shared, sampler=SAMPLERS_BY_OBJECTIVE[config.objective][0], steps=NUM_TRAIN_TIMESTEPS
    )
    settings = [reference, *(setting for setting in grid if setting != reference)]
    for setting in settings:
        validate(setting)
    return settings


def resolve_checkpoint_every(config: VqganConfig, iterations: int) -> int:
    """Returns the number of iterations between two states that a training can go on from."""
    default = max(1, iterations // WINDOWS_PER_TRAINING)
    return resolve_count("checkpoint_every", config.checkpoint_every, default)


def checkpoints_gradients(config: TrainConfig) -> bool:
    """Returns whether a training computes blocks twice to save memory."""
    if config.gradient_checkpointing == AUTO:
        return config.dims == 3 and config.model_size == LARGE
    return config.gradient_checkpointing == "on"


def size_text(size: tuple[int, ...]) -> str:
    """Returns a size as the ``size`` parameter takes it: ``256x256x192``."""
    return "x".join(str(axis) for axis in size)


def resolve_pue(pue: str) -> float | None:
    """Returns the power usage effectiveness asked for; ``None`` leaves the choice open.

    Raises:
        InvalidInputError: the text is no number.
    """
    if pue == AUTO:
        return None
    try:
        return float(pue)
    except ValueError:
        raise InvalidInputError(f"pue is {pue!r}; give a number such as 1.2, or auto.") from None


def resolve_spacing_mm(spacing_mm: str) -> tuple[float, ...] | None:
    """Returns the voxel spacing to resample to, one number per axis; ``None`` keeps the scan's.

    Raises:
        InvalidInputError: the text is no spacing.
    """
    if spacing_mm == AUTO:
        return None
    try:
        axes = tuple(float(part) for part in spacing_mm.split("x"))
    except ValueError:
        axes = ()
    if len(axes) not in (1, 3) or not all(0 < axis < math.inf for axis in axes):
        raise InvalidInputError(
            f"spacing_mm is {spacing_mm!r}; give 1 or 1x1x2 (millimetres above zero), or auto."
        )
    return axes * 3 if len(axes) == 1 else axes


def validate(config: RunConfig) -> None:
    """Checks what can be checked before any work starts.

    Raises:
        InvalidInputError: naming the parameter, its value, and what it may be.
    """
    resolve_size(config.size, config.dims, config.model_size)
    resolve_pue(config.pue)
    for parameter_field in fields(config):
        value = getattr(config, parameter_field.name)
        choices = parameter_field.metadata["choices"]
        if choices and value not in choices:
            raise InvalidInputError(
                f"{parameter_field.name} is {value!r}; use one of {', '.join(choices)}."
            )
        if parameter_field.name.endswith("iterations") and value < 1:
            raise InvalidInputError(f"{parameter_field.name} is {value}; give 1 or more.")
    if isinstance(config, VqganConfig):
        resolve_count("batch_size", config.batch_size, 1)
        resolve_spacing_mm(config.spacing_mm)
        resolve_checkpoint_every(config, config.vqgan_iterations)
    if isinstance(config, BatchConfig):
        resolve_num_samples(config)
        resolve_synth_batch_size(config)
    if isinstance(config, TrainRunConfig):
        check_processes(config, resolve_training_batch_size(config), "images of an iteration")
        is_number_known = config.resume == AUTO or config.num_processes != AUTO
        if config.fsdp == "on" and is_number_known and resolve_num_processes(config) == 1:
            raise InvalidInputError(
                "fsdp is 'on', but one process holds all weights; use num_processes=2 or more, "
                "or fsdp=off."
            )
    if isinstance(config, SynthConfig):
        num_batches = math.ceil(resolve_num_samples(config) / resolve_synth_batch_size(config))
        check_processes(config, num_batches, "batches of samples")
    if isinstance(config, QualityConfig):
        resolve_settings(config)
    if isinstance(config, StepsConfig) and not 1 <= config.steps <= NUM_TRAIN_TIMESTEPS:
        raise InvalidInputError(
            f"steps is {config.steps}; give 1 to {NUM_TRAIN_TIMESTEPS}, "
            f"the number the model is trained for."
        )


def resolved(config: RunConfig) -> dict[str, int | str]:
    """Returns every parameter by name, with what ``auto`` stands for where that is known."""
    values: dict[str, int | str] = {
        parameter_field.name: getattr(config, parameter_field.name)
        for parameter_field in fields(config)
    }
    values["size"] = size_text(resolve_size(config.size, config.dims, config.model_size))
    values["region"] = given(config.region) or DEFAULT_REGION
    values["pue"] = given(config.pue) or str(DEFAULT_PUE)
    if isinstance(config, BatchConfig):
        values["num_samples"] = str(resolve_num_samples(config))
        values["batch_size"] = str(resolve_synth_batch_size(config))
    elif isinstance(config, VqganConfig):
        values["batch_size"] = str(resolve_training_batch_size(config))
    if isinstance(config, ParallelConfig):
        values["num_processes"] = str(resolve_num_processes(config))
    return values


def as_interrupted(config: ConfigT, started_with: Mapping[str, Any]) -> ConfigT:
    """Returns the parameters that an interrupted training started with, to go on with.

    Only where it runs may be new; other parameters can be left out, or given as they were.

    Raises:
        InvalidInputError: another parameter was given with another value.
    """
    kept = dict(started_with)
    for item in fields(config):
        value, before = getattr(config, item.name), started_with.get(item.name)
        if value in (item.default, before):
            continue
        if item.name not in WHERE_IT_RUNS:
            raise InvalidInputError(
                f"{item.name} is {value!r}, but the training to resume started with {before!r}. "
                f"Leave {item.name} out, or start anew without resume=."
            )
        kept[item.name] = value
    return replace(config, **kept)
