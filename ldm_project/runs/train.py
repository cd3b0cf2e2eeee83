"""The train command: a diffusion UNet trained, measured, logged and registered as one run.

Every process that shares a training runs the same function, and all processes exchange values in
the same order; ``is_first`` guards what only the first process has or writes.
"""

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import mlflow
import torch

from ldm_project.config import HELD_OUT_FRACTION, PHANTOM
from ldm_project.ct.data import CtScans, data_spec, open_scans
from ldm_project.ct.data_sheet import DataSheet, data_sheet
from ldm_project.diffusion.acceleration import checkpoint_gradients, resolve_precision
from ldm_project.diffusion.checkpoints import (
    LdmCheckpoint,
    VqganCheckpoint,
    load_vqgan,
    save_ldm,
)
from ldm_project.diffusion.diffusion_training import DiffusionTraining, train_diffusion
from ldm_project.diffusion.flops import diffusion_iteration_tflop, weights_of
from ldm_project.diffusion.latents import Latents, open_latents
from ldm_project.diffusion.models import ModelSpec, build_unet, resolve_device
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.sharding import fits
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
from ldm_project.runs.logged_models import log_ldm
from ldm_project.runs.references import (
    CHECKPOINT_FOLDER,
    ModelReference,
    check_fit,
    find_model,
    ldm_name,
    model_at,
    note_used_model,
    vqgan_name,
)
from ldm_project.runs.training_latents import encoded_file
from ldm_project.runs.training_previews import LdmPreview
from ldm_project.runs.training_progress import (
    Repeated,
    data_tags,
    preview_every,
    run_training,
)
from ldm_project.runs.vqgan import run_vqgan
from ldm_project.settings import TrainSettings


@dataclass(frozen=True)
class Shape:
    """The shape of the UNet, and whether each process holds a part of it only."""

    spec: ModelSpec
    is_sharded: bool


@dataclass(frozen=True)
class Materials:
    """The scans, and the VQ-GAN that encodes them; only the first process holds them."""

    scans: CtScans
    sheet: DataSheet
    training: CtScans
    held_out: CtScans
    reference: ModelReference
    vqgan: VqganCheckpoint

    def ldm(self, training: DiffusionTraining, latents: Latents) -> LdmCheckpoint:
        """Returns the UNet in training with the VQ-GAN of its latents."""
        return LdmCheckpoint(
            self.vqgan.spec,
            training.averaged_unet,
            self.vqgan.vqgan,
            latents.scale,
            training.objective,
        )


def run_train(
    settings: TrainSettings,
    *,
    triggered_by_run_id: str | None = None,
    processes: Processes = ALONE,
) -> str:
    """Trains a diffusion UNet in a run of its own; returns the registered LDM's URI.

    If no VQ-GAN is given or registered for this size and data, the first process trains a VQ-GAN
    in another run while the other processes wait.

    Args:
        settings: of the training; for a resumed training, the settings that it was started with.
        triggered_by_run_id: run of the command that needs the LDM.
        processes: that share each batch; all of them call this.
    """
    with command_run(
        settings,
        triggered_by_run_id=triggered_by_run_id,
        processes=processes,
    ) as run_id:
        materials = _materials(settings, run_id, processes) if processes.is_first else None
        shape = processes.shared(materials and _shape(settings, materials, processes))
        training = _training(settings, shape, run_id, processes)
        tags = _tags(settings, materials, shape, processes) if materials else {}
        with training_run(settings, run_id, tags, is_first=processes.is_first):
            if materials:
                note_used_model(run_id, materials.reference)
                log_sheet(materials.sheet)
                mlflow.log_input(CtDataset(settings, materials.scans), context="training")
            latents = _trained(settings, training, materials, run_id, processes)
            uri = _registered(settings, training, materials, latents, run_id) if materials else ""
        return processes.shared(uri)


def _materials(settings: TrainSettings, run_id: str, processes: Processes) -> Materials:
    """Returns the scans and the VQ-GAN; trains a VQ-GAN first if none is registered.

    Raises:
        CheckpointError: the VQ-GAN is of another size or kind.
    """
    scans = open_scans(data_spec(settings))
    reference = _vqgan_for(settings, scans, run_id, processes)
    vqgan = load_vqgan(
        reference.checkpoint,
        backend=settings.backend,
        device=settings.device,
        digests=reference.digests,
    )
    check_fit(vqgan.spec, settings, reference)
    training, held_out = scans.split(HELD_OUT_FRACTION)
    sheet = data_sheet(scans, training)
    show_sheet(sheet)
    return Materials(scans, sheet, training, held_out, reference, vqgan)


def _vqgan_for(
    settings: TrainSettings, scans: CtScans, run_id: str, processes: Processes
) -> ModelReference:
    digest, name = None if settings.data == PHANTOM else scans.digest, vqgan_name(settings)
    reference = find_model(settings.vqgan, "vqgan", name, data_digest=digest)
    if reference is not None:
        return reference
    print(f"No model {name!r} is registered: training it first.", file=sys.stderr)
    uri = run_vqgan(
        settings.vqgan_training, triggered_by_run_id=run_id, processes=processes.first_alone
    )
    return model_at(uri, "vqgan")


def _shape(settings: TrainSettings, materials: Materials, processes: Processes) -> Shape:
    """Returns the shape of the UNet, and decides whether each process holds a part of it only."""
    spec, is_sharded = materials.vqgan.spec, settings.is_sharded
    if processes.count == 1:
        is_sharded = False
    elif is_sharded is None:
        is_sharded = not fits(weights_of(spec).unet, resolve_device(settings.device))
    return Shape(spec, is_sharded)


def _training(
    settings: TrainSettings, shape: Shape, run_id: str, processes: Processes
) -> DiffusionTraining:
    """Returns a new training, or the interrupted training with its state restored."""
    device = resolve_device(settings.device)
    torch.manual_seed(settings.seed)
    unet = build_unet(shape.spec, backend=settings.backend)
    training = DiffusionTraining(
        unet if shape.is_sharded else unet.to(device),
        iterations=settings.iterations,
        objective=settings.objective,
        loss=settings.loss,
        precision=resolve_precision(settings.precision, device, shape.spec),
    )
    if shape.is_sharded:
        training.shard(device, is_first=processes.is_first)
    state = processes.shared_file(state_file(run_id), state_left_in)
    go_on(training, state, run_id)
    if settings.checkpoints_gradients:
        checkpoint_gradients(training.unet)
    return training


def _tags(
    settings: TrainSettings, materials: Materials, shape: Shape, processes: Processes
) -> dict[str, str]:
    return data_tags(settings, materials.scans) | {
        "ldm.vqgan": materials.reference.uri,
        "ldm.num_processes": str(processes.count),  # a resumed run's may be new
        "ldm.fsdp": "on" if shape.is_sharded else "off",
    }


def _trained(
    settings: TrainSettings,
    training: DiffusionTraining,
    materials: Materials | None,
    run_id: str,
    processes: Processes,
) -> Latents:
    """Trains to the last iteration, with measurement; returns the latents of the training set."""
    processes.meet()  # before the first window, which would hold the waiting
    with tracked(
        settings,
        unit="iteration",
        total_units=settings.iterations,
        run_id=run_id,
        is_alone=processes.count == 1,
    ) as tracker:
        file = materials and encoded_file(settings, materials.vqgan, materials.training)
        latents = processes.shared_file(processes.shared(file), open_latents)
        repeated = _repeated(settings, training, materials, latents, run_id) if materials else []
        run_training(
            tracker,
            train_diffusion(
                training,
                latents,
                batch_size=settings.batch_size,
                seed=settings.seed,
                processes=processes,
                stops_every=(preview_every(settings), settings.checkpoint_every),
            ),
            title="diffusion UNet",
            done=training.iteration,
            iterations=settings.iterations,
            window_size=settings.iterations_per_window,
            repeated=repeated,
            is_first=processes.is_first,
        )
    return latents


def _repeated(
    settings: TrainSettings,
    training: DiffusionTraining,
    materials: Materials,
    latents: Latents,
    run_id: str,
) -> list[Repeated]:
    """Returns the first process's repeated actions: logging previews and saving states."""
    ldm = materials.ldm(training, latents)
    preview = LdmPreview(training, ldm, materials.held_out, settings.seed)
    # A training that goes on does so with the VQ-GAN that it began with.
    started_with = replace(settings.config, vqgan=materials.reference.uri)
    keeper = StateKeeper(run_id, training, replace(settings, config=started_with))
    return [
        Repeated(preview_every(settings), preview.log),
        Repeated(settings.checkpoint_every, keeper.save),
    ]


def _registered(
    settings: TrainSettings,
    training: DiffusionTraining,
    materials: Materials,
    latents: Latents,
    run_id: str,
) -> str:
    """Logs and registers the trained LDM; returns its URI."""
    ldm = materials.ldm(training, latents)
    tflop = diffusion_iteration_tflop(ldm.spec, settings.batch_size)
    log_arithmetic(run_id, unit="iteration", tflop=tflop)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / CHECKPOINT_FOLDER
        save_ldm(checkpoint, ldm)
        return log_ldm(
            checkpoint,
            ldm.spec,
            ldm_name(settings),
            objective=settings.objective,
            data_digest=materials.scans.digest,
        )
