"""A Python that has the libraries loaded already, for tests of what a command does.

``python -m ldm_project`` takes ten seconds of a core to load torch, MONAI and what MLflow needs.
Here one process, the starter, loads them once and forks for each command. What a test calls as
Python is a client of it (warm_client.py), which hands over its arguments, environment, folder and
open files, passes signals on and ends as the fork ends; who kills the client kills the fork. MLflow
and our own packages are not loaded before: they read the environment when they are imported, so
each fork imports its own.

A fork is no descendant of the process that asked for it, and shows another environment in
``/proc``: tests of how processes start, or find each other, call ``sys.executable``.
"""

import atexit
import functools
import gc
import importlib
import importlib.metadata
import io
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import importlib_metadata

LIBRARIES = (
    *("torch", "torch._dynamo", "torch.distributed.run", "torch.distributed.checkpoint"),
    *("numpy", "pandas", "scipy.stats", "scipy.signal", "sklearn.metrics", "matplotlib.pyplot"),
    *("monai", "nibabel", "pydicom", "diffusers.schedulers.scheduling_ddpm", "submitit", "psutil"),
    *("pydantic", "fastapi", "flask", "sqlalchemy.orm", "alembic", "google.protobuf", "click"),
    *("opentelemetry", "docker", "git", "graphene", "uvicorn", "rich", "cloudpickle", "requests"),
)
# MONAI would load MLflow, too early, and transformers, which one test needs.
KEPT_OUT = ("mlflow", "mlflow_carbon", "ldm_project", "transformers")
EXECUTABLES = ("python", "mlflow", "mlflow-carbon")
FIRST_COPY = 300  # above all files that are open; below the usual limit of 1,024
END_TIMEOUT_S = 600  # a busy machine needs long


@contextmanager
def warm_python() -> Iterator[Path]:
    """Gives a folder with a ``python``, ``mlflow`` and ``mlflow-carbon`` that start at once."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))  # the address of a socket must be short
    client = Path(__file__).with_name("warm_client.py").read_text()
    for name in EXECUTABLES:
        (folder / name).write_text(f"#!{sys.executable} -IS\n{client}")
        (folder / name).chmod(0o755)
    (folder / "real").symlink_to(sys.executable)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    with (
        listener,
        subprocess.Popen(
            [sys.executable, "-E", __file__, str(folder), str(listener.fileno())],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
            cwd="/",
            start_new_session=True,
        ) as starter,
    ):
        listener.close()  # where the starter dies, its clients are told
        try:
            yield folder
        finally:
            assert starter.stdin is not None
            starter.stdin.close()  # tells it to end
            starter.wait(END_TIMEOUT_S)
            shutil.rmtree(folder)


def load_libraries() -> None:
    """Loads what commands import and no environment changes."""
    for name in KEPT_OUT:
        sys.modules[name] = None  # type: ignore[assignment]  # cannot be imported meanwhile
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in KEPT_OUT:
        del sys.modules[name]
    for metadata in (importlib.metadata, importlib_metadata):  # a second for each that logs models
        found = metadata.packages_distributions()
        metadata.packages_distributions = functools.partial(dict, found)  # type: ignore[assignment]
    gc.collect()
    gc.freeze()  # forks share the memory of what is there


class Starter:
    """Forks for clients and tells each how its fork ended.

    Args:
        listener: where clients connect.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._clients: dict[int, tuple[socket.socket, bool]] = {}
        self._ended, wakeup = socket.socketpair()
        wakeup.setblocking(False)
        self._wakeup = wakeup
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno())
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ, "end")
        self._selector.register(listener, selectors.EVENT_READ, "new")
        self._selector.register(self._ended, selectors.EVENT_READ, "ended")

    def next_fork(self) -> dict[str, Any] | None:
        """Returns in each fork what it is to do, and in the starter ``None`` at the end."""
        while True:
            for key, _ in self._selector.select():
                if key.data == "end":
                    for pid in self._clients:
                        self._send(pid, signal.SIGKILL)
                    return None
                if key.data == "new":
                    request = self._fork()
                    if request is not None:
                        return request
                elif key.data == "ended":
                    self._ended.recv(1024)
                    self._tell_ends()
                else:
                    self._pass_on(key.data)

    def _fork(self) -> dict[str, Any] | None:
        client, _ = self._listener.accept()
        request, files = received(client)
        pid = os.fork()
        if pid == 0:
            self._leave(client)
            take_files(files, request["files"])
            return request
        for file in files:
            os.close(file)
        self._clients[pid] = (client, request["leads_session"])
        self._selector.register(client, selectors.EVENT_READ, pid)
        return None

    def _leave(self, client: socket.socket) -> None:
        """Closes, in a fork, what is the starter's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        others = [other for other, _ in self._clients.values()]
        for own in (self._listener, self._selector, self._ended, self._wakeup, client, *others):
            own.close()

    def _pass_on(self, pid: int) -> None:
        """Sends signals to a fork whose client got them; kills that of a client that is gone."""
        client, _ = self._clients[pid]
        numbers = client.recv(64)
        if not numbers:
            self._selector.unregister(client)
        for number in numbers or [signal.SIGKILL]:
            self._send(pid, number)

    def _send(self, pid: int, number: int) -> None:
        """Sends a signal to a fork, and to its group where its client leads one.

        Who signals a client that leads a session means all of it, as tests end servers.
        """
        _, leads_session = self._clients[pid]
        with suppress(ProcessLookupError):
            (os.killpg if leads_session else os.kill)(pid, number)

    def _tell_ends(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                client, _ = self._clients.pop(pid)
                with suppress(KeyError):
                    self._selector.unregister(client)
                with suppress(OSError):  # the client was killed
                    client.send(status.to_bytes(4, "big"))
                client.close()


def received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Returns what a client asks for, and copies of its open files."""
    length, files, _, _ = socket.recv_fds(client, 4, 250)
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        text += client.recv(2**16)
    return json.loads(text), files


def take_files(files: list[int], numbers: list[int]) -> None:
    """Gives open files the numbers that they have in the client."""
    copies = [fcntl(file, F_DUPFD, FIRST_COPY) for file in files]
    for file in files:
        os.close(file)
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
        os.close(copy)


def standard_stream(mode: str, number: int) -> io.TextIOWrapper:
    """Returns a text stream of an open file, as Python makes three at its start."""
    return io.TextIOWrapper(open(number, f"{mode}b", closefd=False))


def become(request: dict[str, Any], folder: str, library_path: list[str]) -> None:
    """Makes this fork what Python would be at the start of a command."""
    if request["leads_session"]:
        os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.stdin, sys.stdout, sys.stderr = map(standard_stream, ("r", "w", "w"), range(3))
    sys.stdout.reconfigure(line_buffering=os.isatty(1), write_through=request["is_unbuffered"])
    sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.executable = f"{folder}/python"
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*(str(Path(path).absolute()) for path in given if path), *library_path]
    importlib.invalidate_caches()
    import numpy as np
    import torch

    np.random.seed()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))


def run(arguments: list[str]) -> None:
    """Runs a module, code or a script, as Python does with these arguments."""
    first, *rest = arguments
    main = sys.modules["__main__"] = ModuleType("__main__")
    if first == "-m":
        sys.argv = ["-m", *rest[1:]]
        sys.path.insert(0, str(Path.cwd()))
        runpy._run_module_as_main(rest[0])  # type: ignore[attr-defined]
        return
    if first == "-c":
        sys.argv, sys.path[:0] = ["-c", *rest[1:]], [""]
        exec(compile(rest[0], "<string>", "exec"), vars(main))
        return
    main.__file__ = first
    sys.argv, sys.path[:0] = arguments, [str(Path(first).resolve().parent)]
    exec(compile(Path(first).read_bytes(), first, "exec"), vars(main))


def end(arguments: list[str]) -> NoReturn:
    """Runs a command line and ends this fork as Python would, but leaves its memory to the kernel.

    To take all modules apart needs two seconds, and nobody sees it.
    """
    exit_code: Any = 0
    was_interrupted = False
    try:
        run(arguments)
    except SystemExit as error:
        exit_code = error.code
        if exit_code is not None and not isinstance(exit_code, int):
            print(exit_code, file=sys.stderr)
            exit_code = 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        exit_code = 1
        was_interrupted = isinstance(error, KeyboardInterrupt)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if was_interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(exit_code or 0)


if __name__ == "__main__":
    folder, number = sys.argv[1:]
    library_path = sys.path[1:]  # without the folder of this file
    sys.path[:] = library_path
    load_libraries()
    request = Starter(socket.socket(fileno=int(number))).next_fork()
    if request is not None:
        become(request, folder, library_path)
        end(request["arguments"])
