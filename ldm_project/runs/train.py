"""Training commands: a VQ-GAN or an LDM, measured, logged and registered as one run each."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import mlflow
import torch

from ldm_project.config import (
    AUTO,
    HELD_OUT_FRACTION,
    PHANTOM,
    PREVIEWS_PER_TRAINING,
    TrainConfig,
    TrainRunConfig,
    VqganConfig,
)
from ldm_project.ct.data import CtScans, DataSpec, batches, open_scans
from ldm_project.diffusion.acceleration import (
    checkpoint_gradients,
    limit_threads,
    resolve_precision,
)
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_vqgan, save_ldm, save_vqgan
from ldm_project.diffusion.diffusion_training import (
    DiffusionStep,
    DiffusionTraining,
    train_diffusion,
)
from ldm_project.diffusion.flops import (
    diffusion_iteration_tflop,
    vqgan_iteration_tflop,
    weights_of,
)
from ldm_project.diffusion.latents import Latents, open_latents
from ldm_project.diffusion.models import (
    ModelSpec,
    build_discriminator,
    build_unet,
    build_vqgan,
    resolve_device,
)
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.sharding import fits
from ldm_project.diffusion.vqgan_training import VqganTraining, train_vqgan
from ldm_project.runs.arithmetic_metrics import log_arithmetic
from ldm_project.runs.command_runs import command_run, tracked
from ldm_project.runs.interrupted_trainings import (
    StateKeeper,
    go_on,
    kept_until_registered,
    state_file,
    state_left_in,
)
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
from ldm_project.runs.training_latents import encoded_file
from ldm_project.runs.training_previews import LdmPreview, VqganPreview
from ldm_project.runs.training_progress import Repeated, resolve_window_size, run_training
from ldm_project.settings import (
    checkpoints_gradients,
    resolve_checkpoint_every,
    resolve_size,
    resolve_spacing_mm,
    resolve_training_batch_size,
    size_text,
)


@dataclass(frozen=True)
class SharedTraining:
    """What each process needs to know of a training that several of them share."""

    config: TrainConfig
    run_id: str
    spec: ModelSpec
    is_sharded: bool


def run_vqgan(
    config: VqganConfig,
    *,
    triggered_by_run_id: str | None = None,
    resumed_run_id: str | None = None,
    processes: Processes = ALONE,
) -> str:
    """Trains a VQ-GAN in a run of its own; returns the registered model's URI.

    Args:
        config: of the training; where one is resumed, as it had been started.
        triggered_by_run_id: run of the command that needs the VQ-GAN.
        resumed_run_id: run whose interrupted training goes on.
        processes: this one, which trains alone.
    """
    with command_run(
        "vqgan",
        config,
        triggered_by_run_id=triggered_by_run_id,
        resumed_run_id=resumed_run_id,
        processes=processes,
    ) as run_id:
        scans = open_scans(data_spec(config))
        training_scans, held_out = scans.split(HELD_OUT_FRACTION)
        spec = ModelSpec(config.dims, data_spec(config).size, config.model_size)
        device = resolve_device(config.device)
        batch_size, iterations = resolve_training_batch_size(config), config.vqgan_iterations
        torch.manual_seed(config.seed)
        training = VqganTraining(
            build_vqgan(spec, backend=config.backend).to(device),
            build_discriminator(spec),
            iterations=iterations,
            precision=resolve_precision(config.precision, device, spec),
        )
        go_on(training, state_left_in(state_file(run_id)), run_id)
        images = batches(training_scans, batch_size=batch_size, num_skipped=training.iteration)
        with (
            mlflow.start_run(run_id=run_id),
            tempfile.TemporaryDirectory() as folder,
            kept_until_registered("vqgan", run_id),
        ):
            mlflow.set_tags(data_tags(config, scans))
            with tracked(
                config, unit="iteration", total_units=iterations, is_alone=True
            ) as tracker:
                run_training(
                    tracker,
                    train_vqgan(training, images),
                    title="VQ-GAN",
                    done=training.iteration,
                    iterations=iterations,
                    repeated=_repeated(
                        config,
                        iterations,
                        preview=VqganPreview(training, spec, held_out).log,
                        state=StateKeeper(run_id, training, config),
                    ),
                )
            log_arithmetic(run_id, unit="iteration", tflop=vqgan_iteration_tflop(spec, batch_size))
            checkpoint = Path(folder) / CHECKPOINT_FOLDER
            save_vqgan(checkpoint, spec, training.vqgan)
            name = registered_name("vqgan", config)
            return log_vqgan(checkpoint, spec, name, data_digest=scans.digest)


def run_train(
    config: TrainConfig,
    *,
    triggered_by_run_id: str | None = None,
    resumed_run_id: str | None = None,
    processes: Processes = ALONE,
) -> str:
    """Trains a diffusion UNet in a run of its own; returns the registered LDM's URI.

    Where no VQ-GAN is given, or registered for this size and data, one is trained first in
    another run.

    Args:
        config: of the training; where one is resumed, as it had been started.
        triggered_by_run_id: run of the command that needs the LDM.
        resumed_run_id: run whose interrupted training goes on.
        processes: that share each batch; this is the first of them, the others assist.
    """
    with command_run(
        "train",
        config,
        triggered_by_run_id=triggered_by_run_id,
        resumed_run_id=resumed_run_id,
        processes=processes,
    ) as run_id:
        scans = open_scans(data_spec(config))
        reference = _vqgan_for(config, scans, run_id, processes)
        vqgan = load_vqgan(reference.checkpoint, backend=config.backend, device=config.device)
        spec = vqgan.spec
        check_size(spec, config, reference)
        training_scans, held_out = scans.split(HELD_OUT_FRACTION)
        batch_size, iterations = resolve_training_batch_size(config), config.iterations
        is_sharded = _is_sharded(config, spec, processes)
        shared = SharedTraining(config, run_id, spec, is_sharded)
        training = _started(processes.shared(shared), processes)
        with (
            mlflow.start_run(run_id=run_id),
            tempfile.TemporaryDirectory() as folder,
            kept_until_registered("train", run_id),
        ):
            mlflow.set_tags(
                data_tags(config, scans)
                | {
                    "ldm.vqgan": reference.uri,
                    "ldm.num_processes": str(processes.count),  # a resumed run's may be new
                    "ldm.fsdp": "on" if is_sharded else "off",
                }
            )
            note_used_model(run_id, reference)
            processes.meet()
            is_alone = processes.count == 1
            with tracked(
                config, unit="iteration", total_units=iterations, is_alone=is_alone
            ) as tracker:
                file = processes.shared(encoded_file(config, vqgan, training_scans))
                latents = processes.shared_file(file, open_latents)
                ldm = LdmCheckpoint(
                    spec, training.averaged_unet, vqgan.vqgan, latents.scale, config.objective
                )
                started_with = replace(config, vqgan=reference.uri)
                run_training(
                    tracker,
                    _steps(training, config, latents, processes),
                    title="diffusion UNet",
                    done=training.iteration,
                    iterations=iterations,
                    repeated=_repeated(
                        config,
                        iterations,
                        preview=LdmPreview(training, ldm, held_out, config.seed).log,
                        state=StateKeeper(run_id, training, started_with),
                    ),
                )
            log_arithmetic(
                run_id, unit="iteration", tflop=diffusion_iteration_tflop(spec, batch_size)
            )
            checkpoint = Path(folder) / CHECKPOINT_FOLDER
            save_ldm(checkpoint, ldm)
            return log_ldm(
                checkpoint,
                spec,
                registered_name("ldm", config),
                objective=config.objective,
                data_digest=scans.digest,
            )


def assist_train(processes: Processes) -> None:
    """Does a further process's share of what the first one runs as ``run_train``."""
    shared: SharedTraining = processes.shared()
    config, iterations = shared.config, shared.config.iterations
    limit_threads(config.model_size)
    training = _started(shared, processes)
    processes.meet()
    with tracked(config, unit="iteration", total_units=iterations, run_id=shared.run_id) as tracker:
        latents = processes.shared_file(processes.shared(), open_latents)
        steps = _steps(training, config, latents, processes)
        for _ in tracker.windows(steps, units_per_window=resolve_window_size(iterations)):
            pass  # the first process logs them


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


def _is_sharded(config: TrainConfig, spec: ModelSpec, processes: Processes) -> bool:
    """Returns whether each process is to hold a part of the UNet only."""
    if processes.count == 1 or not isinstance(config, TrainRunConfig):
        return False
    if config.fsdp != AUTO:
        return config.fsdp == "on"
    return not fits(weights_of(spec).unet, resolve_device(config.device))


def _started(shared: SharedTraining, processes: Processes) -> DiffusionTraining:
    """Returns a new training, or an interrupted one where it was left."""
    config = shared.config
    device = resolve_device(config.device)
    torch.manual_seed(config.seed)
    unet = build_unet(shared.spec, backend=config.backend)
    training = DiffusionTraining(
        unet if shared.is_sharded else unet.to(device),
        iterations=config.iterations,
        objective=config.objective,
        precision=resolve_precision(config.precision, device, shared.spec),
    )
    if shared.is_sharded:
        training.shard(device, is_first=processes.is_first)
    state = processes.shared_file(state_file(shared.run_id), state_left_in)
    go_on(training, state, shared.run_id)
    if checkpoints_gradients(config):
        checkpoint_gradients(training.unet)
    return training


def _steps(
    training: DiffusionTraining, config: TrainConfig, latents: Latents, processes: Processes
) -> Iterator[DiffusionStep]:
    return train_diffusion(
        training,
        latents,
        batch_size=resolve_training_batch_size(config),
        seed=config.seed,
        processes=processes,
        stops_every=_periods(config, config.iterations),
    )


def _repeated(
    config: VqganConfig,
    iterations: int,
    *,
    preview: Callable[[int], None],
    state: StateKeeper,
) -> list[Repeated]:
    """Returns what a training does on the way: pictures, and states to go on from."""
    preview_every, state_every = _periods(config, iterations)
    return [Repeated(preview_every, preview), Repeated(state_every, state.save)]


def _periods(config: VqganConfig, iterations: int) -> tuple[int, int]:
    """Returns the numbers of iterations between two previews, and between two states."""
    preview_every = max(1, iterations // PREVIEWS_PER_TRAINING)
    return preview_every, resolve_checkpoint_every(config, iterations)


def _vqgan_for(
    config: TrainConfig, scans: CtScans, run_id: str, processes: Processes
) -> ModelReference:
    digest = None if scans.is_phantom else scans.digest
    reference = find_model(config.vqgan, "vqgan", config, data_digest=digest)
    if reference is not None:
        return reference
    name = registered_name("vqgan", config)
    print(f"No model {name!r} is registered: training it first.", file=sys.stderr)
    vqgan_config = VqganConfig(
        **{key: value for key, value in asdict(config).items() if hasattr(VqganConfig, key)}
    )
    uri = run_vqgan(vqgan_config, triggered_by_run_id=run_id, processes=processes.first_alone)
    trained = find_model(uri, "vqgan", config, data_digest=None)
    assert trained is not None  # only 'auto' can find nothing
    return trained
