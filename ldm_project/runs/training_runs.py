"""Training commands: a VQ-GAN or an LDM, measured, logged and registered as one run each."""

import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import mlflow
import torch
from torch import Tensor
from tqdm import tqdm

from ldm_project.config import (
    HELD_OUT_FRACTION,
    MAX_SLICE_EPOCHS,
    PHANTOM,
    WINDOWS_PER_TRAINING,
    TrainConfig,
    VqganConfig,
    resolve_size,
    resolve_spacing_mm,
    resolve_training_batch_size,
    size_text,
)
from ldm_project.ct.data import CtScans, DataSpec, batches, open_scans
from ldm_project.diffusion.checkpoints import load_vqgan, save_ldm, save_vqgan
from ldm_project.diffusion.flops import diffusion_iteration_tflop, vqgan_iteration_tflop
from ldm_project.diffusion.models import (
    ModelSpec,
    build_discriminator,
    build_unet,
    build_vqgan,
    resolve_device,
)
from ldm_project.diffusion.training import (
    DiffusionStep,
    VqganStep,
    encode_latents,
    train_diffusion,
    train_vqgan,
)
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.logged_models import log_ldm, log_vqgan
from ldm_project.runs.references import (
    CHECKPOINT_FOLDER,
    TAG_DATA_DIGEST,
    ModelReference,
    check_size,
    find_model,
    note_used_model,
    registered_name,
)
from mlflow_carbon.tracking.track import Tracker


def run_vqgan(config: VqganConfig, *, triggered_by_run_id: str | None = None) -> str:
    """Trains a VQ-GAN in a run of its own; returns the registered model's URI."""
    with command_run("vqgan", config, triggered_by_run_id=triggered_by_run_id) as run_id:
        scans = open_scans(data_spec(config))
        training_scans, _ = scans.split(HELD_OUT_FRACTION)
        spec = ModelSpec(config.dims, data_spec(config).size, config.model_size)
        torch.manual_seed(config.seed)
        vqgan = build_vqgan(spec, backend=config.backend).to(resolve_device(config.device))
        steps = train_vqgan(
            vqgan,
            build_discriminator(spec),
            batches(training_scans, batch_size=resolve_training_batch_size(config)),
            iterations=config.vqgan_iterations,
        )
        with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as folder:
            mlflow.set_tags(data_tags(config, scans))
            iterations = config.vqgan_iterations
            with tracked(config, unit="iteration", total_units=iterations) as tracker:
                _run_training(tracker, steps, iterations, title="VQ-GAN")
            tflop = vqgan_iteration_tflop(spec, resolve_training_batch_size(config))
            log_arithmetic(run_id, unit="iteration", tflop=tflop)
            checkpoint = Path(folder) / CHECKPOINT_FOLDER
            save_vqgan(checkpoint, spec, vqgan)
            name = registered_name("vqgan", config)
            return log_vqgan(checkpoint, spec, name, data_digest=scans.digest)


def run_train(config: TrainConfig, *, triggered_by_run_id: str | None = None) -> str:
    """Trains a diffusion UNet in a run of its own; returns the registered LDM's URI.

    Where no VQ-GAN is given, or registered for this size and data, one is trained first in
    another run.
    """
    with command_run("train", config, triggered_by_run_id=triggered_by_run_id) as run_id:
        scans = open_scans(data_spec(config))
        reference = _vqgan_for(config, scans, run_id)
        vqgan = load_vqgan(reference.checkpoint, backend=config.backend, device=config.device)
        check_size(vqgan.spec, config, reference)
        training_scans, _ = scans.split(HELD_OUT_FRACTION)
        torch.manual_seed(config.seed)
        unet = build_unet(vqgan.spec, backend=config.backend).to(resolve_device(config.device))
        with mlflow.start_run(run_id=run_id), tempfile.TemporaryDirectory() as folder:
            mlflow.set_tags(data_tags(config, scans) | {"ldm.vqgan": reference.uri})
            note_used_model(run_id, reference)
            with tracked(config, unit="iteration", total_units=config.iterations) as tracker:
                latents = encode_latents(vqgan.vqgan, _images_to_encode(config, training_scans))
                steps = train_diffusion(
                    unet,
                    latents,
                    iterations=config.iterations,
                    batch_size=resolve_training_batch_size(config),
                    seed=config.seed,
                )
                _run_training(tracker, steps, config.iterations, title="diffusion UNet")
            tflop = diffusion_iteration_tflop(vqgan.spec, resolve_training_batch_size(config))
            log_arithmetic(run_id, unit="iteration", tflop=tflop)
            checkpoint = Path(folder) / CHECKPOINT_FOLDER
            save_ldm(checkpoint, vqgan.spec, unet, vqgan.vqgan, latents.scale)
            return log_ldm(
                checkpoint,
                vqgan.spec,
                registered_name("ldm", config),
                data_digest=scans.digest,
            )


def data_spec(config: VqganConfig) -> DataSpec:
    """Returns what CT a command reads, and how."""
    return DataSpec(
        source=config.data,
        size=resolve_size(config.size, config.dims, config.model_size),
        slice_axis=config.slice_axis,
        spacing_mm=resolve_spacing_mm(config.spacing_mm),
        seed=config.seed,
    )


def data_tags(config: VqganConfig, scans: CtScans) -> dict[str, str]:
    """Returns the run tags that say what was read; the folder's name stays out of them."""
    return {
        "ldm.size": size_text(data_spec(config).size),
        "ldm.data": PHANTOM if scans.is_phantom else "files",
        TAG_DATA_DIGEST: scans.digest,
        "ldm.num_scans": str(scans.num_scans),
        "ldm.num_skipped_files": str(scans.num_skipped),
    }


def _images_to_encode(config: TrainConfig, scans: CtScans) -> Iterator[Tensor]:
    """Returns the batches whose latents are trained on: every volume, or slices of some epochs."""
    batch_size = resolve_training_batch_size(config)
    num_needed = config.iterations * batch_size
    num_epochs = 1
    if config.dims == 2:
        num_epochs = min(MAX_SLICE_EPOCHS, math.ceil(num_needed / scans.num_scans))
    num_batches = math.ceil(num_epochs * scans.num_scans / batch_size)
    return islice(batches(scans, batch_size=batch_size), num_batches)


def _run_training(
    tracker: Tracker,
    steps: Iterator[VqganStep] | Iterator[DiffusionStep],
    iterations: int,
    *,
    title: str,
) -> None:
    """Runs a training loop in windows of equal length; logs its losses at each window's end."""
    window_size = max(1, iterations // WINDOWS_PER_TRAINING)
    windows: Iterator[VqganStep | DiffusionStep]
    windows = tracker.windows(steps, units_per_window=window_size)
    for step in tqdm(windows, total=iterations, desc=title, unit="it", mininterval=0.5):
        if step.iteration % window_size == 0:
            losses = {name: loss for name, loss in asdict(step).items() if name != "iteration"}
            mlflow.log_metrics(losses, step=step.iteration)


def _vqgan_for(config: TrainConfig, scans: CtScans, run_id: str) -> ModelReference:
    digest = None if scans.is_phantom else scans.digest
    reference = find_model(config.vqgan, "vqgan", config, data_digest=digest)
    if reference is not None:
        return reference
    name = registered_name("vqgan", config)
    print(f"No model {name!r} is registered: training it first.", file=sys.stderr)
    vqgan_config = VqganConfig(
        **{key: value for key, value in asdict(config).items() if hasattr(VqganConfig, key)}
    )
    uri = run_vqgan(vqgan_config, triggered_by_run_id=run_id)
    trained = find_model(uri, "vqgan", config, data_digest=None)
    assert trained is not None  # only 'auto' can find nothing
    return trained
