"""From a checked configuration to its run, and the lines that tell a person what it cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from ldm_project.config import (
    AUTO,
    EstimateConfig,
    ParallelConfig,
    QualityConfig,
    RunConfig,
    SynthConfig,
    TrainConfig,
    VqganConfig,
)
from ldm_project.diffusion.acceleration import limit_threads
from ldm_project.diffusion.processes import (
    ALONE,
    Processes,
    check_devices,
    joined_processes,
)
from ldm_project.errors import InvalidInputError
from ldm_project.runs.command_runs import assumptions_of, command_run
from ldm_project.runs.estimate import prediction_lines, run_estimate
from ldm_project.runs.interrupted_trainings import resumed_config, resumed_run_id
from ldm_project.runs.launching import launch
from ldm_project.runs.quality import report_lines, run_quality
from ldm_project.runs.references import run_id_of
from ldm_project.runs.synth import assist_synth, run_synth
from ldm_project.runs.train import assist_train, run_train, run_vqgan
from ldm_project.settings import num_launched, resolve_num_processes, validate
from mlflow_carbon.contract import keys
from mlflow_carbon.units import joules_from_kwh


def run_command(config: RunConfig) -> list[str]:
    """Runs the command that the configuration belongs to; returns what it cost, in lines."""
    with memory_explained():
        assumptions_of(config)  # a region or month without figures fails here, before any work
        if num_launched() > 1:
            with joined_processes(config.device) as processes:
                return _run_together(config, processes)
        config = resumed_config(config)
        if isinstance(config, ParallelConfig) and resolve_num_processes(config) > 1:
            return _launched(config)
        return _run(config, ALONE)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Makes a block that runs out of memory fail with what to lower.

    Raises:
        InvalidInputError: the memory of the computer or of a GPU is not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch tells of a CPU by the text alone
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
            reason = (text.splitlines() or ["out of memory"])[0]
            raise InvalidInputError(
                f"Out of memory: {reason}. Lower batch_size=, then size=, then model_size=; "
                f"a training needs less with gradient_checkpointing=on, too."
            ) from error
        raise


def _launched(config: ParallelConfig) -> list[str]:
    """Runs a command in several processes; the first of them prints what it cost."""
    validate(config)  # one that is resumed has brought its own
    check_devices(config.device, resolve_num_processes(config))
    name = "synth" if isinstance(config, SynthConfig) else "train"
    with command_run(name, config, resumed_run_id=resumed_run_id(config)) as run_id:
        launch(name, config, run_id)
    return []


def _run_together(config: RunConfig, processes: Processes) -> list[str]:
    """Runs a command, or a further process's share of it, that a launcher has started."""
    if not isinstance(config, ParallelConfig):
        raise InvalidInputError("This command runs in one process: start it without a launcher.")
    if config.num_processes not in (AUTO, str(processes.count)):
        raise InvalidInputError(
            f"num_processes is {config.num_processes}, but the launcher has started "
            f"{processes.count}; leave num_processes out."
        )
    config = replace(config, num_processes=str(processes.count))
    if processes.is_first:
        config = resumed_config(config)
        validate(config)
        return _run(config, processes)
    if isinstance(config, SynthConfig):
        assist_synth(config, processes)
    else:
        assist_train(processes)
    return []


def _run(config: RunConfig, processes: Processes) -> list[str]:
    limit_threads(config.model_size)
    if isinstance(config, QualityConfig):
        run_id, report = run_quality(config)
        return [*report_lines(report), f"run     {run_id} (mlflow ui shows it)"]
    if isinstance(config, EstimateConfig):
        run_id, prediction = run_estimate(config)
        return [*prediction_lines(prediction, config), f"run     {run_id} (mlflow ui shows it)"]
    if isinstance(config, SynthConfig):
        return summary(MlflowClient().get_run(run_synth(config, processes)))
    assert isinstance(config, VqganConfig)  # the commands left train a network
    resumed = resumed_run_id(config)
    if isinstance(config, TrainConfig):
        uri = run_train(config, resumed_run_id=resumed, processes=processes)
    else:
        uri = run_vqgan(config, resumed_run_id=resumed)
    return [f"model   {uri}", *summary(MlflowClient().get_run(run_id_of(uri)))]


def summary(run: Run) -> list[str]:
    """Returns the energy and CO2e of a finished run as text, per unit and in all.

    A run that nothing could measure says so; it has no figures to show.
    """
    metrics, tags = run.data.metrics, run.data.tags
    unit = tags.get(keys.TAG_UNIT, "")
    per_unit_kwh = metrics.get(keys.energy_kwh_per_unit(unit))
    if keys.ENERGY_KWH not in metrics or per_unit_kwh is None:
        reason = tags.get(keys.TAG_ERROR, "nothing could be measured")
        return [f"energy  not measured: {reason}", f"run     {run.info.run_id}"]
    std_kwh = metrics.get(keys.std_of(keys.energy_kwh_per_unit(unit)))
    spread = "" if std_kwh is None else f" ± {joules_from_kwh(std_kwh):.3g}"
    methods = ", ".join(
        f"{component} {tags[keys.method_tag(component)]}"
        for component in tags[keys.TAG_COMPONENTS].split(",")
    )
    return [
        f"energy  {joules_from_kwh(per_unit_kwh):.4g}{spread} J per {unit} "
        f"({tags[keys.TAG_NUM_WINDOWS]} windows of {tags[keys.TAG_NUM_UNITS]} {unit}s in all, "
        f"{tags[keys.TAG_NUM_DISTINCT_READINGS]} distinct powers; {methods}; "
        f"coverage {metrics[keys.COVERAGE_FRACTION]:.0%})",
        f"CO2e    {metrics[keys.co2e_g_per_unit(unit)] * 1000:.4g} mg per {unit}, "
        f"{metrics[keys.CO2E_G]:.4g} g for the run of {metrics[keys.DURATION_S]:.3g} s",
        f"run     {run.info.run_id} (mlflow ui shows it)",
    ]
