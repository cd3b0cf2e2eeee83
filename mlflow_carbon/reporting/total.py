"""The whole footprint of a project: every run that was metered, however it ended, each once."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlflow import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.accounting.emissions import co2e_g
from mlflow_carbon.accounting.measurement_error import bounds_of
from mlflow_carbon.contract import keys
from mlflow_carbon.contract.run_record import RunRecord
from mlflow_carbon.contract.windows import Window, without_overlap
from mlflow_carbon.errors import BadRecordError, NoRunsError
from mlflow_carbon.grid.intensity import CarbonIntensity
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.experiments import find_experiment
from mlflow_carbon.store.listing import all_experiments
from mlflow_carbon.store.reflected import UnknownTablesError
from mlflow_carbon.store.run_records import read_record
from mlflow_carbon.store.run_source import RunSource
from mlflow_carbon.store.stored_runs import Progress, Scope, StoredRun, Wanted
from mlflow_carbon.units import MILLISECONDS_PER_SECOND


@dataclass(frozen=True, slots=True)  # a store may have 100,000 of them
class CountedRun:
    """One run's part in the total.

    Attributes:
        run_id: MLflow's.
        status: as MLflow has it.
        parent_run_id: of the run around it.
        experiment: its name.
        energy_kwh: ``None`` where nothing was measured.
        co2e_g: ``None`` where it has no energy or no price.
        low_kwh: lower bound of the energy by its methods; ``None`` where they are not known.
        high_kwh: the upper bound.
        intensity: that the CO2e was computed by.
        pue: that the CO2e was computed by.
        methods: of each component that was measured.
        is_partial: whether the energy is a lower bound, a killed run's windows.
        is_shared: whether it includes the energy of other runs at the same time.
        start_unix_s: when the run started.
        end_unix_s: when it ended; ``None`` while it goes on.
        duration_s: of the metered interval.
    """

    run_id: str
    status: str
    parent_run_id: str | None
    experiment: str
    energy_kwh: float | None
    co2e_g: float | None
    low_kwh: float | None
    high_kwh: float | None
    intensity: CarbonIntensity | None
    pue: float | None
    methods: Mapping[str, str]
    is_partial: bool
    is_shared: bool
    start_unix_s: float
    end_unix_s: float | None
    duration_s: float


@dataclass(frozen=True)
class ProjectTotal:
    """The footprint of a project.

    Attributes:
        runs: every metered run.
        counted: those whose energy is in the sum; of a tree the parent or its children.
        num_unmetered: runs of the same experiments that carry no measurement at all.
        faults: a reason for each run that cannot be read.
    """

    runs: tuple[CountedRun, ...]
    counted: tuple[CountedRun, ...]
    num_unmetered: int
    faults: tuple[str, ...]

    @property
    def energy_kwh(self) -> float:
        """IT energy of all runs, each counted once."""
        return math.fsum(run.energy_kwh or 0.0 for run in self.counted)

    @property
    def co2e_g(self) -> float:
        """CO2e of all runs, each counted once."""
        return math.fsum(run.co2e_g or 0.0 for run in self.counted)

    @property
    def bounds_kwh(self) -> tuple[float, float] | None:
        """Within which the energy lies, by its methods; ``None`` where a method is not known."""
        if any(run.low_kwh is None or run.high_kwh is None for run in self.counted):
            return None
        return (
            math.fsum(run.low_kwh or 0.0 for run in self.counted),
            math.fsum(run.high_kwh or 0.0 for run in self.counted),
        )

    @property
    def num_unmeasured(self) -> int:
        """Metered runs in which no device could be measured."""
        return sum(run.energy_kwh is None for run in self.runs)


def read_total(
    client: MlflowClient,
    *,
    experiment_names: Sequence[str] = (),
    since_unix_s: float | None = None,
    intensity: CarbonIntensity | None = None,
    pue: float | None = None,
    is_direct: bool = True,
    on_progress: Progress | None = None,
) -> ProjectTotal:
    """Reads every metered run of some experiments, however it ended, and adds them up.

    Args:
        client: of the store.
        experiment_names: where to look; empty for everywhere.
        since_unix_s: only runs that started then or later.
        intensity: to price all energy with; ``None`` keeps the recorded one.
        pue: facility energy over IT energy; ``None`` keeps the recorded one.
        is_direct: whether to read the tables of a database, where they are known.
        on_progress: is told how many runs have been read, and of how many where that is known.

    Raises:
        TrackingStoreError: an experiment does not exist, or the store cannot be read.
        NoRunsError: there is no metered run.
    """
    with store_errors(client):
        named = [find_experiment(client, name) for name in experiment_names]
        experiments = named or all_experiments(client)
        names_by_id = {item.experiment_id: item.name for item in experiments}
        since_ms = None
        if since_unix_s is not None:
            since_ms = round(since_unix_s * MILLISECONDS_PER_SECOND)
        scope = Scope(list(names_by_id), since_ms, has_unmetered=True)
        source = RunSource(client, scope, is_direct=is_direct, on_progress=on_progress)
        counting = _Counting(names_by_id, intensity=intensity, pue=pue)
        read = _read(source, counting)
    if not read.runs:
        where = ", ".join(map(repr, names_by_id.values())) if experiment_names else "this store"
        raise NoRunsError(
            f"No metered run in {where} ({read.num_unmetered + len(read.faults)} not metered). "
            "Meter runs with mlflow_carbon.track(), or name another experiment or time."
        )
    return ProjectTotal(
        tuple(read.runs), tuple(each_once(read.runs)), read.num_unmetered, tuple(read.faults)
    )


@dataclass
class _Read:
    """What a store holds: metered runs, how many others, and a reason for each bad record."""

    runs: list[CountedRun] = field(default_factory=list)
    num_unmetered: int = 0
    faults: list[str] = field(default_factory=list)


def _read(source: RunSource, counting: "_Counting") -> _Read:
    """Returns the runs read from the tables of a store or, if that fails, by MLflow."""
    for each_run in source.ways(Wanted(params=(), tags=(keys.TAG_SHARED,))):
        read = _Read()
        unended: list[StoredRun] = []  # asked for when no query is open
        try:
            for run in each_run():
                if keys.TAG_SCHEMA not in run.tags:
                    read.num_unmetered += 1
                    continue
                try:
                    record = RunRecord.parse(
                        run.run_id, run.metrics, {**run.tags, **run.figure_tags}
                    )
                except BadRecordError as error:
                    read.faults.append(error.reason)
                    continue
                if record.total is not None and record.total.energy_kwh is not None:
                    read.runs.append(counting.run(run, record))
                else:
                    unended.append(run)
        except UnknownTablesError:
            continue
        for run in unended:
            try:
                whole = read_record(source.client, source.client.get_run(run.run_id))
            except BadRecordError as error:
                read.faults.append(error.reason)
            else:
                read.runs.append(counting.run(run, whole.or_lower_bound()))
        read.runs.sort(key=lambda run: run.start_unix_s)
        return read
    raise AssertionError("MLflow's way never raises UnknownTablesError")


def each_once(runs: Sequence[CountedRun]) -> list[CountedRun]:
    """Returns runs whose energies add up to that of all, none of it twice.

    A parent's energy contains that of its children in the same process; children on other machines
    are not in it. So of a tree the larger counts: the parent's own, or the sum of its children.
    Of runs that one process metered at one time, each of which has the energy of all, those count
    that do not overlap and hold most.
    """
    children: defaultdict[str | None, list[CountedRun]] = defaultdict(list)  # of parents only
    known = {run.run_id for run in runs}
    for run in runs:
        is_inside = run.parent_run_id in known and run.parent_run_id != run.run_id
        children[run.parent_run_id if is_inside else None].append(run)
    chosen: dict[str, list[CountedRun]] = {}  # of the parents
    for run in reversed(_parents_first(children)):
        if run.run_id not in children:
            continue
        inside = _without_shared(_chosen_of(children[run.run_id], chosen))
        inside_kwh = math.fsum(it.energy_kwh or 0.0 for it in inside)
        is_own = run.energy_kwh is not None and run.energy_kwh >= inside_kwh
        chosen[run.run_id] = [run] if is_own else inside
    return _without_shared(_chosen_of(children.get(None, ()), chosen))


def _chosen_of(
    runs: Sequence[CountedRun], chosen: Mapping[str, Sequence[CountedRun]]
) -> list[CountedRun]:
    """Returns the runs to add up, among these and all below; one without children counts itself."""
    found: list[CountedRun] = []
    for run in runs:
        if run.run_id in chosen:
            found += chosen[run.run_id]
        elif run.energy_kwh is not None:
            found.append(run)
    return found


def _parents_first(children: Mapping[str | None, Sequence[CountedRun]]) -> list[CountedRun]:
    ordered = list(children.get(None, ()))
    for run in ordered:  # grows as we go
        ordered += children.get(run.run_id, ())
    return ordered


def _without_shared(runs: Sequence[CountedRun]) -> list[CountedRun]:
    shared = [run for run in runs if run.is_shared]
    if len(shared) < 2:
        return list(runs)
    windows = [_as_window(run) for run in shared]
    by_window = {id(window): run for window, run in zip(windows, shared, strict=True)}
    kept = [by_window[id(window)] for window in without_overlap(windows)]
    return [run for run in runs if not run.is_shared] + kept


def _as_window(run: CountedRun) -> Window:
    end_s = run.start_unix_s + run.duration_s if run.end_unix_s is None else run.end_unix_s
    return Window(end_s, run.duration_s, run.energy_kwh or 0.0, {}, 1.0, None)


class _Counting:
    """Makes runs of records; what many runs have in common is kept once."""

    def __init__(
        self,
        names_by_id: Mapping[str, str],
        *,
        intensity: CarbonIntensity | None,
        pue: float | None,
    ) -> None:
        self._names_by_id = names_by_id
        self._intensity = intensity
        self._pue = pue
        self._intensities: dict[CarbonIntensity, CarbonIntensity] = {}
        self._methods: dict[tuple[tuple[str, str], ...], dict[str, str]] = {}

    def run(self, run: StoredRun, record: RunRecord) -> CountedRun:
        """Returns a run as it counts, by the price that is asked for or its own."""
        total = record.total
        energy_kwh = None if total is None else total.energy_kwh
        used = self._intensity or record.intensity
        used_pue = record.pue if self._pue is None else self._pue
        mass_g = record.co2e_g
        is_repriced = self._intensity is not None or self._pue is not None or mass_g is None
        if energy_kwh is not None and is_repriced and used is not None and used_pue is not None:
            mass_g = co2e_g(energy_kwh, pue=used_pue, intensity_g_per_kwh=used.g_per_kwh)
        methods = {} if record.description is None else record.description.method_by_component
        by_component = {} if total is None else total.energy_kwh_by_component
        bounds = None if energy_kwh is None else bounds_of(by_component, methods)
        measured = tuple((name, methods[name]) for name in by_component if name in methods)
        return CountedRun(
            run_id=run.run_id,
            status=run.status,
            parent_run_id=run.tags.get(MLFLOW_PARENT_RUN_ID),
            experiment=self._names_by_id[run.experiment_id],
            energy_kwh=energy_kwh,
            co2e_g=mass_g if energy_kwh is not None else None,
            low_kwh=None if bounds is None else bounds.low_kwh,
            high_kwh=None if bounds is None else bounds.high_kwh,
            intensity=None if used is None else self._intensities.setdefault(used, used),
            pue=used_pue,
            methods=self._methods.setdefault(measured, dict(measured)),
            is_partial=record.is_partial,
            is_shared=run.tags.get(keys.TAG_SHARED) == "true",
            start_unix_s=(run.start_ms or 0) / MILLISECONDS_PER_SECOND,
            end_unix_s=None if run.end_ms is None else run.end_ms / MILLISECONDS_PER_SECOND,
            duration_s=(0.0 if total is None else total.duration_s) or 0.0,
        )
