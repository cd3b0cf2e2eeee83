"""The settings of each command: one frozen record with the parsed value of each parameter.

``resolution.settings_of`` makes the record. A choice that only the machine can make (the device,
the precision) stays ``None``. The texts are kept for logging only, and never parsed again.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from ldm_project.config import (
    RunConfig,
    TrainConfig,
)
from ldm_project.parsing import (
    size_text,
)


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of every command: its networks, its device, and the price of its energy.

    Attributes:
        config: the texts behind the values: logged with the run, and kept with a training's state.
        size: of an image in pixels or voxels, one number per axis.
        autoencoder: ``vq`` or ``kl``.
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
    autoencoder: str
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
        iterations_per_window: that are measured together.
        batch_size: images per iteration.
        data: where the CT comes from: ``phantom``, a folder, a glob or a public data set.
        slice_axis: of the slices that 2D training draws from volumes.
        spacing_mm: voxel spacing to resample scans to; ``None`` keeps each scan's own.
        checkpoint_every: iterations between two saved states, from which the training can resume.
    """

    iterations: int
    iterations_per_window: int
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
        loss: ``absolute`` or ``squared``, the error that training lowers.
        checkpoints_gradients: whether blocks are computed twice to save memory.
        vqgan: checkpoint folder or URI; ``None`` takes the newest that fits, else trains one.
        vqgan_training: settings for training the VQ-GAN, if needed.
        is_sharded: whether each process holds a part of the UNet; ``None`` shards it if its
            training would fill half a GPU.
    """

    command: ClassVar[str] = "train"

    config: TrainConfig
    objective: str
    loss: str
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
    """Settings of a prediction of the cost of ``synth``.

    ``training_batch_size`` and ``checkpoints_gradients`` are those of ``train``, whose memory is
    foretold beside.
    """

    command: ClassVar[str] = "estimate"

    sampler: str
    steps: int
    training_batch_size: int
    checkpoints_gradients: bool

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        return {**super().resolved(), "sampler": self.sampler}


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

    def resolved(self) -> dict[str, int | str]:
        """Returns each parameter by name, with the value that ``auto`` has where that is known."""
        return {**super().resolved(), "sampler": self.sampler}


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
