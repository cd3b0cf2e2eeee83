"""Every default of the project, once: what each command does when told nothing.

The text ``auto`` stands for a value that depends on others (``size`` on ``dims``) or that the
project chooses and says so (``region``); the resolve functions turn it into a value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from ldm_project.errors import InvalidInputError
from ldm_project.presets import PRESETS, ModelPreset

AUTO = "auto"
PHANTOM = "phantom"

TINY = "tiny"  # the model size that trains on a laptop
LARGE = "large"  # the one whose volumes fill a GPU

DIFFUSION, RFLOW = "diffusion", "rflow"  # what a UNet can be trained as
# The first one, with all steps, is what quality judges the others by.
SAMPLERS_BY_OBJECTIVE = {DIFFUSION: ("ddpm", "ddim", "dpmpp", "unipc"), RFLOW: ("rflow",)}
DEFAULT_SAMPLER = {DIFFUSION: "unipc", RFLOW: "rflow"}
SAMPLERS = tuple(name for names in SAMPLERS_BY_OBJECTIVE.values() for name in names)
PRECISIONS = (AUTO, "fp32", "bf16")
SWITCHES = (AUTO, "on", "off")
# Of a training, these have no say in what is learnt.
WHERE_IT_RUNS = ("resume", "device", "num_processes", "max_restarts")
BACKENDS = ("core", "generative")
SLICE_AXES = ("axial", "coronal", "sagittal")

DEFAULT_SIZE_BY_DIMS = {2: (64, 64), 3: (32, 32, 32)}
DEFAULT_BATCH_SIZE_BY_DIMS = {2: 8, 3: 4}  # training
DEFAULT_NUM_SAMPLES = 20
DEFAULT_NUM_JUDGED = 64  # images of each setting that quality compares
MIN_SYNTH_WINDOWS = 5  # one for each batch: a spread to report
MAX_SYNTH_BATCH_SIZE = 32  # from here on an image gets hardly cheaper
# Of one batch: a TFLOP per step with the medium UNet, and under 2 GB between its layers.
MAX_LATENT_POSITIONS = 2**16
WINDOWS_PER_TRAINING = 10
PREVIEWS_PER_TRAINING = 4
MAX_SLICE_EPOCHS = 16  # epochs of slices whose latents are kept: as many slices per volume
HELD_OUT_FRACTION = 0.2  # of the scans: never trained on, for judging

DEFAULT_REGION = "EU27"
DEFAULT_INTENSITY_SET = "paper_table1"
DEFAULT_PUE = 1.55  # paper, section 2.4

HU_MIN, HU_MAX = -1000.0, 1000.0  # air to dense bone; networks see this window as [-1, 1]
NUM_TRAIN_TIMESTEPS = 1000  # paper, section 3.4
DOWNSAMPLING_FACTOR = 4  # image pixels per latent pixel, each axis


def parameter(default: int | str, help_text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """Returns a dataclass field that also carries its help text and its allowed values."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Parameters of every entry point that computes: with what networks, where, at what price."""

    dims: int = parameter(2, "2 for slices, 3 for volumes.")
    size: str = parameter(AUTO, "Image size: 192 or 256x256x192. auto: 64 (2D), 32x32x32 (3D).")
    model_size: str = parameter("tiny", "Widths of the networks.", choices=tuple(PRESETS))
    backend: str = parameter("core", "Networks from MONAI or monai-generative.", choices=BACKENDS)
    region: str = parameter(AUTO, "Where the electricity comes from. auto: EU27.")
    month: str = parameter(AUTO, "Month of the carbon intensity: 2022-02. auto: the year's mean.")
    pue: str = parameter(AUTO, "Power usage effectiveness. auto: 1.55, the paper's.")
    seed: int = parameter(0, "Seed of the data, the training and the noise.")
    device: str = parameter(AUTO, "cpu, cuda, cuda:1. auto: a GPU where there is one.")
    precision: str = parameter(
        AUTO, "Of the networks. auto: bf16 where it is quicker.", choices=PRECISIONS
    )


@dataclass(frozen=True, kw_only=True)
class VqganConfig(RunConfig):
    """How to train a VQ-GAN, the autoencoder that the LDM lives in."""

    vqgan_iterations: int = parameter(350, "Training iterations of the VQ-GAN.")
    batch_size: str = parameter(AUTO, "Images per training iteration. auto: 8 (2D), 4 (3D).")
    data: str = parameter(
        PHANTOM,
        "Folder or glob of CT (NIfTI, DICOM), msd:Task09_Spleen, tcia:LIDC-IDRI:20. "
        "phantom: made here.",
    )
    slice_axis: str = parameter("axial", "Slices drawn from volumes in 2D.", choices=SLICE_AXES)
    spacing_mm: str = parameter(AUTO, "Resample to this spacing: 1 or 1x1x2. auto: as scanned.")
    checkpoint_every: str = parameter(
        AUTO, "Iterations between two states that a training can go on from. auto: a tenth of all."
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(VqganConfig):
    """How to train a diffusion UNet on the latents of a VQ-GAN."""

    iterations: int = parameter(500, "Training iterations of the diffusion UNet.")
    objective: str = parameter(
        DIFFUSION, "What the UNet learns.", choices=tuple(SAMPLERS_BY_OBJECTIVE)
    )
    gradient_checkpointing: str = parameter(
        AUTO, "Save memory by computing twice. auto: on for large volumes.", choices=SWITCHES
    )
    vqgan: str = parameter(
        AUTO, "VQ-GAN: a checkpoint folder or models:/name/version. auto: newest, else trained."
    )


@dataclass(frozen=True, kw_only=True)
class ResumableConfig(RunConfig):
    """Parameters of every entry point that can go on with what was interrupted."""

    resume: str = parameter(
        AUTO, "Run whose interrupted training goes on, as it was set up. auto: this one's, if any."
    )


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(RunConfig):
    """Parameters of every entry point that several processes can share."""

    num_processes: str = parameter(
        AUTO, "Processes that share the work, each on a GPU of its own. auto: 1, or torchrun's."
    )
    max_restarts: int = parameter(
        0, "Times that all processes are started anew after one has failed."
    )


@dataclass(frozen=True, kw_only=True)
class VqganRunConfig(ResumableConfig, VqganConfig):
    """Parameters of the ``vqgan`` entry point."""


@dataclass(frozen=True, kw_only=True)
class TrainRunConfig(ResumableConfig, ParallelConfig, TrainConfig):
    """Parameters of the ``train`` entry point."""


@dataclass(frozen=True, kw_only=True)
class BatchConfig(RunConfig):
    """Parameters of every entry point that denoises: how much at once, and how."""

    num_samples: str = parameter(AUTO, "Images to make. auto: 20.")
    batch_size: str = parameter(AUTO, "Images sampled together. auto: by size, 32 at most.")
    compile: str = parameter(
        "off", "Compile the UNet by torch.compile, on a GPU to CUDA graphs.", choices=("off", "on")
    )


@dataclass(frozen=True, kw_only=True)
class StepsConfig(BatchConfig):
    """Parameters of every entry point that denoises in one way."""

    steps: int = parameter(50, "Denoising steps per image.")
    sampler: str = parameter(DEFAULT_SAMPLER[DIFFUSION], "Noise scheduler.", choices=SAMPLERS)


@dataclass(frozen=True, kw_only=True)
class EstimateConfig(StepsConfig):
    """Parameters of the ``estimate`` entry point: what ``synth`` would cost, from a short probe."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(BatchConfig, TrainConfig):
    """Parameters of every entry point that makes images by a trained model."""

    model: str = parameter(
        AUTO, "LDM: a checkpoint folder or models:/name/version. auto: newest, else trained."
    )


@dataclass(frozen=True, kw_only=True)
class SynthConfig(StepsConfig, ParallelConfig, SamplingConfig):
    """Parameters of the ``synth`` entry point: sample CT images and measure what that costs."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig(SamplingConfig):
    """Parameters of the ``quality`` entry point: what each sampler and step count gives and costs.

    Every setting is compared with 1000 steps, which are always sampled too.
    """

    num_samples: str = parameter(AUTO, "Images of each setting. auto: 64.")
    samplers: str = parameter("unipc,dpmpp,ddim", "Noise schedulers, comma-separated.")
    step_counts: str = parameter("50,20,10", "Denoising steps per image, comma-separated.")
    features: str = parameter(
        AUTO, "ResNet to judge by: a RadImageNet (2D) or MedicalNet (3D) file. auto: the VQ-GAN."
    )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Parameters of the ``compare`` entry point, as ``mlflow-carbon compare`` takes them."""

    experiment: str = parameter("Default", "Experiment to read.")
    group_by: str = parameter("steps", "Parameters that make a group, comma-separated.")
    region: str = parameter(AUTO, "Regions to price in, comma-separated. auto: as recorded.")
    month: str = parameter(AUTO, "Month of the carbon intensity: 2022-02. auto: the year's mean.")
    pue: str = parameter(AUTO, "Power usage effectiveness. auto: as recorded.")
    format: str = parameter("table", "Output.", choices=("table", "csv", "json"))


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


def resolve_synth_batch_size(config: BatchConfig) -> int:
    """Returns the number of images sampled together, and measured in one window.

    ``auto`` takes as many as fill a device, and leaves windows enough for a spread.
    """
    size = resolve_size(config.size, config.dims, config.model_size)
    num_positions = math.prod(size) // DOWNSAMPLING_FACTOR ** len(size)
    for_a_spread = math.ceil(resolve_num_samples(config) / MIN_SYNTH_WINDOWS)
    fitting = max(1, MAX_LATENT_POSITIONS // num_positions)
    default = min(MAX_SYNTH_BATCH_SIZE, fitting, for_a_spread)
    return resolve_count("batch_size", config.batch_size, default)


def resolve_num_samples(config: BatchConfig) -> int:
    """Returns the number of images to make."""
    is_judged = isinstance(config, QualityConfig)
    default = DEFAULT_NUM_JUDGED if is_judged else DEFAULT_NUM_SAMPLES
    return resolve_count("num_samples", config.num_samples, default)


def resolve_num_processes(config: ParallelConfig) -> int:
    """Returns the number of processes that a command is to be shared by."""
    return resolve_count("num_processes", config.num_processes, 1)


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
