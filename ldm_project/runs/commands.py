"""Runs the command that its settings describe, in one process or several, and prints its cost."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from ldm_project.checks import check_settings
from ldm_project.diffusion.acceleration import limit_threads
from ldm_project.diffusion.processes import ALONE, Processes, check_devices, joined_processes
from ldm_project.errors import InvalidInputError
from ldm_project.parsing import num_launched
from ldm_project.runs.command_runs import command_run
from ldm_project.runs.estimate import memory_lines, prediction_lines, run_estimate
from ldm_project.runs.interrupted_trainings import as_started
from ldm_project.runs.launching import launch
from ldm_project.runs.quality import report_lines, run_quality
from ldm_project.runs.references import run_id_of
from ldm_project.runs.synth import run_synth
from ldm_project.runs.train import run_train
from ldm_project.runs.vqgan import run_vqgan
from ldm_project.settings import (
    EstimateSettings,
    QualitySettings,
    RunSettings,
    SharedSettings,
    SynthSettings,
    TrainSettings,
    VqganSettings,
)
from mlflow_carbon.accounting.amounts import duration_text, mass_text
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_description import words_of_methods
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.reporting.tables import ENERGY_SCALES, choose_scale


def run_command(settings: RunSettings) -> list[str]:
    """Runs the command that the settings belong to; returns its cost as lines of text."""
    with memory_explained():
        check_settings(settings)
        if num_launched() > 1:
            with joined_processes(settings.device) as processes:
                return _run_together(settings, processes)
        settings = as_started(settings)
        if isinstance(settings, SharedSettings) and settings.num_processes > 1:
            return _launched(settings)
        return _run(settings, ALONE)


@contextmanager
def memory_explained() -> Iterator[None]:
    """Turns running out of memory in a block into an error that says which parameters to lower.

    Raises:
        InvalidInputError: the memory of the computer or of a GPU is not enough.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # on a CPU only torch's text says so
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
            reason = (text.splitlines() or ["out of memory"])[0]
            raise InvalidInputError(
                f"Out of memory: {reason}. Lower batch_size=, then size=, then model_size=; "
                f"a training needs less with gradient_checkpointing=on, too."
            ) from error
        raise


def _launched(settings: SharedSettings) -> list[str]:
    """Runs a command in several processes; the first process prints the cost."""
    check_devices(settings.device, settings.num_processes)
    with command_run(settings) as run_id:
        launch(settings, run_id)
    return []


def _run_together(settings: RunSettings, processes: Processes) -> list[str]:
    """Runs this process's share of a command that a launcher has started."""
    if not isinstance(settings, SharedSettings):
        raise InvalidInputError("This command runs in one process: start it without a launcher.")
    if settings.num_processes != processes.count:
        raise InvalidInputError(
            f"num_processes is {settings.num_processes}, but the launcher has started "
            f"{processes.count}; leave num_processes out."
        )
    # Only the first process may be able to read the state of a resumed training.
    settings = processes.shared(as_started(settings) if processes.is_first else None)
    return _run(settings, processes)


def _run(settings: RunSettings, processes: Processes) -> list[str]:
    limit_threads(settings.model_size)
    return _RUNS[settings.command](settings, processes)


def _run_vqgan(settings: VqganSettings, processes: Processes) -> list[str]:
    return _model_lines(run_vqgan(settings, processes=processes))


def _run_train(settings: TrainSettings, processes: Processes) -> list[str]:
    uri = run_train(settings, processes=processes)
    return _model_lines(uri) if processes.is_first else []


def _run_synth(settings: SynthSettings, processes: Processes) -> list[str]:
    run_id = run_synth(settings, processes=processes)
    return summary(MlflowClient().get_run(run_id)) if processes.is_first else []


def _run_estimate(settings: EstimateSettings, _: Processes) -> list[str]:
    run_id, prediction, forecast = run_estimate(settings)
    lines = [*memory_lines(forecast, settings), *prediction_lines(prediction, settings)]
    return [*lines, _run_line(run_id)]


def _run_quality(settings: QualitySettings, _: Processes) -> list[str]:
    run_id, report = run_quality(settings)
    return [*report_lines(report), _run_line(run_id)]


_RUNS: Mapping[str, Callable[[Any, Processes], list[str]]] = {
    VqganSettings.command: _run_vqgan,
    TrainSettings.command: _run_train,
    SynthSettings.command: _run_synth,
    EstimateSettings.command: _run_estimate,
    QualitySettings.command: _run_quality,
}


def _model_lines(uri: str) -> list[str]:
    return [f"model   {uri}", *summary(MlflowClient().get_run(run_id_of(uri)))]


def _run_line(run_id: str) -> str:
    return f"run     {run_id} (mlflow ui shows it)"


def summary(run: Run) -> list[str]:
    """Returns the energy and CO2e of a finished run as text, per unit and in all.

    If the energy could not be measured, the lines give the reason instead of figures.
    """
    record, tags = RunRecord.read(run), run.data.tags
    total, unit = record.total, record.unit or ""
    energy = record.energy_per_unit.get(unit)
    if total is None or total.energy_kwh is None or record.co2e_g is None or energy is None:
        reason = tags.get(keys.TAG_ERROR, "nothing could be measured")
        return [f"energy  not measured: {reason}", f"run     {run.info.run_id}"]
    scale = choose_scale([energy.energy_kwh], ENERGY_SCALES)
    std_kwh = math.nan if energy.std_kwh is None else energy.std_kwh
    price_g = record.co2e_g / total.energy_kwh if total.energy_kwh else 0.0
    seen = total.coverage_fraction or 0.0  # not known: as of an estimate, nothing is said
    told = f"; counters or samples saw {seen:.0%} of the time" if seen else ""
    methods = {name: tags[keys.method_tag(name)] for name in tags[keys.TAG_COMPONENTS].split(",")}
    return [
        f"energy  {scale.text_with_std(energy.energy_kwh, std_kwh)} {scale.symbol} per {unit} "
        f"({tags[keys.TAG_NUM_WINDOWS]} windows of {tags[keys.TAG_NUM_UNITS]} {unit}s in all)",
        f"CO2e    {mass_text(energy.energy_kwh * price_g)} per {unit}, "
        f"{mass_text(record.co2e_g)} for the run of {duration_text(total.duration_s or 0.0)}",
        f"how     {words_of_methods(methods)}; {tags[keys.TAG_NUM_DISTINCT_READINGS]} distinct "
        f"powers of the windows{told}",
        _run_line(run.info.run_id),
    ]
