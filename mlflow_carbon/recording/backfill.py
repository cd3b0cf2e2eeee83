"""Gives runs that were never metered the energy derived from their system metrics."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon import __version__
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.assumptions import Assumptions
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.totals import Total
from mlflow_carbon.contract.windows import Window, WindowColumns
from mlflow_carbon.errors import InvalidInputError
from mlflow_carbon.metering.cpu_power import USER, load_models, plain_name
from mlflow_carbon.recording.journal import Batch, Point
from mlflow_carbon.recording.outbox import RunWriter
from mlflow_carbon.recording.system_metrics import Backfilled, has_system_metrics, read_backfilled
from mlflow_carbon.store.listing import all_runs
from mlflow_carbon.units import MILLISECONDS_PER_SECOND, SECONDS_PER_MINUTE

TRACKER = "mlflow system metrics"
_RUNNING = "RUNNING"


@dataclass(frozen=True)
class CpuPower:
    """Design power of all CPUs of a node, and the source of the figure."""

    tdp_w: float
    source: str


@dataclass(frozen=True)
class Candidate:
    """A run that was not metered, and its energy by its system metrics."""

    run: Run
    is_parent: bool
    found: Backfilled

    @property
    def has_energy(self) -> bool:
        """Whether the run has energy to write."""
        return self.found.reading.energy_kwh is not None


@dataclass(frozen=True)
class Survey:
    """The runs to backfill in some experiments, and the numbers of runs to leave alone."""

    candidates: tuple[Candidate, ...]
    num_metered: int
    num_without_metrics: int
    num_running: int


def cpu_power(name: str | None, tdp_w: float | None) -> CpuPower | None:
    """Returns a CPU's design power by its name or as given; ``None`` if neither is given.

    Raises:
        InvalidInputError: both are given, the power is not above 0, or the table lacks the CPU.
    """
    if tdp_w is not None:
        if name is not None:
            raise InvalidInputError("Give --cpu or --cpu-tdp-w, not both.")
        if not (math.isfinite(tdp_w) and tdp_w > 0):
            raise InvalidInputError(f"cpu_tdp_w is {tdp_w}; give a number above 0.")
        return CpuPower(tdp_w, USER)
    return None if name is None else _power_by_table(name)


def _power_by_table(cpu_name: str) -> CpuPower:
    models = load_models()
    plain = plain_name(cpu_name)
    if plain in models:
        model = models[plain]
        return CpuPower(model.tdp_w, f"table: {model.name} ({model.tdp_w:g} W)")
    near = difflib.get_close_matches(plain, models, n=3, cutoff=0.5)
    names = ", ".join(models[name].name for name in near)
    offer = f" Nearest: {names}." if names else ""
    raise InvalidInputError(f"No TDP is known for CPU {cpu_name!r}.{offer} Or pass --cpu-tdp-w.")


def survey(client: MlflowClient, experiment_ids: Sequence[str], *, cpu: CpuPower | None) -> Survey:
    """Finds the runs to backfill; writes nothing.

    Args:
        client: of the store.
        experiment_ids: where to look.
        cpu: ``None`` leaves the CPU out.
    """
    metered, running, without, found = [], [], [], []
    for run in all_runs(client, experiment_ids):
        if keys.TAG_SCHEMA in run.data.tags:
            metered.append(run)
        elif not has_system_metrics(run):
            without.append(run)
        elif run.info.status == _RUNNING or run.info.end_time is None:
            running.append(run)
        else:
            found.append(run)
    with_energy = [*metered, *found]
    parent_run_ids = {run.data.tags.get(MLFLOW_PARENT_RUN_ID) for run in with_energy}
    candidates = [
        Candidate(
            run,
            run.info.run_id in parent_run_ids,
            read_backfilled(client, run, cpu_tdp_w=None if cpu is None else cpu.tdp_w),
        )
        for run in found
    ]
    return Survey(tuple(candidates), len(metered), len(without), len(running))


def write(
    client: MlflowClient, candidate: Candidate, assumptions: Assumptions, *, cpu: CpuPower | None
) -> None:
    """Writes a candidate's energy and CO2e to its run, all at once.

    Args:
        client: of the store.
        candidate: with energy.
        assumptions: what turns energy into CO2e.
        cpu: as in the survey.

    Raises:
        MlflowException: the store refuses.
    """
    run_id, reading = candidate.run.info.run_id, candidate.found.reading
    values, tags = figures(candidate, assumptions, cpu=cpu)
    timestamp_ms = round((reading.start_unix_s + reading.duration_s) * MILLISECONDS_PER_SECOND)
    points = tuple(Point(key, value, timestamp_ms, 0) for key, value in values.items())
    RunWriter(client, run_id).write(Batch(points, tags))


def figures(
    candidate: Candidate, assumptions: Assumptions, *, cpu: CpuPower | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Returns the metrics and tags of a candidate's run.

    Power and energy per minute are those of the covered time; other time adds nothing.
    """
    total, covered_s = candidate.found.reading, candidate.found.covered_s
    covered = replace(total, duration_s=covered_s)
    window = Window.of(covered, covered_s / SECONDS_PER_MINUTE, keys.UNIT_MINUTE)
    end_unix_s = total.start_unix_s + total.duration_s
    record = RunRecord(
        candidate.run.info.run_id,
        total=Total.of(total),
        total_end_ms=round(end_unix_s * MILLISECONDS_PER_SECOND),
    )
    record = record.summing(WindowColumns([] if window is None else [window]), keys.UNIT_MINUTE)
    values = record.assuming(assumptions).metrics()
    if window is not None and window.power_w is not None:
        values[keys.POWER_W] = window.power_w
    components = sorted(total.energy_kwh_by_component())
    tags = assumptions.tags() | assumptions.default_tags()
    tags |= record.window_tags() | record.total_tags()
    tags |= {keys.method_tag(component): keys.METHOD_BACKFILLED for component in components}
    tags |= {
        keys.TAG_SCHEMA: keys.SCHEMA_VERSION,
        keys.TAG_SCOPE: keys.SCOPE_PARENT if candidate.is_parent else keys.SCOPE_RUN,
        keys.TAG_COMPONENTS: ",".join(components),
        keys.TAG_TRACKER: TRACKER,
        keys.TAG_PLUGIN_VERSION: __version__,
        keys.TAG_ATTRIBUTION: "whole_node" if "cpu" in components else "gpu_only",
    }
    if "cpu" not in components:
        tags[keys.method_tag("cpu")] = keys.METHOD_UNAVAILABLE
    elif cpu is not None:
        tags[keys.TAG_CPU_TDP_SOURCE] = cpu.source
    if candidate.found.problems:
        tags[keys.TAG_ERROR] = " ".join(candidate.found.problems)
    return values, tags
