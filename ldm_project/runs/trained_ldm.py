"""The LDM that a sampling command works with: found and loaded, a tiny one trained first."""

import sys
from dataclasses import fields, replace

from ldm_project.config import AUTO, PHANTOM, TINY, BatchConfig, SamplingConfig, TrainConfig
from ldm_project.ct.data import open_scans
from ldm_project.diffusion.acceleration import prepared, resolve_precision
from ldm_project.diffusion.checkpoints import LdmCheckpoint, load_ldm
from ldm_project.diffusion.models import ModelSpec, resolve_device
from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.errors import CheckpointError
from ldm_project.runs.references import ModelReference, check_size, find_model, registered_name
from ldm_project.runs.train import data_spec, run_train
from ldm_project.settings import resolve_size


def trained_ldm(
    config: SamplingConfig, run_id: str, processes: Processes = ALONE
) -> ModelReference:
    """Returns the model to sample from, trained first, by this process alone, if there is none.

    Raises:
        CheckpointError: there is none, and it would take longer than a minute to train.
    """
    reference = find_ldm(config)
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
    uri = run_train(
        _train_config(config), triggered_by_run_id=run_id, processes=processes.first_alone
    )
    trained = find_model(uri, "ldm", config, data_digest=None)
    assert trained is not None  # only 'auto' can find nothing
    return trained


def find_ldm(config: SamplingConfig) -> ModelReference | None:
    """Returns the model asked for, or the newest that fits size and data; ``None`` if none does."""
    digest = None
    if config.model == AUTO and config.data != PHANTOM:
        digest = open_scans(data_spec(config)).digest
    return find_model(config.model, "ldm", config, data_digest=digest)


def open_ldm(reference: ModelReference, config: SamplingConfig) -> LdmCheckpoint:
    """Returns the networks on their device, as they sample quickest.

    Raises:
        CheckpointError: they are damaged, or make images of another size.
    """
    ldm = load_ldm(reference.checkpoint, backend=config.backend, device=config.device)
    check_size(ldm.spec, config, reference)
    return replace(ldm, unet=prepared(ldm.unet, is_compiled=config.compile == "on"))


def precision_of(config: BatchConfig) -> str:
    """Returns the precision that a command samples in: ``fp32`` or ``bf16``.

    Raises:
        InvalidInputError: bf16 is asked for where a CPU computes it wrongly.
    """
    size = resolve_size(config.size, config.dims, config.model_size)
    spec = ModelSpec(config.dims, size, config.model_size)
    return resolve_precision(config.precision, resolve_device(config.device), spec)


def _train_config(config: SamplingConfig) -> TrainConfig:
    """Returns the training that a command sets off; its batch size is the training's own."""
    shared = {field.name: getattr(config, field.name) for field in fields(TrainConfig)}
    return TrainConfig(**(shared | {"batch_size": AUTO}))
