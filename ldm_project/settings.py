"""The settings of each command: one frozen record with the parsed value of each parameter.

``settings_of`` makes the record. A choice that only the machine can make (the device, the
precision) stays ``None``. The texts are kept for logging only, and never parsed again.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ldm_project.config import (
    AUTO,
    DEFAULT_BATCH_SIZE_BY_DIMS,
    DEFAULT_NUM_JUDGED,
    DEFAULT_NUM_SAMPLES,
    DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS,
    DOWNSAMPLING_FACTOR,
    LARGE,
    MAX_SYNTH_BATCH_SIZE,
    MIN_SYNTH_WINDOWS,
    NUM_TRAIN_TIMESTEPS,
    REFERENCE_SAMPLER,
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
    size_text,
)

ConfigT = TypeVar("ConfigT", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every command: its networks, its device, and the price of its energy.

    Attributes:
        config: the texts behind the values: logged with the run, and kept with a training's state.
        size: of an image in pixels or voxels, one number per axis.
        region: of the electricity grid; ``None``, here and below, leaves the choice to the plugin:
            the environment, else its default.
        month: of the carbon intensity.
        pue: power usage effectiveness.
        intensity_set: the only set of intensities to look in.
        attribution: what of the node counts.
        device: ``None`` takes a GPU where there is one.
        precision: ``fp32`` or ``bf16``; ``None`` takes the faster of the two.
        resumed_run_id: run whose interrupted training is resumed; ``None`` starts a new training.
    """

    command: ClassVar[str]  # name of the entry point

    config: RunConfig
    dims: int
    size: tuple[int, ...]
    model_size: str
    backend: str
    region: str | None
    month: str | None
    pue: float | None
    intensity_set: str | None
    attribution: str | None
    seed: int
    device: str | None
    precision: str | None
    resumed_run_id: str | None = None

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        values: dict[str, int | str] = asdict(self.config)
        values["size"] = size_text(self.size)
        return values


@dataclass(frozen=True, kw_only=True)
class SharedSettings(RunSettings):
    """Settings of a command that several processes can share."""

    num_processes: int = 1
    max_restarts: int = 0

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        return {**super().resolved(), "num_processes": str(self.num_processes)}


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(RunSettings):
    """Settings of every training.

    Attributes:
        iterations: of the training in all.
        batch_size: images per iteration.
        data: where the CT comes from: ``phantom``, a folder, a glob or a public data set.
        slice_axis: of the slices that 2D training draws from volumes.
        spacing_mm: voxel spacing to resample scans to; ``None`` keeps each scan's own.
        checkpoint_every: iterations between two saved states, from which the training can resume.
    """

    iterations: int
    batch_size: int
    data: str
    slice_axis: str
    spacing_mm: tuple[float, ...] | None
    checkpoint_every: int

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        return {**super().resolved(), "batch_size": str(self.batch_size)}


@dataclass(frozen=True, kw_only=True)
class VqganSettings(TrainingSettings):
    """Settings of the training of a VQ-GAN.

    ``patch_size`` is that of the patches it learns from; ``None`` trains on whole images.
    """

    command: ClassVar[str] = "vqgan"

    patch_size: tuple[int, ...] | None


@dataclass(frozen=True, kw_only=True)
class TrainSettings(TrainingSettings, SharedSettings):
    """Settings of the training of a diffusion UNet.

    Attributes:
        objective: ``diffusion`` or ``rflow``.
        checkpoints_gradients: whether blocks are computed twice to save memory.
        vqgan: checkpoint folder or URI; ``None`` takes the newest that fits, else trains one.
        vqgan_training: settings for training the VQ-GAN, if needed.
        is_sharded: whether each process holds a part of the UNet; ``None`` shards it if its
            training would fill half a GPU.
    """

    command: ClassVar[str] = "train"

    config: TrainConfig
    objective: str
    checkpoints_gradients: bool
    vqgan: str | None
    vqgan_training: VqganSettings
    is_sharded: bool | None = None


@dataclass(frozen=True, kw_only=True)
class BatchSettings(RunSettings):
    """Settings of every command that denoises: the number of images, and the batch size."""

    num_samples: int
    batch_size: int
    is_compiled: bool

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        counts = {"num_samples": str(self.num_samples), "batch_size": str(self.batch_size)}
        return {**super().resolved(), **counts}


@dataclass(frozen=True, kw_only=True)
class EstimateSettings(BatchSettings):
    """Settings of a prediction of the cost of ``synth``."""

    command: ClassVar[str] = "estimate"

    sampler: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(BatchSettings):
    """Settings of every command that samples from a trained LDM.

    Attributes:
        model: checkpoint folder or URI; ``None`` takes the newest LDM that fits, else trains one.
        training: settings for training the LDM, if needed; they also name the real images.
    """

    model: str | None
    training: TrainSettings


@dataclass(frozen=True, kw_only=True)
class SynthSettings(SamplingSettings, SharedSettings):
    """Settings of sampling with one sampler at one number of steps."""

    command: ClassVar[str] = "synth"

    sampler: str
    steps: int


@dataclass(frozen=True, kw_only=True)
class QualitySettings(SamplingSettings):
    """Settings of the comparison of samplers and step counts.

    Attributes:
        grid: one sampling for each sampler and step count; the one with all 1000 steps is first.
        features: file of a feature network; ``None`` uses features of the VQ-GAN.
    """

    command: ClassVar[str] = "quality"

    grid: tuple[SynthSettings, ...]
    features: Path | None


def settings_of(config: RunConfig) -> RunSettings:
    """Returns the settings that result from the parameters of an entry point.

    Raises:
        InvalidInputError: a value is not allowed; the message names the parameter, its value, and
            the allowed values.
    """
    return _DOORS[type(config)](config)


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
    return EstimateSettings(**common, **batches, **_way(config))


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
    return _common(config) | {
        "iterations": iterations,
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
    training = replace(_narrowed(config, TrainConfig), batch_size=AUTO)
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
    return {"sampler": config.sampler, "steps": config.steps}


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
