"""Turns the parameters of an entry point, which are texts, into the settings of its command."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from ldm_project.config import (
    AUTO,
    DEFAULT_BATCH_SIZE_BY_DIMS,
    DEFAULT_NUM_JUDGED,
    DEFAULT_NUM_SAMPLES,
    DEFAULT_SAMPLER_BY_DIMS,
    DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS,
    DIFFUSION,
    DOWNSAMPLING_FACTOR,
    LARGE,
    MAX_SYNTH_BATCH_SIZE,
    MIN_SYNTH_WINDOWS,
    NUM_TRAIN_TIMESTEPS,
    REFERENCE_SAMPLER,
    RFLOW,
    WHERE_IT_RUNS,
    WINDOWS_PER_TRAINING,
    BatchConfig,
    EstimateConfig,
    ParallelConfig,
    QualityConfig,
    RunConfig,
    SamplingConfig,
    StepsConfig,
    SynthConfig,
    TrainConfig,
    TrainRunConfig,
    VqganConfig,
    VqganRunConfig,
)
from ldm_project.errors import InvalidInputError
from ldm_project.paper import ITERATIONS_PER_EPOCH, with_preset
from ldm_project.parsing import (
    check_choices,
    given,
    num_fitting,
    num_launched,
    resolve_count,
    resolve_patch_size,
    resolve_pue,
    resolve_size,
    resolve_spacing_mm,
    resolve_switch,
)
from ldm_project.settings import (
    EstimateSettings,
    QualitySettings,
    RunSettings,
    SynthSettings,
    TrainSettings,
    VqganSettings,
)

ConfigT = TypeVar("ConfigT", bound=RunConfig)


def settings_of(config: RunConfig) -> RunSettings:
    """Returns the settings that result from the parameters of an entry point.

    Raises:
        InvalidInputError: a value is not allowed; the message names the parameter, its value, and
            the allowed values.
    """
    return _DOORS[type(config)](with_preset(config))


def vqgan_settings(config: VqganRunConfig) -> VqganSettings:
    """Returns the settings of the ``vqgan`` entry point; raises ``InvalidInputError``."""
    return replace(_vqgan_settings(config), resumed_run_id=given(config.resume))


def train_settings(config: TrainRunConfig) -> TrainSettings:
    """Returns the settings of the ``train`` entry point; raises ``InvalidInputError``."""
    config = _launched(config)
    settings = _train_settings(config)
    shared = _shared(config, settings.batch_size, "images of an iteration")
    is_sharded = resolve_switch(config.fsdp)
    # A resumed training may use the number of processes that it started with.
    is_number_known = config.resume == AUTO or config.num_processes != AUTO
    if is_sharded and is_number_known and shared["num_processes"] == 1:
        raise InvalidInputError(
            "fsdp is 'on', but one process holds all weights; use num_processes=2 or more, "
            "or fsdp=off."
        )
    resumed_run_id = given(config.resume)
    return replace(settings, **shared, is_sharded=is_sharded, resumed_run_id=resumed_run_id)


def synth_settings(config: SynthConfig) -> SynthSettings:
    """Returns the settings of the ``synth`` entry point; raises ``InvalidInputError``."""
    config = _launched(config)
    sampling = _sampling(config, DEFAULT_NUM_SAMPLES)
    num_batches = math.ceil(sampling["num_samples"] / sampling["batch_size"])
    shared = _shared(config, num_batches, "batches of samples")
    return SynthSettings(**sampling, **shared, **_way(config))


def estimate_settings(config: EstimateConfig) -> EstimateSettings:
    """Returns the settings of the ``estimate`` entry point; raises ``InvalidInputError``."""
    common = _common(config)
    batches = _batches(config, common["size"], DEFAULT_NUM_SAMPLES)
    training = TrainConfig(
        dims=config.dims, size=config.size, model_size=config.model_size, preset=config.preset
    )
    trained = _train_settings(with_preset(training))
    return EstimateSettings(
        **common,
        **batches,
        **_way(config),
        training_batch_size=trained.batch_size,
        checkpoints_gradients=trained.checkpoints_gradients,
    )


def quality_settings(config: QualityConfig) -> QualitySettings:
    """Returns the settings of the ``quality`` entry point; raises ``InvalidInputError``."""
    sampling = _sampling(config, DEFAULT_NUM_JUDGED)
    features = given(config.features)
    return QualitySettings(
        **sampling,
        grid=_grid(config, sampling["num_samples"]),
        features=None if features is None else Path(features),
    )


def as_interrupted(config: ConfigT, started_with: Mapping[str, Any]) -> ConfigT:
    """Returns the parameters with which to resume an interrupted training.

    Only parameters that say where the training runs may change; any other parameter must be left
    out or given its old value.

    Raises:
        InvalidInputError: a parameter that must not change has a new value.
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
    is_fsdp_given = getattr(config, "fsdp", AUTO) != AUTO
    if "fsdp" in kept and kept.get("num_processes") == "1" and not is_fsdp_given:
        kept["fsdp"] = AUTO  # one process holds all weights, whatever several did
    return replace(config, **kept)


_DOORS: dict[type[RunConfig], Callable[[Any], RunSettings]] = {
    VqganRunConfig: vqgan_settings,
    TrainRunConfig: train_settings,
    SynthConfig: synth_settings,
    EstimateConfig: estimate_settings,
    QualityConfig: quality_settings,
}


def _common(config: RunConfig) -> dict[str, Any]:
    """Returns the fields of ``RunSettings``."""
    size = resolve_size(config.size, config.dims, config.model_size)
    check_choices(config)
    return {
        "config": config,
        "dims": config.dims,
        "size": size,
        "model_size": config.model_size,
        "backend": config.backend,
        "autoencoder": config.autoencoder,
        "region": given(config.region),
        "month": given(config.month),
        "pue": resolve_pue(config.pue),
        "intensity_set": given(config.intensity_set),
        "attribution": given(config.attribution),
        "seed": config.seed,
        "device": given(config.device),
        "precision": given(config.precision),
    }


def _training(
    config: VqganConfig, iterations: int, default_batch_sizes: Mapping[int, int]
) -> dict[str, Any]:
    """Returns the fields of ``TrainingSettings``; default batch sizes are by dimension."""
    default_batch_size = default_batch_sizes.get(config.dims, 1)
    a_tenth = max(1, iterations // WINDOWS_PER_TRAINING)
    is_in_epochs = config.preset != AUTO
    return _common(config) | {
        "iterations": iterations,
        "iterations_per_window": min(iterations, ITERATIONS_PER_EPOCH) if is_in_epochs else a_tenth,
        "batch_size": resolve_count("batch_size", config.batch_size, default_batch_size),
        "data": config.data,
        "slice_axis": config.slice_axis,
        "spacing_mm": resolve_spacing_mm(config.spacing_mm),
        "checkpoint_every": resolve_count("checkpoint_every", config.checkpoint_every, a_tenth),
    }


def _vqgan_settings(config: VqganConfig) -> VqganSettings:
    fields_of_training = _training(
        config, config.vqgan_iterations, DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS
    )
    patch_size = resolve_patch_size(
        config.patch_size, fields_of_training["size"], config.model_size
    )
    return VqganSettings(**fields_of_training, patch_size=patch_size)


def _train_settings(config: TrainConfig) -> TrainSettings:
    """Returns the settings of a training in one process; it logs only ``TrainConfig``'s fields."""
    checkpoints_gradients = resolve_switch(config.gradient_checkpointing)
    if checkpoints_gradients is None:
        checkpoints_gradients = config.dims == 3 and config.model_size == LARGE
    return TrainSettings(
        **_training(config, config.iterations, DEFAULT_BATCH_SIZE_BY_DIMS),
        objective=config.objective,
        loss=config.loss,
        checkpoints_gradients=checkpoints_gradients,
        vqgan=given(config.vqgan),
        vqgan_training=_vqgan_settings(_narrowed(config, VqganConfig)),
    )


def _batches(config: BatchConfig, size: tuple[int, ...], default_number: int) -> dict[str, Any]:
    """Returns the fields of ``BatchSettings``.

    ``batch_size=auto`` fills the device, but leaves enough batches to compute a spread.
    """
    num_samples = resolve_count("num_samples", config.num_samples, default_number)
    fitting = num_fitting([axis // DOWNSAMPLING_FACTOR for axis in size])
    for_a_spread = math.ceil(num_samples / MIN_SYNTH_WINDOWS)
    default_batch_size = min(MAX_SYNTH_BATCH_SIZE, fitting, for_a_spread)
    return {
        "num_samples": num_samples,
        "batch_size": resolve_count("batch_size", config.batch_size, default_batch_size),
        "is_compiled": config.compile == "on",
    }


def _sampling(config: SamplingConfig, default_number: int) -> dict[str, Any]:
    """Returns the fields of ``SamplingSettings``; their training uses its default batch size."""
    common = _common(config)
    training = with_preset(replace(_narrowed(config, TrainConfig), batch_size=AUTO))
    return {
        **common,
        **_batches(config, common["size"], default_number),
        "model": given(config.model),
        "training": _train_settings(training),
    }


def _way(config: StepsConfig) -> dict[str, Any]:
    """Returns the sampler and the number of denoising steps."""
    if not 1 <= config.steps <= NUM_TRAIN_TIMESTEPS:
        raise InvalidInputError(
            f"steps is {config.steps}; give 1 to {NUM_TRAIN_TIMESTEPS}, "
            f"the number the model is trained for."
        )
    objective = getattr(config, "objective", DIFFUSION)
    sampler = given(config.sampler) or default_sampler(objective, config.dims)
    return {"sampler": sampler, "steps": config.steps}


def default_sampler(objective: str, dims: int) -> str:
    """Returns the sampler of ``sampler=auto``, by the UNet's objective and the images' axes."""
    return RFLOW if objective == RFLOW else DEFAULT_SAMPLER_BY_DIMS[dims]


def _grid(config: QualityConfig, num_samples: int) -> tuple[SynthSettings, ...]:
    """Returns a setting for each sampler and number of steps; that of all 1000 steps is first."""
    shared = asdict(_narrowed(config, SamplingConfig)) | {"num_samples": str(num_samples)}
    step_counts = [
        resolve_count("step_counts", text.strip(), NUM_TRAIN_TIMESTEPS)
        for text in config.step_counts.split(",")
    ]
    reference = (REFERENCE_SAMPLER[config.objective], NUM_TRAIN_TIMESTEPS)
    ways = [
        (sampler.strip(), steps) for sampler in config.samplers.split(",") for steps in step_counts
    ]
    return tuple(
        synth_settings(SynthConfig(**shared, sampler=sampler, steps=steps))
        for sampler, steps in (reference, *(way for way in ways if way != reference))
    )


def _launched(config: Any) -> Any:
    """Returns the parameters; ``num_processes=auto`` becomes the launcher's number, if any."""
    if num_launched() == 1 or config.num_processes != AUTO:
        return config
    return replace(config, num_processes=str(num_launched()))


def _shared(config: ParallelConfig, num_shares: int, shares: str) -> dict[str, Any]:
    """Returns the fields of ``SharedSettings``.

    Raises:
        InvalidInputError: there are fewer shares than processes, or a count is out of range.
    """
    num_processes = resolve_count("num_processes", config.num_processes, 1)
    if num_processes > num_shares:
        raise InvalidInputError(
            f"num_processes is {num_processes}, but there are {num_shares} {shares} to share; "
            f"use {num_shares} at most, or another batch_size=."
        )
    if config.max_restarts < 0:
        raise InvalidInputError(f"max_restarts is {config.max_restarts}; give 0 or more.")
    return {"num_processes": num_processes, "max_restarts": config.max_restarts}


def _narrowed(config: RunConfig, config_class: type[ConfigT]) -> ConfigT:
    """Returns the parameters of ``config_class``, with the values that they have in ``config``."""
    return config_class(**{item.name: getattr(config, item.name) for item in fields(config_class)})
