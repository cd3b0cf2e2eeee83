"""The MLflow runs of a study: one parent, found again after a kill, and a child for each cell."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Param, Run
from mlflow.environment_variables import MLFLOW_RUN_ID
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from ldm_project.errors import InvalidInputError
from ldm_project.parsing import size_text
from ldm_project.runs.command_runs import TAG_RESUMED_RUN_ID
from ldm_project.study.cells import Cell
from ldm_project.study.study_settings import StudySettings, resolved
from ldm_project.study.work import Place
from mlflow_carbon.contract import study_tags
from mlflow_carbon.recording.process_identity import ProcessIdentity, is_alive, this_process
from mlflow_carbon.reporting.study_cells import child_runs, newest_by_cell
from mlflow_carbon.store.listing import all_runs
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.tracking.mlflow_seams import current_experiment_id, with_context_tags

UNTRAINED = "untrained: what a network takes depends on its shape, not on its weights"
FINISHED, KILLED = "FINISHED", "KILLED"


@dataclass(frozen=True)
class StudyRun:
    """The parent run of a study, and whether it goes on with one that was interrupted."""

    run_id: str
    is_resumed: bool


@contextmanager
def study_run(settings: StudySettings) -> Iterator[StudyRun]:
    """Gives the parent run of a study for a block; closes it as it was left.

    An unfinished study of the same grid, whose process has ended, is gone on with. A run that
    ``mlflow run`` created is used for a new study, and names the study that it resumes.

    Raises:
        InvalidInputError: the run to resume is no study, or one of another grid.
    """
    client = MlflowClient()
    adopted_run_id = os.environ.pop(MLFLOW_RUN_ID.name, None)
    resumed = _resumed(client, settings)
    run_id = resumed or adopted_run_id or _new_parent(client, settings)
    if adopted_run_id and adopted_run_id != run_id:
        client.set_tag(adopted_run_id, MLFLOW_RUN_NAME, f"resume study {settings.config.preset}")
        client.set_tag(adopted_run_id, TAG_RESUMED_RUN_ID, run_id)
    if resumed:
        client.update_run(run_id, status="RUNNING")
        for child in child_runs(client, client.get_run(run_id)):
            _close_interrupted(client, child)
    for key, value in _parent_tags(settings).items():
        client.set_tag(run_id, key, value)
    try:
        yield StudyRun(run_id, is_resumed=resumed is not None)
    except BaseException:  # Ctrl-C too: no run may stay in RUNNING
        client.set_tag(run_id, study_tags.TAG_STATE, study_tags.INTERRUPTED)
        client.set_terminated(run_id, KILLED)
        raise


def end_study(run_id: str, state: str, problem: str) -> None:
    """Closes the parent run of a study that is done, has failed cells or was stopped."""
    client = MlflowClient()
    client.set_tag(run_id, study_tags.TAG_STATE, state)
    client.set_tag(run_id, study_tags.TAG_PROBLEM, problem)
    status = {study_tags.DONE: FINISHED, study_tags.STOPPED: KILLED}.get(state, "FAILED")
    client.set_terminated(run_id, status)


def new_cell_run(parent_run_id: str, cell: Cell, place: Place, *, state: str) -> str:
    """Returns a new run for a cell, below the study's."""
    client = MlflowClient()
    tags = {
        MLFLOW_RUN_NAME: cell.name,
        MLFLOW_PARENT_RUN_ID: parent_run_id,
        study_tags.TAG_CELL: cell.name,
        study_tags.TAG_STATE: state,
        study_tags.TAG_WEIGHTS: UNTRAINED,
        study_tags.TAG_NUM_WARMUP_WINDOWS: str(cell.num_warmup_windows),
    }
    run = client.create_run(current_experiment_id(), tags=with_context_tags(tags))
    run_id: str = run.info.run_id
    params = [Param(name, str(value)) for name, value in _cell_params(cell, place).items()]
    client.log_batch(run_id, params=params)
    return run_id


def end_cell_run(run_id: str, state: str, problem: str = "") -> None:
    """Closes the run of a cell, with the reason where it was not done."""
    client = MlflowClient()
    client.set_tag(run_id, study_tags.TAG_STATE, state)
    if problem:
        client.set_tag(run_id, study_tags.TAG_PROBLEM, problem)
    statuses = {study_tags.DONE: FINISHED, study_tags.FAILED: "FAILED"}
    client.set_terminated(run_id, statuses.get(state, KILLED))


def skip_cell(parent_run_id: str, cell: Cell, place: Place, problem: str) -> str:
    """Notes on a run of its own that a cell was left out, and why; a resumed study changes it.

    Returns:
        The id of that run.
    """
    client = MlflowClient()
    known = newest_by_cell(child_runs(client, client.get_run(parent_run_id))).get(cell.name)
    is_noted = known and known.data.tags[study_tags.TAG_STATE] == study_tags.SKIPPED
    if known and is_noted:
        run_id = known.info.run_id
    else:
        run_id = new_cell_run(parent_run_id, cell, place, state=study_tags.SKIPPED)
    end_cell_run(run_id, study_tags.SKIPPED, problem)
    return str(run_id)


def interrupt_cell(parent_run_id: str, cell: Cell, problem: str) -> str:
    """Closes the run of a cell whose process is gone; returns its id, "" if it had none."""
    client = MlflowClient()
    known = newest_by_cell(child_runs(client, client.get_run(parent_run_id))).get(cell.name)
    if known is None:
        return ""
    if known.data.tags[study_tags.TAG_STATE] == study_tags.RUNNING:
        end_cell_run(known.info.run_id, study_tags.INTERRUPTED, problem)
    return str(known.info.run_id)


def spent_g(parent_run_id: str) -> float:
    """Returns the CO2e in g of all runs of a study, by their windows where one was killed."""
    client = MlflowClient()
    runs = child_runs(client, client.get_run(parent_run_id))
    records = [read_record(client, run, has_components=False).or_lower_bound() for run in runs]
    return sum(record.co2e_g or 0.0 for record in records)


def _resumed(client: MlflowClient, settings: StudySettings) -> str | None:
    """Returns the id of the study to go on with; ``None`` to begin a new one."""
    if settings.is_new:
        return None
    if settings.resumed_run_id is not None:
        return _named(client, settings.resumed_run_id, settings)
    condition = f"tags.`{study_tags.TAG_STUDY}` = '{settings.digest}'"
    runs = all_runs(client, [current_experiment_id()], condition)
    unfinished = [run for run in runs if _is_left(run)]
    return unfinished[-1].info.run_id if unfinished else None


def _named(client: MlflowClient, run_id: str, settings: StudySettings) -> str:
    try:
        tags = client.get_run(run_id).data.tags
    except MlflowException as error:
        raise InvalidInputError(
            f"resume is {run_id!r}, but {mlflow.get_tracking_uri()} has no such run. "
            "Give the id of a study's run, as the MLflow UI shows it."
        ) from error
    if tags.get(study_tags.TAG_STUDY) != settings.digest:
        raise InvalidInputError(
            f"resume is {run_id!r}, which is no study of this grid; give the parameters that it "
            "was begun with, or begin anew by resume=new."
        )
    return run_id


def _is_left(run: Run) -> bool:
    """Returns whether a study is unfinished and its process has surely ended."""
    tags = run.data.tags
    if tags.get(study_tags.TAG_STATE) == study_tags.DONE:
        return False
    try:
        writer = ProcessIdentity.read(json.loads(tags.get(study_tags.TAG_PROCESS, "{}")))
    except ValueError:
        return False
    if tags.get(study_tags.TAG_STATE) != study_tags.RUNNING:
        return True
    # Other machines write to the store too: nothing is known of their processes.
    return is_alive(writer, has_lock=True, is_shared=True) is False


def _close_interrupted(client: MlflowClient, child: Run) -> None:
    if child.data.tags[study_tags.TAG_STATE] == study_tags.RUNNING:
        client.set_tag(child.info.run_id, study_tags.TAG_STATE, study_tags.INTERRUPTED)
        client.set_terminated(child.info.run_id, KILLED)


def _new_parent(client: MlflowClient, settings: StudySettings) -> str:
    tags = {MLFLOW_RUN_NAME: f"study {settings.config.preset}"}
    run = client.create_run(current_experiment_id(), tags=with_context_tags(tags))
    run_id: str = run.info.run_id
    params = [Param(name, str(value)) for name, value in resolved(settings).items()]
    client.log_batch(run_id, params=params)
    return run_id


def _parent_tags(settings: StudySettings) -> dict[str, str]:
    own = this_process()
    process = {
        "machine": own.machine,
        "process": [own.pid, own.create_time_s],
        "boot": own.boot,
        "start_ticks": own.start_ticks,
    }
    return {
        MLFLOW_RUN_NAME: f"study {settings.config.preset}",
        study_tags.TAG_STUDY: settings.digest,
        study_tags.TAG_PRESET: settings.config.preset,
        study_tags.TAG_NUM_CELLS: str(len(settings.cells)),
        study_tags.TAG_PROCESS: json.dumps(process),
        study_tags.TAG_STATE: study_tags.RUNNING,
    }


def _cell_params(cell: Cell, place: Place) -> dict[str, object]:
    params = asdict(cell) | {
        study_tags.PARAM_TASK: cell.task,
        study_tags.PARAM_DIMS: cell.dims,
        study_tags.PARAM_SIZE: size_text(cell.size),
        study_tags.PARAM_MODEL_SIZE: cell.model_size,
        study_tags.PARAM_NUM_PROCESSES: cell.num_processes,
        study_tags.PARAM_BATCH_SIZE: cell.batch_size,
        study_tags.PARAM_DEVICE: place.device,
        "precision": place.precision,
        "sampler": place.sampler,
        "seed": place.seed,
    }
    return {name: value for name, value in params.items() if value is not None}
