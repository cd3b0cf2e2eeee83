"""Every private or unstable name of MLflow that we use, and what is done without it.

Each function here says what it is for. Where a release of MLflow lacks a name, the one feature
that rests on it is off: one warning says so, ``mlflow-carbon doctor`` lists it, and everything
else works. Nothing of MLflow is imported with this file, which is loaded while MLflow itself is
only half imported.
"""

import copy
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, cast

from mlflow_carbon.errors import MlflowCarbonError

_logger = logging.getLogger("mlflow.carbon")

MINIMUM_MAJOR = 3  # MLflow 2 has no LoggedModels
PROJECT_LOADER = "mlflow.projects.backend.loader"
# The module of `mlflow.register_model`. In every release it is loaded after
# `mlflow.tracking.fluent`, which up to 3.5.1 may be half imported when we are loaded.
AFTER_FLUENT = "mlflow.tracking._model_registry.fluent"


@dataclass(frozen=True)
class Seam:
    """Names of MLflow that one feature rests on.

    Attributes:
        feature: what is off without them.
        instead: what is done without them, as a sentence.
        names: ``module:attribute``; where there are several tuples, any one of them is enough.
    """

    feature: str
    instead: str
    names: tuple[tuple[str, ...], ...]

    def missing(self) -> tuple[str, ...]:
        """Returns the names that this MLflow lacks; none if one of the tuples is complete."""
        absent = [
            tuple(name for name in alternative if not _exists(name)) for alternative in self.names
        ]
        return () if () in absent else absent[0]

    def sentence(self) -> str | None:
        """Returns a sentence on the feature that is off, and why; ``None`` if it works."""
        missing = self.missing()
        if not missing:
            return None
        listed = ", ".join(name.replace(":", ".") for name in missing)
        return f"{self.feature}: off, because this MLflow has no {listed}. {self.instead}"


IMPORT_HOOKS = Seam(
    "Metering without a changed line, `mlflow run` without conda",
    "Call `mlflow_carbon.autolog()` or `mlflow_carbon.track()`.",
    (("mlflow.utils.import_hooks:register_post_import_hook",),),
)
AUTOLOGGING = Seam(
    "`mlflow_carbon.autolog()` and MLFLOW_CARBON_AUTOLOG",
    "Put `mlflow_carbon.track()` around the work.",
    (
        (
            "mlflow.utils.autologging_utils:autologging_integration",
            "mlflow.utils.autologging_utils:autologging_is_disabled",
            "mlflow.utils.autologging_utils:get_autologging_config",
            "mlflow.utils.autologging_utils:AUTOLOGGING_INTEGRATIONS",
        ),
    ),
)
MLFLOW_AUTOLOG = Seam(
    "`mlflow.autolog()` as a switch for metering",
    "Call `mlflow_carbon.autolog()` or set MLFLOW_CARBON_AUTOLOG=true.",
    (
        (
            "mlflow.utils.autologging_utils.events:AutologgingEventLogger.set_logger",
            "mlflow.utils.autologging_utils.events:AutologgingEventLogger._event_logger",
            "mlflow.utils.autologging_utils.events:AutologgingEventLogger.log_autolog_called",
        ),
    ),
)
ACTIVE_RUNS = Seam(
    "Metering of runs that other threads had started before `autolog()`",
    "Only the calling thread's run is metered from then on.",
    (("mlflow.tracking.fluent:_active_run_stack",),),
)
MODEL_CREATION = Seam(
    "Fewer questions to the store at the end of short runs",
    "Each run is asked for its models when it ends.",
    (
        ("mlflow.tracking.client:MlflowClient._create_logged_model",),
        ("mlflow.tracking.client:MlflowClient.create_logged_model",),  # 3.0
    ),
)
VERSION_CREATION = Seam(
    "Emissions on a model version as soon as `register_model` or `log_model` makes it",
    "`mlflow-carbon tag-models --all` writes them.",
    (("mlflow.tracking.client:MlflowClient._create_model_version",),),
)
PROMPT_CHECKS = Seam(
    "Tags of a model without a look at the model before each",
    "MLflow takes that look, and a tag three times as long.",
    (("mlflow.tracking.client:MlflowClient._raise_if_prompt",),),
)
ACTIVE_MODEL = Seam(
    "Energy that stays off the model that MLFLOW_ACTIVE_MODEL_ID names",
    "MLflow copies it there, as it does with each metric.",
    (("mlflow.tracking.fluent:_ACTIVE_MODEL_CONTEXT",),),
)
CURRENT_EXPERIMENT = Seam(
    "The experiment that `mlflow.set_experiment()` chose, where no run is active",
    "MLFLOW_EXPERIMENT_ID counts, else MLflow's default experiment.",
    (("mlflow.tracking.fluent:_get_experiment_id",),),
)
PROJECTS = Seam(
    "`mlflow run` in the current environment where conda is missing, and its backend `carbon`",
    "Give `--env-manager local`.",
    (
        (
            f"{PROJECT_LOADER}:MLFLOW_BACKENDS",
            "mlflow.projects.backend.local:LocalBackend",
            "mlflow.projects.utils:fetch_and_validate_project",
            "mlflow.projects.utils:PROJECT_ENV_MANAGER",
            "mlflow.projects.utils:PROJECT_SYNCHRONOUS",
            "mlflow.utils.conda:get_conda_bin_executable",
        ),
    ),
)
RUN_CONTEXT = Seam(
    "Tags of user, source and commit on runs that the project's commands make",
    "The runs lack them.",
    (("mlflow.tracking.context.registry:resolve_tags",),),
)
SEAMS = (
    IMPORT_HOOKS,
    AUTOLOGGING,
    MLFLOW_AUTOLOG,
    ACTIVE_RUNS,
    MODEL_CREATION,
    VERSION_CREATION,
    PROMPT_CHECKS,
    ACTIVE_MODEL,
    CURRENT_EXPERIMENT,
    PROJECTS,
    RUN_CONTEXT,
)


def features_off() -> tuple[str, ...]:
    """Returns one sentence for each feature that the installed MLflow has no names for."""
    return tuple(sentence for sentence in (seam.sentence() for seam in SEAMS) if sentence)


def require_supported() -> None:
    """Refuses an MLflow that is too old.

    Raises:
        MlflowCarbonError: it is; the message says what to do.
    """
    sentence = why_unsupported()
    if sentence is not None:
        raise MlflowCarbonError(sentence)


def why_unsupported() -> str | None:
    """Returns advice for an MLflow that is too old; ``None`` if the version is supported."""
    loaded = sys.modules.get("mlflow.version")
    version = metadata.version("mlflow-skinny") if loaded is None else str(loaded.VERSION)
    if int(version.split(".")[0]) >= MINIMUM_MAJOR:
        return None
    return (
        f"mlflow-carbon needs MLflow {MINIMUM_MAJOR}.0 or later, and this is {version}: "
        f"nothing is metered. Install it with: pip install 'mlflow>={MINIMUM_MAJOR}'"
    )


# Import hooks


def when_imported(module_name: str, hook: Callable[[Any], None]) -> None:
    """Calls the hook with a module once it is imported, at once if it is."""
    if is_there(IMPORT_HOOKS):
        _find("mlflow.utils.import_hooks:register_post_import_hook")(hook, module_name)


# Autologging: MLflow keeps our settings beside those of its own integrations


def integration(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Returns MLflow's decorator of an ``autolog()``, which stores its arguments.

    Without it the decorated function does nothing.
    """
    if not is_there(AUTOLOGGING):
        return lambda autolog: functools.wraps(autolog)(_do_nothing)
    decorator = _find("mlflow.utils.autologging_utils:autologging_integration")(name)
    return cast("Callable[[Callable[..., None]], Callable[..., None]]", decorator)


def setting_of(name: str, setting: str) -> Any:
    """Returns a setting of an integration's ``autolog()``; ``None`` if it is not set."""
    if not is_there(AUTOLOGGING):
        return None
    return _find("mlflow.utils.autologging_utils:get_autologging_config")(name, setting)


def is_enabled(name: str) -> bool:
    """Returns whether an integration is switched on."""
    if not is_there(AUTOLOGGING):
        return False
    return not _find("mlflow.utils.autologging_utils:autologging_is_disabled")(name)


def change_settings(name: str, **settings: Any) -> None:
    """Changes what an integration's ``autolog()`` was called with."""
    if is_there(AUTOLOGGING):
        _find("mlflow.utils.autologging_utils:AUTOLOGGING_INTEGRATIONS")[name].update(settings)


def was_called_with(name: str) -> Mapping[str, Any]:
    """Returns all that an integration's ``autolog()`` was called with; empty if it never was."""
    if not is_there(AUTOLOGGING):
        return {}
    integrations = _find("mlflow.utils.autologging_utils:AUTOLOGGING_INTEGRATIONS")
    return cast("Mapping[str, Any]", integrations.get(name, {}))


def listen_for_autolog(heard: Callable[[Mapping[str, Any]], None]) -> None:
    """Calls ``heard`` with the arguments of each ``mlflow.autolog()``; what it raises is logged.

    MLflow has one listener. Where somebody else has set one, theirs stays.
    """
    if not is_there(MLFLOW_AUTOLOG):
        return
    base: Any = import_module("mlflow.utils.autologging_utils.events").AutologgingEventLogger
    if base._event_logger is not None:
        return

    class AutologListener(base):  # type: ignore[misc]  # the base is known at run time only
        """MLflow's own listener, except that it tells us of ``mlflow.autolog()``."""

        def log_autolog_called(self, integration: str, call_args: Any, call_kwargs: Any) -> None:
            super().log_autolog_called(integration, call_args, call_kwargs)
            if integration != "mlflow":
                return
            try:
                heard(call_kwargs)
            except Exception as error:  # ours must not keep the others from being switched
                _logger.warning("Runs are not metered: %s", error)

    base.set_logger(AutologListener())


# Runs and models


def active_runs() -> list[Any]:
    """Returns the runs that are active in any thread, a thread's parents before their children."""
    if not is_there(ACTIVE_RUNS):
        active = import_module("mlflow").active_run()
        return [] if active is None else [active]
    stacks = _find("mlflow.tracking.fluent:_active_run_stack").get_all_thread_values()
    return [run for runs in stacks.values() for run in runs]


def model_creation_method() -> str | None:
    """Returns the method of MlflowClient that makes every logged model; ``None`` if unknown."""
    if not is_there(MODEL_CREATION):
        return None
    (private,), (public,) = MODEL_CREATION.names
    return (private if _exists(private) else public).rsplit(".", maxsplit=1)[1]


def version_creation_method() -> str:
    """Returns the method of MlflowClient that makes a model version.

    With the private one that is every version; without it, those that a client is asked for.
    """
    return "_create_model_version" if is_there(VERSION_CREATION) else "create_model_version"


def without_prompt_checks(client: Any) -> Any:
    """Returns a client that reads no model before it sets a tag of it.

    MLflow's reads it to learn that the name is no prompt's. Give this one to what tags models
    that have runs, which prompts have not.
    """
    if not is_there(PROMPT_CHECKS):
        return client
    unchecked = copy.copy(client)
    unchecked._raise_if_prompt = _do_nothing
    return unchecked


def past_active_model(client: Any) -> Any:
    """Returns a client that writes metrics to a run alone, never to the active model as well.

    MLflow's copies each metric to the model that ``MLFLOW_ACTIVE_MODEL_ID`` or
    ``mlflow.set_active_model`` names, and has no public way around it. Give this one to what writes
    a run's figures: a run that only uses the active model must not put its energy there.
    """
    if not is_there(ACTIVE_MODEL):
        return client

    def log_batch(*args: Any, **kwargs: Any) -> Any:
        with _without_active_model():
            return client.log_batch(*args, **kwargs)

    passing = copy.copy(client)
    passing.log_batch = log_batch
    return passing


@contextmanager
def _without_active_model() -> Iterator[None]:
    """Hides from MLflow, in this thread, the model that is active."""
    contexts = _find("mlflow.tracking.fluent:_ACTIVE_MODEL_CONTEXT")
    active = contexts.get()
    if getattr(active, "_model_id", None) is None:
        yield
        return
    none = copy.copy(active)
    none._model_id = None
    contexts.set(none)
    try:
        yield
    finally:
        contexts.set(active)


def current_experiment_id() -> str:
    """Returns the experiment in which this process would start a run."""
    chosen = None
    if is_there(CURRENT_EXPERIMENT):
        chosen = _find("mlflow.tracking.fluent:_get_experiment_id")()
    return str(chosen or os.environ.get("MLFLOW_EXPERIMENT_ID") or "0")


def with_context_tags(tags: dict[str, str]) -> dict[str, str]:
    """Returns the tags of a new run with those that MLflow itself adds: user, source, commit."""
    if not is_there(RUN_CONTEXT):
        return tags
    return cast("dict[str, str]", _find("mlflow.tracking.context.registry:resolve_tags")(tags))


# Projects


def replace_local_backend(loader: Any, backend: type) -> None:
    """Lets ``mlflow run`` use this backend for projects that run on this machine."""
    if is_there(PROJECTS):
        loader.MLFLOW_BACKENDS["local"] = backend


def local_backend() -> Any:
    """Returns MLflow's own backend for projects that run on this machine."""
    return _find("mlflow.projects.backend.local:LocalBackend")()


def fetch_project(uri: str, version: str | None, entry_point: str, params: Any) -> str:
    """Returns the folder of a project, once it is fetched and its parameters are valid."""
    fetch = _find("mlflow.projects.utils:fetch_and_validate_project")
    return str(fetch(uri, version, entry_point, params))


def environment_manager_key() -> str:
    """Returns the key under which a backend's settings name the environment manager."""
    return str(_find("mlflow.projects.utils:PROJECT_ENV_MANAGER"))


def synchronous_key() -> str:
    """Returns the key under which a backend's settings say whether MLflow waits for the run."""
    return str(_find("mlflow.projects.utils:PROJECT_SYNCHRONOUS"))


def project_setting_keys() -> frozenset[str]:
    """Returns the keys that MLflow itself adds to a backend's settings."""
    utils = import_module("mlflow.projects.utils")
    return frozenset(getattr(utils, name) for name in dir(utils) if name.startswith("PROJECT_"))


def conda_executable() -> str:
    """Returns the conda that MLflow would call."""
    return str(_find("mlflow.utils.conda:get_conda_bin_executable")("conda"))


def is_there(seam: Seam) -> bool:
    """Returns whether this MLflow has a seam's names; the first time that it lacks one, warns."""
    sentence = seam.sentence()
    if sentence is not None:
        _say_once(sentence)
    return sentence is None


@functools.cache
def _say_once(sentence: str) -> None:
    _logger.warning("%s", sentence)


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stands in for an ``autolog()`` that MLflow has no place for."""


def _find(name: str) -> Any:
    """Returns the object that ``module:attribute.attribute`` names.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such attribute.
    """
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), import_module(module))


def _exists(name: str) -> bool:
    try:
        _find(name)
    except (ImportError, AttributeError):
        return False
    return True
