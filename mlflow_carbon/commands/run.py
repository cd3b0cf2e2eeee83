"""``mlflow-carbon run``: any command metered as an MLflow run, with all its processes."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from mlflow_carbon.commands.options import example, given_text, tracking_uri_option
from mlflow_carbon.commands.pricing import price_settings_options
from mlflow_carbon.contract import keys
from mlflow_carbon.inert import shown

if TYPE_CHECKING:
    from mlflow_carbon.grid.price_settings import PriceSettings

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes of a shell
SIGNAL_BASE = 128  # a shell's exit code of a signal is above it
# What a user or a scheduler sends to a command; those that stop or kill need no help.
FORWARDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
FROM_TERMINAL = ("SIGINT", "SIGQUIT", "SIGWINCH")  # a terminal sends these to the child as well


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=example("mlflow-carbon run --experiment sweep -- python train.py --epochs 3"),
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--experiment",
    callback=given_text,
    help="Experiment of the run. Default: MLFLOW_EXPERIMENT_NAME, else MLflow's own.",
)
@click.option("--name", callback=given_text, help="Name of the run. Default: the command's.")
@price_settings_options
@click.option(
    "--attribution",
    type=click.Choice(("auto", "whole_node", "process_share", "gpu_only")),
    default="auto",
    show_default=True,
    help="What of a shared node counts.",
)
@click.option("--silent", is_flag=True, help="No receipt at the end.")
@tracking_uri_option
def run(
    command: tuple[str, ...],
    experiment: str | None,
    name: str | None,
    price: "PriceSettings",
    attribution: str,
    silent: bool,
    tracking_uri: str | None,
) -> None:
    """Runs COMMAND and meters it, and all the processes that it starts, as an MLflow run.

    COMMAND has the terminal, stdin, stdout and stderr to itself, gets the signals sent here, and
    its exit code is the exit code here. Metered runs that it starts itself become children of the
    run. The receipt comes last, on stderr.
    """
    if shutil.which(command[0]) is None:  # no run for what cannot be run
        click.echo(f"mlflow-carbon run: no such command: {shown(command[0])}", err=True)
        sys.exit(NOT_FOUND)
    import mlflow

    from mlflow_carbon.metering.meter_settings import MeterSettings
    from mlflow_carbon.tracking.track import track

    if tracking_uri is not None:
        mlflow.set_tracking_uri(tracking_uri)
    block = track(
        unit="minute",
        **asdict(price),
        settings=MeterSettings(attribution=attribution),
        silent=silent or None,
    )
    if experiment is not None:
        mlflow.set_experiment(experiment)
    run_name = name or Path(command[0]).name
    started = mlflow.start_run(run_name=run_name, tags={"mlflow.source.name": command[0]})
    exit_code = NOT_EXECUTABLE
    try:
        with block:
            exit_code = _run_metered(command, _environment_of(started.info.run_id))
    finally:
        mlflow.set_tag(keys.TAG_EXIT_CODE, str(exit_code))
        mlflow.end_run(_status_of(exit_code))
    _end_like(exit_code)


def _environment_of(run_id: str) -> dict[str, str]:
    """Returns the child's environment: it writes to the same store, and its runs are children."""
    import mlflow

    from mlflow_carbon.tracking.launched_runs import PARENT_RUN_ID, PARENT_STORE

    uri = mlflow.get_tracking_uri()
    return {**os.environ, PARENT_RUN_ID: run_id, PARENT_STORE: uri, "MLFLOW_TRACKING_URI": uri}


def _run_metered(command: Sequence[str], environment: dict[str, str]) -> int:
    """Runs a command to its end.

    Returns:
        Its exit code; minus the signal that ended it; a shell's code if it cannot be started.
    """
    with _signals_passed_on() as pass_to:
        try:
            child = subprocess.Popen(command, env=environment)
        except OSError as error:
            click.echo(f"mlflow-carbon run: {shown(command[0])}: {error.strerror}", err=True)
            return NOT_EXECUTABLE
        pass_to(child)
        return child.wait()


@contextmanager
def _signals_passed_on() -> Iterator[Callable[["subprocess.Popen[bytes]"], None]]:
    """Passes signals that this process gets on to a child, but for those of a terminal.

    Gives the function that names the child; what comes before that waits for it.
    """
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def pass_on(number: int, _: FrameType | None = None) -> None:
        if not children:
            early.append(number)
            return
        is_terminals = signal.Signals(number).name in FROM_TERMINAL and _is_in_foreground()
        if children[0].poll() is None and not is_terminals:
            children[0].send_signal(number)

    def pass_to(child: "subprocess.Popen[bytes]") -> None:
        children.append(child)
        for number in early:
            pass_on(number)

    numbers = [getattr(signal, name) for name in FORWARDED if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield pass_to
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_foreground() -> bool:
    """Returns whether a terminal sends its signals to this process group, the child's too."""
    try:
        with Path("/dev/tty").open() as terminal:
            return os.tcgetpgrp(terminal.fileno()) == os.getpgrp()
    except (OSError, AttributeError):  # no terminal; a system without one
        return False


def _status_of(exit_code: int) -> str:
    if exit_code < 0:
        return "KILLED"
    return "FAILED" if exit_code else "FINISHED"


def _end_like(exit_code: int) -> None:
    """Ends this process as the command ended: with its exit code, or by the same signal."""
    sys.stderr.flush()
    if exit_code < 0:
        number = -exit_code
        with suppress(OSError, ValueError):  # SIGKILL has no handler
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        exit_code = SIGNAL_BASE + number  # a signal that does not end a process
    sys.exit(exit_code)
