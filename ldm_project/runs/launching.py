"""Starts the processes of a command that asks for several, and waits for them."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from mlflow.environment_variables import MLFLOW_RUN_ID
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from ldm_project.errors import LdmProjectError
from ldm_project.runs.interrupted_trainings import how_to_resume
from ldm_project.settings import SharedSettings

_elastic_logger = logging.getLogger("torch.distributed.elastic")


def launch(settings: SharedSettings, run_id: str) -> None:
    """Runs a command in as many processes as its settings say, all of them in one run.

    Raises:
        LdmProjectError: a process failed, or this process was told to stop; all processes it
            started have ended.
    """
    options = [
        f"--{name.replace('_', '-')}={value}" for name, value in asdict(settings.config).items()
    ]
    try:
        start_processes(
            [settings.command, *options],
            run_id=run_id,
            num_processes=settings.num_processes,
            max_restarts=settings.max_restarts,
        )
    except LdmProjectError as error:
        told = f"{error.message} {how_to_resume(settings.command, run_id)}"
        raise LdmProjectError(told.rstrip()) from error


def start_processes(
    arguments: Sequence[str], *, run_id: str, num_processes: int, max_restarts: int = 0
) -> None:
    """Runs a command of this project in several processes that share a run, and waits for them.

    The processes are started anew, not forked: the meter recognises them by the environment
    variables that they were started with.

    Args:
        arguments: the command and its options.
        run_id: that the processes write to.
        num_processes: on this machine.
        max_restarts: times that all processes are started anew after one has failed.

    Raises:
        LdmProjectError: a process failed, or this process was told to stop; all processes it
            started have ended.
    """
    launcher = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=run_id,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=max_restarts,
    )
    num_threads = max(1, (os.cpu_count() or 1) // num_processes)
    _elastic_logger.setLevel(logging.CRITICAL)  # we say in a sentence what it logs at length
    try:
        with _environment({MLFLOW_RUN_ID.name: run_id}, {"OMP_NUM_THREADS": str(num_threads)}):
            elastic_launch(launcher, sys.executable)("-m", "ldm_project", *arguments)
    except (ChildFailedError, SignalException) as error:
        print(file=sys.stderr)  # the bar of a process that was ended is still on the last line
        raise LdmProjectError(_end_of(error, num_processes)) from error


def _end_of(error: ChildFailedError | SignalException, num_processes: int) -> str:
    if isinstance(error, SignalException):
        return f"The {num_processes} processes were stopped by {error.sigval.name}."
    rank, failure = error.get_first_failure()
    name = failure.signal_name()
    how = f"was ended by {name}"
    if name == "SIGKILL":
        how += ", as by a system without memory left"
    if failure.exitcode >= 0:
        how = f"failed (exit code {failure.exitcode}), as told above"
    return f"Process {rank} of {num_processes} {how}; the others were stopped."


@contextmanager
def _environment(settings: Mapping[str, str], defaults: Mapping[str, str]) -> Iterator[None]:
    """Sets variables for the processes that are started in the block, defaults where unset."""
    before = dict(os.environ)
    os.environ.update({**defaults, **os.environ, **settings})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
