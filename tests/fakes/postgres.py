"""A real PostgreSQL server of one's own, on a free port of this machine, ended with the test."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.mlflow_server import free_port

USER = "postgres"  # Debian's; the server refuses to run as root


def binaries() -> Path | None:
    """Returns the folder of the newest server that is installed; ``None`` where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_release)
    return found[-1].parent if found else None


@contextmanager
def postgres_server() -> Iterator[str]:
    """Gives the URI of an empty database of a new server.

    Its files lie in a temporary folder of their own: pytest's are closed to the server's user.
    """
    programs = binaries()
    assert programs is not None, "no PostgreSQL is installed"
    data, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    if os.geteuid() == 0:
        shutil.chown(data, USER)
    _run([programs / "initdb", "-D", data, "-U", USER, "--auth=trust"])
    control = [programs / "pg_ctl", "-D", data, "-l", data / "log", "-w"]
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data}"
    _run([*control, "-o", options, "start"])
    try:
        yield f"postgresql+psycopg2://{USER}@127.0.0.1:{port}/postgres"
    finally:
        _run([*control, "-m", "immediate", "stop"])
        shutil.rmtree(data)


def _run(command: Sequence[object]) -> None:
    """Runs a program as a user who is not root."""
    as_user = {}
    if os.geteuid() == 0:
        entry = pwd.getpwnam(USER)
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    subprocess.run(
        list(map(str, command)), check=True, stdout=subprocess.DEVNULL, cwd="/", **as_user
    )


def _release(program: Path) -> float:
    return float(program.parts[4])
