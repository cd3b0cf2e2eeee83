"""The vqgan command: a VQ-GAN trained, measured, logged and registered as one run."""

import tempfile
from dataclasses import replace
from pathlib import Path

import mlflow
import torch

from ldm_project.config import HELD_OUT_FRACTION, KL
from ldm_project.ct.data import batches, data_spec, open_scans
from ldm_project.ct.data_sheet import data_sheet
from ldm_project.diffusion.acceleration import resolve_vqgan_precision
from ldm_project.diffusion.checkpoints import save_vqgan
from ldm_project.diffusion.flops import vqgan_iteration_tflop
from ldm_project.diffusion.models import (
    ModelSpec,
    build_discriminator,
    build_vqgan,
    resolve_device,
    spec_of,
)
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.vqgan_training import (
    VQGAN_LEARNING_RATE_BY_DIMS,
    VqganTraining,
    train_vqgan,
)
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.data_sheets import log_sheet, show_sheet
from ldm_project.runs.dataset_inputs import CtDataset
from ldm_project.runs.interrupted_trainings import (
    StateKeeper,
    go_on,
    state_file,
    state_left_in,
    training_run,
)
from ldm_project.runs.logged_models import log_vqgan
from ldm_project.runs.references import CHECKPOINT_FOLDER, vqgan_name
from ldm_project.runs.training_previews import VqganPreview
from ldm_project.runs.training_progress import (
    Repeated,
    data_tags,
    preview_every,
    run_training,
)
from ldm_project.settings import VqganSettings


def run_vqgan(
    settings: VqganSettings,
    *,
    triggered_by_run_id: str | None = None,
    processes: Processes = ALONE,
) -> str:
    """Trains a VQ-GAN in a run of its own; returns the registered model's URI.

    Args:
        settings: of the training; for a resumed training, the settings that it was started with.
        triggered_by_run_id: run of the command that needs the VQ-GAN.
        processes: this one, which trains alone.
    """
    with command_run(
        settings,
        triggered_by_run_id=triggered_by_run_id,
        processes=processes,
    ) as run_id:
        scans = open_scans(data_spec(settings))
        training_scans, held_out = (
            part.in_patches(settings.patch_size) for part in scans.split(HELD_OUT_FRACTION)
        )
        sheet = data_sheet(scans, training_scans, patch_size=settings.patch_size)
        show_sheet(sheet)
        training = _training(settings, run_id)
        images = batches(
            training_scans, batch_size=settings.batch_size, num_skipped=training.iteration
        )
        preview = VqganPreview(training, _trained_spec(settings), held_out)
        keeper = StateKeeper(run_id, training, settings)
        with training_run(settings, run_id, data_tags(settings, scans)):
            log_sheet(sheet)
            mlflow.log_input(CtDataset(settings, scans), context="training")
            with tracked(
                settings, unit="iteration", total_units=settings.iterations, is_alone=True
            ) as tracker:
                run_training(
                    tracker,
                    train_vqgan(training, images),
                    title="KL autoencoder" if settings.autoencoder == KL else "VQ-GAN",
                    done=training.iteration,
                    iterations=settings.iterations,
                    window_size=settings.iterations_per_window,
                    repeated=[
                        Repeated(preview_every(settings), preview.log),
                        Repeated(settings.checkpoint_every, keeper.save),
                    ],
                )
            return _registered(settings, training, run_id, data_digest=scans.digest)


def _trained_spec(settings: VqganSettings) -> ModelSpec:
    """Returns the spec of the images that are trained on: patches, or whole images."""
    return replace(spec_of(settings), size=settings.patch_size or settings.size)


def _training(settings: VqganSettings, run_id: str) -> VqganTraining:
    """Returns a new training, or the interrupted training with its state restored."""
    spec, device = _trained_spec(settings), resolve_device(settings.device)
    torch.manual_seed(settings.seed)
    training = VqganTraining(
        build_vqgan(spec, backend=settings.backend).to(device),
        build_discriminator(spec),
        iterations=settings.iterations,
        learning_rate=VQGAN_LEARNING_RATE_BY_DIMS[spec.dims],
        precision=resolve_vqgan_precision(settings.precision, device, spec),
        seed=settings.seed,
    )
    go_on(training, state_left_in(state_file(run_id)), run_id)
    return training


def _registered(
    settings: VqganSettings, training: VqganTraining, run_id: str, *, data_digest: str
) -> str:
    """Logs and registers the trained VQ-GAN; returns its URI."""
    spec = spec_of(settings)
    tflop = vqgan_iteration_tflop(_trained_spec(settings), settings.batch_size)
    log_arithmetic(run_id, unit="iteration", tflop=tflop)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / CHECKPOINT_FOLDER
        save_vqgan(checkpoint, spec, training.vqgan)
        return log_vqgan(checkpoint, spec, vqgan_name(settings), data_digest=data_digest)
