"""Which runs of this process are metered without being asked, and from when to when.

A run is this process's own if the process makes it active (``start_run``), or creates it by a
client and then logs metrics to it, marks windows in it, or ends it after logging anything. A run
that it only creates, for others to work in, or only reads, is not.
"""

import logging
import os

from mlflow import MlflowClient, active_run
from mlflow.entities import LoggedModel, Run, SourceType
from mlflow.entities.model_registry import ModelVersion
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_TYPE

from mlflow_carbon.contract import keys
from mlflow_carbon.errors import MlflowCarbonError
from mlflow_carbon.metering.launch import find_place
from mlflow_carbon.registry.run_models import record_version
from mlflow_carbon.tracking.autolog_settings import (
    chosen_options,
    registered_model_name,
    registers_models,
)
from mlflow_carbon.tracking.copied_figures import give_figure, leave_out_copies
from mlflow_carbon.tracking.mlflow_seams import without_prompt_checks
from mlflow_carbon.tracking.model_lookups import NewRun
from mlflow_carbon.tracking.model_registration import register_logged_models
from mlflow_carbon.tracking.patches import switch_off
from mlflow_carbon.tracking.patience import within
from mlflow_carbon.tracking.process_metering import process_metering
from mlflow_carbon.tracking.run_tracking import RunTracking

_logger = logging.getLogger("mlflow.carbon")

# A process that creates more runs than these, and works in none, creates them for others.
MAX_HELD = 8
REGISTER_TIMEOUT_S = 15.0


def run_is_active(run: Run) -> None:
    """Meters a run that ``start_run`` has made active, new or resumed."""
    tracking = process_metering().tracking_of(run.info.run_id)
    if tracking is None:
        _track(run, MlflowClient(), is_held=False)
    elif tracking.is_held:
        tracking.begin_anew()


def run_goes_on(run: Run) -> None:
    """Meters a run that was active before; if it is metered already, the new settings report it."""
    tracking = process_metering().tracking_of(run.info.run_id)
    if tracking is None:
        run_is_active(run)
    elif tracking.is_autologged:
        tracking.report_by(chosen_options())


def run_was_created(client: MlflowClient, run: Run) -> None:
    """Meters a run that a client created, and holds the figures back for now."""
    tags = run.data.tags
    is_for_a_project = tags.get(MLFLOW_SOURCE_TYPE) == SourceType.to_string(SourceType.PROJECT)
    if is_for_a_project or keys.TAG_SCHEMA in tags:  # its process meters it; a copy
        return
    _track(run, client, is_held=True)
    held = [tracking for tracking in process_metering().trackings if tracking.is_held]
    for tracking in held[:-MAX_HELD]:
        tracking.finish()


def run_was_written_to(run_id: str, *, is_metric: bool) -> None:
    """Notes that this process works in the run, where it is held back."""
    tracking = process_metering().tracking_of(run_id)
    if tracking is not None and tracking.is_held:
        tracking.has_written = True
        if is_metric:
            tracking.release()


def run_ends(run_id: str) -> None:
    """Writes the totals of a run that is about to get its final status."""
    tracking = process_metering().tracking_of(run_id)
    if tracking is None:
        return
    if tracking.has_written:
        tracking.release()
    if registers_models() and not tracking.is_held:
        name = registered_model_name()
        within(REGISTER_TIMEOUT_S, lambda: register_logged_models(tracking.client, run_id, name))
    tracking.finish()


def run_has_models(run_id: str | None) -> None:
    """Notes that this process has made or used a model in the run."""
    tracking = process_metering().tracking_of(run_id or "")
    if tracking is not None:
        tracking.new_run = None


def figures_may_be_copied(metrics: object) -> None:
    """Keeps a run's curves off its models."""
    leave_out_copies(metrics)


def model_was_logged(client: MlflowClient, model: LoggedModel) -> None:
    """Puts emissions on a model of a run that is over; others get theirs when the run ends."""
    run_has_models(model.source_run_id)
    if process_metering().tracking_of(model.source_run_id or "") is None:
        give_figure(client, model)


def model_was_registered(client: MlflowClient, version: ModelVersion) -> None:
    """Puts emissions on a version of a run that is over; others get theirs when the run ends."""
    run_has_models(version.run_id)
    if version.run_id and process_metering().tracking_of(version.run_id) is None:
        within(REGISTER_TIMEOUT_S, lambda: record_version(without_prompt_checks(client), version))


def current_tracking() -> RunTracking | None:
    """Returns the tracking of the run that this code works in.

    That is the thread's active run, if it is metered; else the run that was started last.
    """
    active = active_run()
    tracking = None if active is None else process_metering().tracking_of(active.info.run_id)
    trackings = process_metering().trackings
    return tracking or (trackings[-1] if trackings else None)


def stop_following() -> None:
    """Stops the metering that autologging began; a ``track()`` block keeps its run's metering."""
    for tracking in reversed(process_metering().trackings):
        if tracking.is_autologged:
            tracking.is_autologged = False
            tracking.new_run = None  # nobody sees its models any more
            tracking.leave()


def _track(run: Run, client: MlflowClient, *, is_held: bool) -> None:
    place = find_place(os.environ)
    if not place.is_leader or (is_held and place.num_ranks > 1):
        return  # another rank measures; a launch's run is one that is active
    try:
        options = chosen_options()
    except MlflowCarbonError as error:
        _logger.warning("Runs are not metered: %s", error)
        switch_off()
        stop_following()
        return
    tracking = process_metering().track(
        run.info.run_id, options, run=run, client=client, is_held=is_held
    )
    tracking.is_autologged = True
    if is_held:
        tracking.new_run = NewRun(client, run.info.run_id, run.info.experiment_id)
