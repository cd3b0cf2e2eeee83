"""``autolog()``: every run of this process is metered, with no other line changed."""

import functools
import logging
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

# not from mlflow itself, which may be half imported
from mlflow.client import MlflowClient
from mlflow.entities import Run, RunStatus
from mlflow.tracking.fluent import ActiveRun

from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.framework_windows import watch_frameworks
from mlflow_carbon.tracking.patches import INTEGRATION, go_around, is_on, take_away

# The code that follows runs is imported when the first run starts, as this file is part of
# `import mlflow`.
_LIFECYCLE = "mlflow_carbon.tracking.run_lifecycle"


def _letting_go(autolog: Callable[..., None]) -> Callable[..., None]:
    """Makes each call remove earlier patches first, and stop following runs if it disables."""

    @functools.wraps(autolog)
    def call(*args: Any, **kwargs: Any) -> None:
        take_away()
        autolog(*args, **kwargs)
        _stop_if_disabled()

    return call


@_letting_go
@mlflow_seams.integration(INTEGRATION)
def autolog(
    *,
    region: str | None = None,
    month: str | None = None,
    pue: float | None = None,
    intensity_set: str | None = None,
    carbon_intensity_g_per_kwh: float | None = None,
    components: str | None = None,
    attribution: str | None = None,
    register_models: bool = False,  # noqa: ARG001  # read where a run ends, from MLflow's config
    registered_model_name: str | None = None,  # noqa: ARG001
    disable: bool = False,  # noqa: ARG001  # MLflow's, as is silent
    silent: bool = False,
) -> None:
    """Meters every run that this process works in, until it ends.

    A setting that is ``None`` is taken from the environment (``MLFLOW_CARBON_REGION`` and so on),
    else from the defaults, which are tagged. Runs already active are metered from now on.

    Args:
        region: where the electricity comes from: a name, an ISO code, ``EU27``, ``WORLD``.
        month: ``2022-02``; else the year's mean.
        pue: facility energy over IT energy.
        intensity_set: the only set of intensities to look in.
        carbon_intensity_g_per_kwh: your own figure instead of a published one, in the environment
            ``MLFLOW_CARBON_INTENSITY_G_PER_KWH``; the region then is only its name.
        components: ``all``, or ``gpu`` and ``cpu``, comma-separated.
        attribution: ``whole_node``, ``process_share`` or ``gpu_only``.
        register_models: whether each model that a run logs is registered when the run ends.
        registered_model_name: the name to register under; else each model's own.
        disable: whether to stop; active runs get totals of the time until then.
        silent: whether to suppress messages and warnings.

    Raises:
        MlflowCarbonError: a setting is out of range.
    """
    logging.getLogger("mlflow.carbon").disabled = silent
    chosen = (region, month, pue, intensity_set, carbon_intensity_g_per_kwh)
    if any(setting is not None for setting in (*chosen, components, attribution)):
        from mlflow_carbon.tracking.autolog_settings import chosen_options

        chosen_options()
    _follow_runs()
    watch_frameworks()
    for run in mlflow_seams.active_runs():
        _lifecycle().run_goes_on(run)


def _follow_runs() -> None:
    go_around(ActiveRun, "__init__", after=_run_is_active)
    go_around(MlflowClient, "create_run", after=_run_was_created)
    for write in ("log_metric", "log_param", "log_artifact", "log_artifacts"):
        go_around(MlflowClient, write, after=functools.partial(_run_was_written_to, write))
    go_around(
        MlflowClient,
        "log_batch",
        before=_figures_may_be_copied,
        after=functools.partial(_run_was_written_to, "log_batch"),
    )
    for end in ("set_terminated", "update_run"):
        go_around(MlflowClient, end, before=functools.partial(_run_may_end, end))
    make_model = mlflow_seams.model_creation_method()
    if make_model is not None:
        go_around(MlflowClient, make_model, after=_model_was_logged)
    go_around(MlflowClient, "log_inputs", after=_model_was_used)
    for register in (mlflow_seams.version_creation_method(), "copy_model_version"):
        go_around(MlflowClient, register, after=_model_was_registered)


def _lifecycle() -> Any:
    return import_module(_LIFECYCLE)


def _run_is_active(_: None, run: Run, /, *__: Any, **___: Any) -> None:
    _lifecycle().run_is_active(run)


def _run_was_created(
    run: Run, client: MlflowClient, experiment_id: str, start_time: Any = None, *_: Any, **__: Any
) -> None:
    del experiment_id
    if start_time is None:  # a run with a start time records an earlier one
        _lifecycle().run_was_created(client, run)


def _run_was_written_to(
    write: str, _: Any, client: MlflowClient, run_id: str, *args: Any, **kwargs: Any
) -> None:
    del client
    has_metrics = bool(kwargs.get("metrics") or (args and args[0]))
    is_metric = write == "log_metric" or (write == "log_batch" and has_metrics)
    _lifecycle().run_was_written_to(run_id, is_metric=is_metric)


def _figures_may_be_copied(
    client: MlflowClient, run_id: str, metrics: Any = (), *_: Any, **__: Any
) -> None:
    del client, run_id
    if _LIFECYCLE in sys.modules:  # a run is or was metered
        _lifecycle().figures_may_be_copied(metrics)


def _run_may_end(
    end: str, client: MlflowClient, run_id: str, status: str | None = None, *_: Any, **__: Any
) -> None:
    del client
    if end == "set_terminated" or (status and _is_final(status)):
        _lifecycle().run_ends(run_id)


def _is_final(status: str) -> bool:
    return bool(RunStatus.is_terminated(RunStatus.from_string(status)))


def _model_was_logged(model: Any, client: MlflowClient, *_: Any, **__: Any) -> None:
    _lifecycle().model_was_logged(client, model)


def _model_was_used(_: None, client: MlflowClient, run_id: str, *__: Any, **___: Any) -> None:
    del client
    _lifecycle().run_has_models(run_id)


def _model_was_registered(version: Any, client: MlflowClient, *_: Any, **__: Any) -> None:
    _lifecycle().model_was_registered(client, version)


def _stop_if_disabled() -> None:
    """Stops following runs, unless autologging was only set up anew."""
    if _LIFECYCLE in sys.modules and not is_on():
        _lifecycle().stop_following()
