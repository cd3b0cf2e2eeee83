"""A study read back from its runs: what each cell is, and what was measured of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from mlflow_carbon.accounting.uncertainty import UnitStatistics, unit_statistics
from mlflow_carbon.contract import keys, study_tags
from mlflow_carbon.errors import BadRecordError, NoRunsError
from mlflow_carbon.store.access import store_errors
from mlflow_carbon.store.listing import all_experiments, all_runs
from mlflow_carbon.store.run_windows import MeteredRun, read_metered_run
from mlflow_carbon.units import MILLISECONDS_PER_SECOND

# The paper's totals: sections 2.2 and 3.1.
PAPER_UNITS = {"iteration": 150_000, "sample": 10_000}
NO_WINDOW = "every window was shorter than the step of what measures it; make windows longer"


@dataclass(frozen=True)
class StudyCell:
    """One cell of a study, by its newest run that is done, else its newest run.

    Attributes:
        run_id: of the cell.
        name: of the cell.
        task: ``train`` or ``synth``.
        dims: 2 or 3.
        size: of an image, one number per axis.
        model_size: name of the networks' widths.
        steps: denoising steps of a sample; ``None`` for a training.
        num_processes: that shared the work.
        batch_size: images of an iteration in each process.
        device: that it was computed on: ``cpu``, ``cuda``.
        state: ``done``, ``failed``, ``skipped``, ``running`` or ``interrupted``.
        problem: why the cell failed, was skipped or could not be measured; "" without any.
        measured: its measurements; ``None`` where there are none.
        hardware: of the machine; "" where not recorded.
        other_load: what other work used of the machine meanwhile; "" where it was little.
    """

    run_id: str
    name: str
    task: str
    dims: int
    size: tuple[int, ...]
    model_size: str
    steps: int | None
    num_processes: int
    batch_size: int
    device: str
    state: str
    problem: str
    measured: MeteredRun | None
    hardware: str
    other_load: str

    @property
    def num_voxels(self) -> int:
        """Pixels or voxels of an image."""
        product = 1
        for axis in self.size:
            product *= axis
        return product

    @property
    def statistics(self) -> UnitStatistics | None:
        """Energy of one unit by the windows; ``None`` where nothing was measured."""
        return None if self.measured is None else unit_statistics(self.measured.windows)


@dataclass(frozen=True)
class Study:
    """A study with its cells, in the order in which they were begun.

    Attributes:
        run_id: of the parent run.
        name: of the parent run.
        preset: name of the grid.
        state: as that of a cell, or ``stopped``.
        num_cells: of the grid.
        duration_s: from its beginning to its end, pauses included; ``None`` until it has ended.
        cells: those that were begun.
    """

    run_id: str
    name: str
    preset: str
    state: str
    num_cells: int
    duration_s: float | None
    cells: tuple[StudyCell, ...]

    @property
    def energy_kwh(self) -> float:
        """What the cells have taken that were measured, warm-up and set-up included."""
        return sum(cell.measured.energy_kwh for cell in self.cells if cell.measured)

    @property
    def machines(self) -> tuple[str, ...]:
        """The hardware of the cells that were measured."""
        return tuple(dict.fromkeys(cell.hardware for cell in self.cells if cell.measured))


def find_study(client: MlflowClient, text: str | None, experiment_names: Sequence[str] = ()) -> Run:
    """Returns a study's parent run.

    Args:
        client: of the store.
        text: id or name of the run; ``None`` for the newest study.
        experiment_names: where to look; empty looks everywhere.

    Raises:
        NoRunsError: there is no such study.
        TrackingStoreError: the store cannot be read.
    """
    with store_errors(client):
        experiments = [
            experiment.experiment_id
            for experiment in all_experiments(client)
            if not experiment_names or experiment.name in experiment_names
        ]
        runs = all_runs(client, experiments, f"tags.`{study_tags.TAG_STUDY}` LIKE '%'")
    found = [run for run in runs if text in (None, run.info.run_id, run.info.run_name)]
    if not found:
        named = "No study" if text is None else f"No study has the id or name {text!r}"
        raise NoRunsError(f"{named} in this store. Run one: mlflow run . -e study.")
    return max(found, key=lambda run: run.info.start_time)


def read_study(client: MlflowClient, parent: Run) -> Study:
    """Returns a study with the measurements of its cells.

    Raises:
        TrackingStoreError: the store cannot be read.
    """
    tags, runs = parent.data.tags, newest_by_cell(child_runs(client, parent))
    cells = tuple(read_cell(client, run) for run in runs.values())
    return Study(
        run_id=parent.info.run_id,
        name=parent.info.run_name or "",
        preset=tags.get(study_tags.TAG_PRESET, ""),
        state=tags.get(study_tags.TAG_STATE, ""),
        num_cells=int(tags.get(study_tags.TAG_NUM_CELLS, len(cells))),
        duration_s=_duration_s(parent),
        cells=cells,
    )


def _duration_s(run: Run) -> float | None:
    start_ms, end_ms = run.info.start_time, run.info.end_time
    if start_ms is None or not end_ms:
        return None
    return float(end_ms - start_ms) / MILLISECONDS_PER_SECOND


def child_runs(client: MlflowClient, parent: Run) -> list[Run]:
    """Returns the runs of a study's cells, those of attempts that failed too, oldest first.

    Raises:
        TrackingStoreError: the store cannot be read.
    """
    condition = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.info.run_id}'"
    with store_errors(client):
        runs = all_runs(client, [parent.info.experiment_id], condition)
    cells = [run for run in runs if study_tags.TAG_CELL in run.data.tags]
    return sorted(cells, key=lambda run: run.info.start_time)


def newest_by_cell(runs: Sequence[Run]) -> dict[str, Run]:
    """Returns one run for each cell, by its name: the newest that is done, else the newest.

    A run without parameters was killed as it began, and says nothing of its cell.
    """
    chosen: dict[str, Run] = {}
    for run in runs:
        if study_tags.PARAM_TASK not in run.data.params:
            continue
        name = run.data.tags[study_tags.TAG_CELL]
        if name not in chosen or is_done(run) or not is_done(chosen[name]):
            chosen[name] = run
    return chosen


def is_done(run: Run) -> bool:
    """Returns whether a cell's run has done all of its work."""
    return bool(run.data.tags.get(study_tags.TAG_STATE) == study_tags.DONE)


def read_cell(client: MlflowClient, run: Run) -> StudyCell:
    """Returns the cell of a run, with its measurements if it is done.

    Raises:
        TrackingStoreError: the store cannot be read.
    """
    params, tags = run.data.params, run.data.tags
    measured, problem = None, tags.get(study_tags.TAG_PROBLEM, "")
    if is_done(run):
        try:
            measured = read_metered_run(client, run)
            if measured.unit == keys.UNIT_MINUTE:  # of a run without windows
                measured, problem = None, NO_WINDOW
        except (NoRunsError, BadRecordError) as error:
            problem = error.message
    steps = params.get(study_tags.PARAM_STEPS)
    return StudyCell(
        run_id=run.info.run_id,
        name=tags[study_tags.TAG_CELL],
        task=params[study_tags.PARAM_TASK],
        dims=int(params[study_tags.PARAM_DIMS]),
        size=tuple(int(axis) for axis in params[study_tags.PARAM_SIZE].split("x")),
        model_size=params[study_tags.PARAM_MODEL_SIZE],
        steps=None if steps is None else int(steps),
        num_processes=int(params[study_tags.PARAM_NUM_PROCESSES]),
        batch_size=int(params[study_tags.PARAM_BATCH_SIZE]),
        device=params.get(study_tags.PARAM_DEVICE, ""),
        state=tags.get(study_tags.TAG_STATE, ""),
        problem=problem,
        measured=measured,
        hardware=tags.get(keys.TAG_HARDWARE, ""),
        other_load=tags.get(keys.TAG_OTHER_LOAD, ""),
    )
