"""The MLflow run that a command writes to, and how every command is measured."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.utils.mlflow_tags import MLFLOW_PROJECT_ENTRY_POINT, MLFLOW_RUN_NAME

from ldm_project.diffusion.processes import ALONE, Processes
from ldm_project.runs.run_links import link_runs
from ldm_project.runs.run_names import is_chosen, run_name
from ldm_project.settings import RunSettings, TrainingSettings
from mlflow_carbon.contract import keys
from mlflow_carbon.metering.meter_settings import AUTO, MeterSettings
from mlflow_carbon.tracking.mlflow_seams import current_experiment_id, with_context_tags
from mlflow_carbon.tracking.track import Tracker, track

TAG_RESUMED_RUN_ID = "ldm.resumed_run_id"
RESOLVED = "resolved."  # prefix of a parameter that holds what `auto` became


@contextmanager
def command_run(
    settings: RunSettings,
    *,
    name: str | None = None,
    triggered_by_run_id: str | None = None,
    processes: Processes = ALONE,
) -> Iterator[str]:
    """Gives the id of the run that the block writes to, created but not yet active.

    If several processes share the command, all of them must enter this context: the first one
    finds or creates the run, and all get its id.

    ``mlflow run`` creates a run and logs its parameters, and the command that it starts uses that
    run. A training that another command starts gets its own top-level run. A resumed training
    continues in its old run; if ``mlflow run`` created a run for the resuming, a tag of the new run
    names the old one. Processes that a launcher restarts continue in their run. If the block fails,
    the run is marked as failed.

    Args:
        settings: of the command.
        name: of the run; ``None`` takes one that tells it apart.
        triggered_by_run_id: run of the command that started this one.
        processes: that share the command.
    """
    if not processes.is_first:
        yield processes.shared()
        return
    name, note = name or run_name(settings), f"run of {settings.command}"
    adopted_run_id = None if triggered_by_run_id else os.environ.pop(MLFLOW_RUN_ID.name, None)
    known_run_id = settings.resumed_run_id or processes.noted(note) or adopted_run_id
    run_id = known_run_id or _create_run(name, settings, triggered_by_run_id)
    processes.note(note, run_id)
    if adopted_run_id and adopted_run_id != run_id:
        MlflowClient().set_tag(adopted_run_id, MLFLOW_RUN_NAME, f"resume {settings.command}")
        MlflowClient().set_tag(adopted_run_id, TAG_RESUMED_RUN_ID, run_id)
    elif adopted_run_id:
        _complete_adopted(run_id, name, settings)
    try:
        yield processes.shared(run_id)
    except BaseException:  # Ctrl-C too: no run may stay in RUNNING
        MlflowClient().set_terminated(run_id, "FAILED")
        raise


def tracked(
    settings: RunSettings,
    *,
    unit: str,
    total_units: int,
    run_id: str | None = None,
    is_alone: bool = False,
) -> AbstractContextManager[Tracker]:
    """Returns the context that measures a block.

    Args:
        settings: of the command.
        unit: what one unit of the block is.
        total_units: that the block will do.
        run_id: the run to write to; needed in a process without an active run.
        is_alone: whether this process does the whole block, even if a launcher started others.
    """
    return track(
        run_id=None if mlflow.active_run() else run_id,
        is_alone=is_alone,
        unit=unit,
        region=settings.region,
        month=settings.month,
        pue=settings.pue,
        intensity_set=settings.intensity_set,
        settings=MeterSettings(attribution=settings.attribution or AUTO),
        total_units=total_units,
    )


def resolved_params(settings: RunSettings, given: Mapping[str, object]) -> dict[str, str]:
    """Returns a parameter ``resolved.NAME`` for each that has become another than was given.

    They were left at ``auto``, or a preset sets them.
    """
    return {
        f"{RESOLVED}{name}": str(value)
        for name, value in settings.resolved().items()
        if str(given.get(name)) != str(value)
    }


def _create_run(name: str, settings: RunSettings, triggered_by_run_id: str | None) -> str:
    # as `mlflow run` tags its own: it tells a VQ-GAN's training from a UNet's
    tags = {MLFLOW_RUN_NAME: name, MLFLOW_PROJECT_ENTRY_POINT: settings.command}
    if triggered_by_run_id is not None:
        tags[keys.TAG_TRIGGERED_BY_RUN_ID] = triggered_by_run_id
    client = MlflowClient()
    run = client.create_run(current_experiment_id(), tags=with_context_tags(tags))
    run_id: str = run.info.run_id
    given = {key: str(value) for key, value in asdict(settings.config).items()}
    _log_params(client, run_id, given | resolved_params(settings, given))
    if triggered_by_run_id is not None:
        is_training = isinstance(settings, TrainingSettings)
        link_runs(triggered_by_run_id, run_id, "Trained" if is_training else "Sampled")
    return run_id


def _complete_adopted(run_id: str, name: str, settings: RunSettings) -> None:
    """Names a run that ``mlflow run`` made, unless its user did, and logs what ``auto`` became."""
    client = MlflowClient()
    run = client.get_run(run_id)
    if not is_chosen(run.info.run_name):
        client.set_tag(run_id, MLFLOW_RUN_NAME, name)
    _log_params(client, run_id, resolved_params(settings, run.data.params))


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
