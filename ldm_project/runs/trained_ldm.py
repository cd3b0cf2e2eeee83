"""Finds and loads the LDM that a sampling command uses; trains a tiny LDM if none fits."""

import sys
from dataclasses import replace

from ldm_project.config import PHANTOM, TINY
from ldm_project.ct.data import data_spec, open_scans
from ldm_project.diffusion.acceleration import prepared, resolve_precision
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.models import resolve_device, spec_of
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.diffusion.published_models import is_published, load_published
from ldm_project.errors import CheckpointError
from ldm_project.runs.references import (
    ModelReference,
    check_fit,
    find_model,
    ldm_name,
    model_at,
)
from ldm_project.runs.train import run_train
from ldm_project.settings import RunSettings, SamplingSettings


def trained_ldm(
    settings: SamplingSettings, run_id: str, processes: Processes = ALONE
) -> ModelReference:
    """Returns the model to sample from; if no model fits, the first process trains one.

    Args:
        settings: of the sampling.
        run_id: of the command that needs the model.
        processes: that share the sampling; all of them call this.

    Raises:
        CheckpointError: no model fits, and training one would take longer than a minute.
    """
    if not processes.is_first:
        return model_at(processes.shared(), "ldm")
    reference = find_ldm(settings) or _newly_trained(settings, run_id, processes)
    processes.shared(reference.uri)
    return reference


def find_ldm(settings: SamplingSettings) -> ModelReference | None:
    """Returns the model asked for, or the newest that fits size and data; ``None`` if none does."""
    digest = None
    if settings.model is None and settings.training.data != PHANTOM:
        digest = open_scans(data_spec(settings.training)).digest
    return find_model(settings.model, "ldm", ldm_name(settings.training), data_digest=digest)


def open_ldm(reference: ModelReference, settings: SamplingSettings) -> LdmCheckpoint:
    """Returns the networks on their device, prepared for fast sampling.

    Raises:
        CheckpointError: the checkpoint is damaged, of another size, or has another autoencoder.
    """
    if is_published(reference.checkpoint):
        ldm = load_published(
            reference.checkpoint,
            size=settings.size,
            spacing_mm=settings.training.spacing_mm,
            device=settings.device,
        )
        return _prepared(ldm, settings)
    ldm = load_ldm(
        reference.checkpoint,
        backend=settings.backend,
        device=settings.device,
        digests=reference.digests,
    )
    check_fit(ldm.spec, settings, reference)
    return _prepared(ldm, settings)


def _prepared(ldm: LdmCheckpoint, settings: SamplingSettings) -> LdmCheckpoint:
    precision = precision_of(settings)
    return replace(
        ldm, unet=prepared(ldm.unet, precision=precision, is_compiled=settings.is_compiled)
    )


def precision_of(settings: RunSettings) -> str:
    """Returns the precision that a command samples in: ``fp32`` or ``bf16``.

    Raises:
        InvalidInputError: bf16 is asked for where a CPU computes it wrongly.
    """
    device = resolve_device(settings.device)
    return resolve_precision(settings.precision, device, spec_of(settings))


def _newly_trained(settings: SamplingSettings, run_id: str, processes: Processes) -> ModelReference:
    name = ldm_name(settings.training)
    if settings.model_size != TINY:
        raise CheckpointError(
            f"No model {name!r} is registered. Train it (`mlflow run . -e train -P "
            f"model_size={settings.model_size} ...`), or use model_size={TINY}, which is trained "
            f"here in a minute."
        )
    print(f"No model {name!r} is registered: training it first.", file=sys.stderr)
    uri = run_train(settings.training, triggered_by_run_id=run_id, processes=processes.first_alone)
    return model_at(uri, "ldm")
