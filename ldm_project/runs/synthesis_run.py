"""The synthesis command: CT images sampled, measured per image and saved as one run."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Never

import mlflow
import torch
from torch import Tensor
from tqdm import tqdm

from ldm_project.config import (
    AUTO,
    DIFFUSION,
    PHANTOM,
    TINY,
    SynthConfig,
    TrainConfig,
    resolve_num_samples,
    resolve_synth_batch_size,
    size_text,
)
from ldm_project.ct.data import open_scans
from ldm_project.ct.hounsfield import hu_from_network
from ldm_project.ct.images import write_nifti, write_png, write_preview
from ldm_project.diffusion.acceleration import prepared, resolve_precision
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.flops import cost_of
from ldm_project.diffusion.models import resolve_device
from ldm_project.diffusion.noise_schedulers import check_sampler
from ldm_project.diffusion.sampling import decode_samples, denoise, initial_noise
from ldm_project.errors import CheckpointError
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.references import (
    ModelReference,
    check_size,
    find_model,
    note_used_model,
    registered_name,
)
from ldm_project.runs.training_runs import data_spec, run_train
from mlflow_carbon.tracking.track import Tracker

MAX_PREVIEW_IMAGES = 12


@dataclass(frozen=True)
class SampledBatch:
    """Images of one window, ``(B, 1, *S)`` in HU, and the index of the first."""

    first_index: int
    images_hu: Tensor


def run_synth(config: SynthConfig) -> str:
    """Samples CT images in a run of its own; returns the run's id.

    Where no LDM is given, or registered for this size and data, a tiny one is trained first, in
    runs that have ended before the meter of this one starts.
    """
    with command_run("synth", config) as run_id:
        reference = _ldm_for(config, run_id)
        ldm = load_ldm(reference.checkpoint, backend=config.backend, device=config.device)
        check_size(ldm.spec, config, reference)
        check_sampler(config.sampler, DIFFUSION)  # what every checkpoint is trained as
        ldm = replace(ldm, unet=prepared(ldm.unet, is_compiled=config.compile == "on"))
        with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as folder:
            mlflow.set_tags(_tags(config, reference))
            note_used_model(run_id, reference)
            num_samples = resolve_num_samples(config)
            with tracked(config, unit="sample", total_units=num_samples) as tracker:
                sampled = _sample(tracker, ldm, config)
                _save(Path(folder), sampled)
            log_arithmetic(
                run_id, unit="sample", tflop=cost_of(ldm.spec).sample_tflop(config.steps)
            )
            mlflow.log_artifacts(folder)
        return run_id


def _sample(tracker: Tracker, ldm: LdmCheckpoint, config: SynthConfig) -> Iterator[SampledBatch]:
    """Yields batch after batch, each denoised and decoded inside a window of its own."""
    num_samples, batch_size = resolve_num_samples(config), resolve_synth_batch_size(config)
    with tqdm(total=num_samples * config.steps, desc="synthesis", unit="step") as progress:
        for first_index in range(0, num_samples, batch_size):
            indices = range(first_index, min(first_index + batch_size, num_samples))
            with tracker.window(num_units=len(indices)):
                images_hu = _sample_batch(ldm, config, indices, progress)
            yield SampledBatch(first_index, images_hu)


def _sample_batch(
    ldm: LdmCheckpoint, config: SynthConfig, indices: Sequence[int], progress: "tqdm[Never]"
) -> Tensor:
    noise = initial_noise(ldm.spec, indices, seed=config.seed)
    latents = noise
    precision = _precision(config)
    for step in denoise(
        ldm.unet, noise, sampler=config.sampler, steps=config.steps, precision=precision
    ):
        latents = step.latents
        progress.update(len(indices))
    images = decode_samples(ldm.vqgan, latents, ldm.latent_scale)
    return hu_from_network(images).cpu()


def _save(folder: Path, sampled: Iterator[SampledBatch]) -> None:
    """Writes every image as NIfTI, 2D ones as PNG too, and a preview of the first ones."""
    samples = folder / "samples"
    samples.mkdir()
    previewed: list[Tensor] = []
    for batch in sampled:
        for index, image_hu in enumerate(batch.images_hu, start=batch.first_index):
            write_nifti(samples / f"{index:05d}.nii.gz", image_hu)
            if image_hu.ndim == 3:  # (1, H, W)
                write_png(samples / f"{index:05d}.png", image_hu)
            if len(previewed) < MAX_PREVIEW_IMAGES:
                previewed.append(image_hu)
    write_preview(folder / "preview.png", torch.stack(previewed))


def _tags(config: SynthConfig, reference: ModelReference) -> dict[str, str]:
    """Returns what the parameters that were left open became."""
    return {
        "ldm.size": size_text(data_spec(config).size),
        "ldm.model": reference.uri,
        "ldm.num_samples": str(resolve_num_samples(config)),
        "ldm.batch_size": str(resolve_synth_batch_size(config)),
        "ldm.precision": _precision(config),
    }


def _precision(config: SynthConfig) -> str:
    return resolve_precision(config.precision, resolve_device(config.device), config.model_size)


def _ldm_for(config: SynthConfig, run_id: str) -> ModelReference:
    """Returns the model to sample from, trained first where there is none."""
    digest = None
    if config.model == AUTO and config.data != PHANTOM:
        digest = open_scans(data_spec(config)).digest
    reference = find_model(config.model, "ldm", config, data_digest=digest)
    if reference is not None:
        return reference
    name = registered_name("ldm", config)
    if config.model_size != TINY:
        raise CheckpointError(
            f"No model {name!r} is registered. Train it (`mlflow run . -e train -P "
            f"model_size={config.model_size} ...`), or use model_size={TINY}, which is trained "
            f"here in a minute."
        )
    print(f"No model {name!r} is registered: training it first.", file=sys.stderr)
    uri = run_train(_train_config(config), triggered_by_run_id=run_id)
    trained = find_model(uri, "ldm", config, data_digest=None)
    assert trained is not None  # only 'auto' can find nothing
    return trained


def _train_config(config: SynthConfig) -> TrainConfig:
    """Returns the training that a synthesis sets off; its batch size is the training's own."""
    shared = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    return TrainConfig(**(shared | {"batch_size": AUTO}))
