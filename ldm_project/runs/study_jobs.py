"""Cells of a study as jobs of submitit: on this machine one by one, or on a Slurm cluster."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import psutil
import torch

from ldm_project.diffusion.models import resolve_device
from ldm_project.errors import InvalidInputError, LdmProjectError
from ldm_project.price import Price
from ldm_project.runs.study_measuring import Outcome, measure_cell, place_for
from ldm_project.runs.study_runs import interrupt_cell
from ldm_project.study.cells import Cell
from ldm_project.study.study_settings import StudySettings
from ldm_project.study.work import use_threads_of
from mlflow_carbon.contract import study_tags
from mlflow_carbon.tracking.mlflow_seams import current_experiment_id

LOCAL, SLURM = "local", "slurm"
FOLDER_VARIABLE = "LDM_STUDY_JOBS"
DEFAULT_FOLDER = "study-jobs"  # below the working folder, which a cluster's nodes share
DEFAULT_MINUTES = 240  # of a Slurm job; submitit's own default is 5
LOCAL_MINUTES = 7 * 24 * 60  # submitit's own default is 2
WATCH_S = 1.0
POLL_S = {LOCAL: 0.2, SLURM: 10.0}
NUM_AT_ONCE = {LOCAL: 1, SLURM: 64}  # cells that shared a machine would disturb each other


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """How cells become jobs.

    Attributes:
        kind: ``local`` or ``slurm``.
        parameters: of submitit's executor, such as ``partition`` and ``gpus_per_node``.
        num_at_once: jobs that are submitted and not ended.
        max_retries: times that a cell is tried again whose worker died.
        folder: of a job's script and logs; ``%j`` is the job's id.
    """

    kind: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    num_at_once: int
    max_retries: int
    folder: Path

    def executor(self) -> Any:
        """Returns submitit's executor.

        Raises:
            LdmProjectError: this is no Slurm cluster.
            InvalidInputError: submitit knows no such parameter.
        """
        import submitit

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == LOCAL:
            executor: Any = submitit.LocalExecutor(folder=self.folder)
            executor.update_parameters(
                timeout_min=LOCAL_MINUTES, gpus_per_node=torch.cuda.device_count()
            )
            return executor
        try:
            executor = submitit.SlurmExecutor(folder=self.folder)
        except RuntimeError as error:
            raise LdmProjectError(
                "launcher is 'slurm', but there is no srun here; start the study where jobs are "
                "submitted, or take launcher=local."
            ) from error
        try:
            executor.update_parameters(**self.parameters)
        except ValueError as error:
            raise InvalidInputError(
                f"slurm has a parameter that submitit does not know: {error}."
            ) from error
        return executor


def launcher_of(settings: StudySettings) -> Launcher:
    """Returns the launcher that a study asks for."""
    kind = settings.config.launcher
    folder = Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).absolute()
    usual = {"time": DEFAULT_MINUTES, "job_name": "ldm-study"}
    return Launcher(
        kind=kind,
        parameters={**usual, **settings.slurm} if kind == SLURM else {},
        num_at_once=NUM_AT_ONCE[kind],
        max_retries=settings.config.max_retries,
        folder=folder / "%j",
    )


def do_cell(told: Mapping[str, Any]) -> dict[str, str]:
    """Measures a cell in the process of a job; returns its outcome.

    Args:
        told: the cell, how it is computed, and where its figures go; see ``CellJobs.submit``.
    """
    if told["study_pid"] is not None:
        _end_with(told["study_pid"])
    mlflow.set_tracking_uri(told["tracking_uri"])
    os.environ["MLFLOW_EXPERIMENT_ID"] = told["experiment_id"]
    cell = Cell.from_dict(told["cell"])
    use_threads_of(tuple(told["model_sizes"]))
    device = resolve_device(told["device"])  # of the machine that computes
    place = place_for(
        cell, device, precision=told["precision"], sampler=told["sampler"], seed=told["seed"]
    )
    return asdict(measure_cell(told["parent_run_id"], cell, place, Price(**told["price"])))


def _end_with(pid: int) -> None:
    """Ends this process soon after another one of this machine has ended, however that ended."""
    try:
        study = psutil.Process(pid)
    except psutil.NoSuchProcess:
        os._exit(1)

    def watch() -> None:
        while study.is_running() and study.status() != psutil.STATUS_ZOMBIE:
            time.sleep(WATCH_S)
        os._exit(1)  # a study that goes on will run this cell anew

    threading.Thread(target=watch, name="study-watch", daemon=True).start()


@dataclass
class _Running:
    cell: Cell
    job: Any
    num_tries: int


class CellJobs:
    """The jobs of a study that have not ended; leaving the block by an error cancels them."""

    def __init__(
        self,
        launcher: Launcher,
        settings: StudySettings,
        price: Price,
        parent_run_id: str,
        do: Callable[[Mapping[str, Any]], dict[str, str]] = do_cell,
    ) -> None:
        """Prepares the executor.

        Args:
            launcher: how cells become jobs.
            settings: of the study.
            price: of the electricity.
            parent_run_id: of the study.
            do: what a job does.

        Raises:
            LdmProjectError: jobs cannot be submitted here.
        """
        self._launcher = launcher
        self._settings = settings
        self._price = price
        self._parent_run_id = parent_run_id
        self._do = do
        self._executor = launcher.executor()
        self._running: list[_Running] = []

    def __enter__(self) -> "CellJobs":
        """Gives the jobs."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Cancels what still runs, if the block ends by an error."""
        for running in self._running if kind is not None else ():
            with suppress(Exception):  # it may have ended, and Slurm may be away
                running.job.cancel()
            interrupt_cell(self._parent_run_id, running.cell, "the study was stopped")

    @property
    def num_running(self) -> int:
        """Jobs that are submitted and not ended."""
        return len(self._running)

    def submit(self, cell: Cell, *, num_tries: int = 1) -> None:
        """Submits a job for a cell."""
        settings = self._settings
        told = {
            "cell": cell.to_dict(),
            "device": settings.device,
            "precision": settings.precision,
            "sampler": settings.sampler,
            "seed": settings.seed,
            "model_sizes": settings.axes.model_sizes,
            "price": vars(self._price),
            "parent_run_id": self._parent_run_id,
            "study_pid": os.getpid() if self._launcher.kind == LOCAL else None,
            "tracking_uri": _absolute(mlflow.get_tracking_uri()),
            "experiment_id": current_experiment_id(),
        }
        job = self._executor.submit(self._do, told)
        self._running.append(_Running(cell, job, num_tries))

    def ended(self) -> Iterator[Outcome]:
        """Waits until a job has ended or for a moment; yields the outcomes that are final.

        A cell whose worker died is submitted again, as often as the launcher allows.
        """
        over = [running for running in self._running if running.job.done()]
        if not over:
            time.sleep(POLL_S[self._launcher.kind])
        for running in over:
            self._running.remove(running)
            error = running.job.exception()
            if error is None:
                yield Outcome(**running.job.result())
                continue
            problem = f"its worker died: {_last_line(error)}"
            run_id = interrupt_cell(self._parent_run_id, running.cell, problem)
            if running.num_tries <= self._launcher.max_retries:
                self.submit(running.cell, num_tries=running.num_tries + 1)
                continue
            told = f"{problem} ({running.num_tries} tries)"
            yield Outcome(running.cell.name, study_tags.FAILED, run_id, told)


def _last_line(error: BaseException) -> str:
    """Returns the end of what submitit says, which is what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- \t")]
    return lines[-1] if lines else type(error).__name__


def _absolute(uri: str) -> str:
    """Returns an address that means the same store in any folder."""
    scheme = "sqlite:///"
    if not uri.startswith(scheme) or uri.startswith(scheme + "/"):
        return uri
    return scheme + str(Path(uri.removeprefix(scheme)).absolute())
