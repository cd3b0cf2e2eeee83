"""The parameters of every command, and their defaults, each written once.

The text ``auto`` stands for a value that depends on others (``size`` on ``dims``) or that the
machine or the environment chooses (``region``); ``settings`` turns it into a value.
"""

from dataclasses import dataclass, field
from typing import Any

from ldm_project.presets import PRESETS

AUTO = "auto"
PHANTOM = "phantom"
NUM_PHANTOMS = 80  # of data=phantom

TINY = "tiny"  # the model size that trains on a laptop
LARGE = "large"  # the model size whose volumes fill a GPU

DIFFUSION, RFLOW = "diffusion", "rflow"  # the objectives that a UNet can be trained with
ABSOLUTE, SQUARED = "absolute", "squared"  # the errors that a UNet can be trained to lower
LOSSES = (ABSOLUTE, SQUARED)  # absolute is the paper's
SAMPLERS_BY_OBJECTIVE = {
    DIFFUSION: ("ddpm", "ddim", "dpmpp", "dpmpp_sde", "unipc"),
    RFLOW: ("rflow",),
}
# The reference of the quality command, with all steps: what a model was trained for, and what is
# usual. A sampler without noise of its own keeps the errors of a small network, DDPM makes up for
# them: docs/image_quality.md.
REFERENCE_SAMPLER = {DIFFUSION: "ddpm", RFLOW: "rflow"}
# By docs/ldm_energy.md: of slices the one that is shown to be as good as the reference, of volumes
# the one whose samples are least alike, and the same for samples of few steps.
DEFAULT_SAMPLER_BY_DIMS = {2: "dpmpp_sde", 3: "unipc"}
SAMPLER_OF_FEW_STEPS = {DIFFUSION: "unipc", RFLOW: "rflow"}
SAMPLERS = tuple(name for names in SAMPLERS_BY_OBJECTIVE.values() for name in names)
PRECISIONS = (AUTO, "fp32", "bf16")
SWITCHES = (AUTO, "on", "off")
TRUTHS = ("false", "true")
# Parameters of a training that do not change the trained weights.
WHERE_IT_RUNS = ("resume", "device", "num_processes", "max_restarts", "fsdp")
BACKENDS = ("core", "generative")
VQ, KL = "vq", "kl"
AUTOENCODERS = (VQ, KL)  # vq is the paper's
ATTRIBUTIONS = (AUTO, "whole_node", "process_share", "gpu_only")
SLICE_AXES = ("axial", "coronal", "sagittal")

DEFAULT_SIZE_BY_DIMS = {2: (64, 64), 3: (32, 32, 32)}
DEFAULT_BATCH_SIZE_BY_DIMS = {2: 8, 3: 4}  # training of the UNet
DEFAULT_VQGAN_BATCH_SIZE_BY_DIMS = {2: 8, 3: 2}
DEFAULT_NUM_SAMPLES = 20
DEFAULT_NUM_JUDGED = 64  # images of each setting that quality compares
MIN_SYNTH_WINDOWS = 5  # one window per batch, so that a spread can be reported
MAX_SYNTH_BATCH_SIZE = 32  # larger batches hardly lower the cost of an image
# Of one batch: a TFLOP per step with the medium UNet, and under 2 GB between its layers.
MAX_LATENT_POSITIONS = 2**16
WINDOWS_PER_TRAINING = 10
PREVIEWS_PER_TRAINING = 4
MAX_SLICE_EPOCHS = 16  # epochs whose slices are kept as latents: one slice per volume and epoch
MIN_KEPT_SLICES = 512  # kept even of a few volumes, from which more epochs then draw
HELD_OUT_FRACTION = 0.2  # of the scans: used only for judging, never for training

COMMAND_PRESETS = (AUTO, "paper")  # what it sets: paper.py
STUDY_PRESETS = ("ci", "laptop", "paper")  # what each of them runs: study/presets.py
TASKS = ("train", "synth")
NEW = "new"

# What the study assumes, since the paper does: section 2.4 and Table 1.
PAPER_REGION, PAPER_INTENSITY_SET, PAPER_PUE = "EU27", "paper_table1", 1.55

HU_MIN, HU_MAX = -1000.0, 1000.0  # air to dense bone; networks see this window as [-1, 1]
NUM_TRAIN_TIMESTEPS = 1000  # paper, section 3.4
DOWNSAMPLING_FACTOR = 4  # image pixels per latent pixel, each axis


def parameter(default: int | str, help_text: str, *, choices: tuple[str, ...] = ()) -> Any:
    """Returns a dataclass field that also carries its help text and its allowed values."""
    return field(default=default, metadata={"help": help_text, "choices": choices})


# What parameters of several records mean.
MONTH_HELP = "Month of the carbon intensity: 2022-02. auto: the year's mean."
DEVICE_HELP = "cpu, cuda, cuda:1. auto: a GPU where there is one."
PRECISION_HELP = "Of the networks. auto: bf16 where it is quicker."
SAMPLER_HELP = "Noise scheduler."


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Parameters of every entry point that computes: its networks, its device, its CO2e price."""

    dims: int = parameter(2, "2 for slices, 3 for volumes.")
    size: str = parameter(AUTO, "Image size: 192 or 256x256x192. auto: 64 (2D), 32x32x32 (3D).")
    model_size: str = parameter("tiny", "Widths of the networks.", choices=tuple(PRESETS))
    backend: str = parameter("core", "Networks from MONAI or monai-generative.", choices=BACKENDS)
    autoencoder: str = parameter(
        VQ,
        "What latents are: of a codebook (vq, the paper's) or of a normal distribution (kl).",
        choices=AUTOENCODERS,
    )
    region: str = parameter(
        AUTO, "Where the electricity comes from. auto: MLFLOW_CARBON_REGION, else WORLD."
    )
    month: str = parameter(AUTO, MONTH_HELP)
    pue: str = parameter(AUTO, "Power usage effectiveness. auto: MLFLOW_CARBON_PUE, else 1.")
    intensity_set: str = parameter(
        AUTO, "Intensities to look in. auto: MLFLOW_CARBON_INTENSITY_SET, else ember first."
    )
    attribution: str = parameter(
        AUTO,
        "What of the node counts. auto: MLFLOW_CARBON_ATTRIBUTION, else its CPU's counter whole, "
        "of an estimated CPU the share.",
        choices=ATTRIBUTIONS,
    )
    seed: int = parameter(0, "Seed of the data, the training and the noise.")
    device: str = parameter(AUTO, DEVICE_HELP)
    precision: str = parameter(AUTO, PRECISION_HELP, choices=PRECISIONS)
    preset: str = parameter(
        AUTO,
        "paper: its batch size, epochs, size and sampler, where left at their defaults. "
        "auto: none.",
        choices=COMMAND_PRESETS,
    )


@dataclass(frozen=True, kw_only=True)
class VqganConfig(RunConfig):
    """Parameters of the training of a VQ-GAN, the autoencoder whose latents the LDM models."""

    vqgan_iterations: int = parameter(350, "Training iterations of the VQ-GAN.")
    batch_size: str = parameter(
        AUTO, "Images per training iteration. auto: 8 (2D), 4 (3D), 2 (3D, VQ-GAN)."
    )
    data: str = parameter(
        PHANTOM,
        "Folder or glob of CT (NIfTI, DICOM), msd:Task09_Spleen, tcia:LIDC-IDRI:20. "
        "phantom: made here, phantom:320 as many.",
    )
    slice_axis: str = parameter("axial", "Slices drawn from volumes in 2D.", choices=SLICE_AXES)
    spacing_mm: str = parameter(AUTO, "Resample to this spacing: 1 or 1x1x2. auto: as scanned.")
    patch_size: str = parameter(
        AUTO, "The VQ-GAN learns from random patches: 64 or 64x64x32. auto: whole images."
    )
    checkpoint_every: str = parameter(
        AUTO, "Iterations between two states that a training can go on from. auto: a tenth of all."
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(VqganConfig):
    """Parameters of the training of a diffusion UNet on the latents of a VQ-GAN."""

    iterations: int = parameter(500, "Training iterations of the diffusion UNet.")
    objective: str = parameter(
        DIFFUSION, "What the UNet learns.", choices=tuple(SAMPLERS_BY_OBJECTIVE)
    )
    loss: str = parameter(ABSOLUTE, "Error of the UNet that training lowers.", choices=LOSSES)
    gradient_checkpointing: str = parameter(
        AUTO, "Save memory by computing twice. auto: on for large volumes.", choices=SWITCHES
    )
    vqgan: str = parameter(
        AUTO, "VQ-GAN: a checkpoint folder or models:/name/version. auto: newest, else trained."
    )


@dataclass(frozen=True, kw_only=True)
class ResumableConfig(RunConfig):
    """Parameters of every entry point that can resume an interrupted training."""

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

    fsdp: str = parameter(
        AUTO,
        "Each process holds a part of the UNet. auto: where it would fill half a GPU.",
        choices=SWITCHES,
    )


@dataclass(frozen=True, kw_only=True)
class BatchConfig(RunConfig):
    """Parameters of every entry point that denoises: number of images, batch size, compiling."""

    num_samples: str = parameter(AUTO, "Images to make. auto: 20.")
    batch_size: str = parameter(AUTO, "Images sampled together. auto: by size, 32 at most.")
    compile: str = parameter(
        "off", "Compile the UNet by torch.compile, on a GPU to CUDA graphs.", choices=("off", "on")
    )


@dataclass(frozen=True, kw_only=True)
class StepsConfig(BatchConfig):
    """Parameters of every entry point that denoises with one sampler and one step count."""

    steps: int = parameter(50, "Denoising steps per image.")
    sampler: str = parameter(
        AUTO,
        f"{SAMPLER_HELP} auto: dpmpp_sde in 2D, unipc in 3D, rflow for its objective.",
        choices=(AUTO, *SAMPLERS),
    )


@dataclass(frozen=True, kw_only=True)
class EstimateConfig(StepsConfig):
    """Parameters of the ``estimate`` entry point: what ``synth`` would cost, from a short probe."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(BatchConfig, TrainConfig):
    """Parameters of every entry point that makes images with a trained model."""

    model: str = parameter(
        AUTO, "LDM: a checkpoint folder or models:/name/version. auto: newest, else trained."
    )


@dataclass(frozen=True, kw_only=True)
class SynthConfig(StepsConfig, ParallelConfig, SamplingConfig):
    """Parameters of the ``synth`` entry point: sample CT images and measure what that costs."""


@dataclass(frozen=True, kw_only=True)
class QualityConfig(SamplingConfig):
    """Parameters of ``quality``, which judges the images and the cost of samplers and step counts.

    Every setting is compared with 1000 steps, which are always sampled too.
    """

    num_samples: str = parameter(AUTO, "Images of each setting. auto: 64.")
    samplers: str = parameter("unipc,dpmpp_sde", "Noise schedulers, comma-separated.")
    step_counts: str = parameter("100,50,20", "Denoising steps per image, comma-separated.")
    features: str = parameter(
        AUTO, "ResNet to judge by: a RadImageNet (2D) or MedicalNet (3D) file. auto: the VQ-GAN."
    )


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Parameters of the ``study`` entry point: the paper's grid of trainings and syntheses.

    The axes are comma-separated; ``auto`` is what the preset says.
    """

    preset: str = parameter(
        "ci", "Grid to run: 5 minutes, an hour, a night.", choices=STUDY_PRESETS
    )
    tasks: str = parameter(AUTO, "Of train and synth, comma-separated. auto: both.")
    dims: str = parameter(AUTO, "Of 2 (slices) and 3 (volumes), comma-separated. auto: both.")
    sizes: str = parameter(
        AUTO, "Image sizes: 64,128 for slices and volumes, 256x256x192. auto: the preset's."
    )
    model_sizes: str = parameter(AUTO, "Widths of the networks. auto: the preset's.")
    steps: str = parameter(AUTO, "Denoising steps; the most for every size. auto: the preset's.")
    num_processes: str = parameter(AUTO, "Processes that train together. auto: 1,4.")
    windows: str = parameter(AUTO, "Measured windows of a cell, 2 or more. auto: the preset's.")
    warmup_windows: str = parameter(AUTO, "Windows' worth of work before them. auto: the preset's.")
    iterations_per_window: str = parameter(AUTO, "Of a training. auto: the preset's.")
    batch_size: str = parameter(AUTO, "Images of an iteration and process, or sampled. auto: 1.")
    sampler: str = parameter("ddpm", SAMPLER_HELP, choices=SAMPLERS_BY_OBJECTIVE[DIFFUSION])
    region: str = parameter(
        AUTO,
        "Where the electricity comes from. auto: MLFLOW_CARBON_REGION, else EU27, the paper's.",
    )
    month: str = parameter(AUTO, MONTH_HELP)
    pue: str = parameter(AUTO, "Power usage effectiveness. auto: MLFLOW_CARBON_PUE, else 1.55.")
    seed: int = parameter(0, "Seed of the networks, the latents and the noise.")
    device: str = parameter(AUTO, DEVICE_HELP)
    precision: str = parameter(AUTO, PRECISION_HELP, choices=PRECISIONS)
    carbon_budget_kg: str = parameter(
        AUTO,
        "CO2e that the study may emit; it stops before a cell that would exceed it. auto: any.",
    )
    resume: str = parameter(
        AUTO, "Run of the study to go on with. auto: an unfinished one of this grid. new: none."
    )
    launcher: str = parameter(
        AUTO,
        "Who runs the cells: this process (auto), a job each on this machine, or on Slurm.",
        choices=(AUTO, "local", "slurm"),
    )
    slurm: str = parameter(
        AUTO, "Of each Slurm job: partition=gpu,gpus_per_node=1,time=240 (min). auto: time=240."
    )
    max_retries: int = parameter(2, "Times that a cell is tried again whose job died.")
    dry_run: str = parameter("false", "Print the cells and their forecast.", choices=TRUTHS)


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Parameters of the ``compare`` entry point: the options of ``mlflow-carbon compare``."""

    experiment: str = parameter("ldm-ct", "Experiment to read.")
    group_by: str = parameter("steps", "Parameters that make a group, comma-separated.")
    region: str = parameter(AUTO, "Regions to price in, comma-separated. auto: as recorded.")
    month: str = parameter(AUTO, "Month of the carbon intensity: 2022-02. auto: the year's mean.")
    pue: str = parameter(AUTO, "Power usage effectiveness. auto: as recorded.")
    format: str = parameter(
        "table", "Output.", choices=("table", "csv", "json", "markdown", "latex")
    )
