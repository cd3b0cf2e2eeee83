"""Runs the suite beside other MLflows: ``python -m tests.versions.environments [NAME ...]``.

Each name is a list of packages in this folder. Its environment is made first, as a user has it;
then a wheel of this project is built and installed there, which must not change the MLflow. An
environment is kept in ``.venv/versions`` and made anew when its list changes. uv installs packages,
and pip where uv cannot reach its index: pip's settings (mirrors, folders) mean nothing to uv.
Environments are made and tested beside each other, for much of that only waits.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from tests.fakes.mlflow_server import mlflow_server

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".venv" / "versions"
SERVED = ("skinny",)  # those that have no store of their own
TOO_OLD = "too_old"
NUM_AT_ONCE = 3
NAMES = ("oldest", "mlflow-3.5.1", "mlflow-3.8.1", "mlflow-3.12.0", "newest", "skinny", TOO_OLD)


def main(names: list[str]) -> int:
    """Runs the suite in these environments, or in all; returns how many had a failure."""
    names = names or list(NAMES)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(NUM_AT_ONCE) as pool:
        wheel = build(Path(folder))
        outcomes = pool.map(lambda name: passes(name, wheel, Path(folder)), names)
        failed = [name for name, passed in zip(names, outcomes, strict=True) if not passed]
    print(f"Failed beside: {', '.join(failed)}" if failed else "Passed beside all.", flush=True)
    return len(failed)


def build(folder: Path) -> Path:
    """Returns a wheel made of the sdist of what git tracks here; both pass ``twine check``."""
    source = folder / "source"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = run([*listed], cwd=ROOT, capture_output=True).stdout.split("\0")
    for file in filter(None, files):
        if (ROOT / file).is_file():  # else it is deleted, but not committed yet
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
    made = folder / "dist"
    run([sys.executable, "-m", "build", "--outdir", made, source], stdout=subprocess.DEVNULL)
    run([sys.executable, "-m", "twine", "check", "--strict", *made.iterdir()])
    (wheel,) = made.glob("*.whl")
    return wheel


def passes(name: str, wheel: Path, folder: Path) -> bool:
    """Returns whether the suite passes in an environment, which is made if need be."""
    python = environment(name)
    before = mlflow_versions(python)
    without = ["--no-deps"] if name == TOO_OLD else []  # else a newer MLflow would rightly come
    install(python, *without, wheel)
    # the wheel of now, whatever its version says
    run([python, "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", wheel])
    assert mlflow_versions(python) == before, "the plugin has changed the user's MLflow"
    file = "test_too_old.py" if name == TOO_OLD else "test_beside_mlflow.py"
    suite = HERE / "suite"
    options = ["-q", "-c", suite / "pytest.ini", "--confcutdir", suite, "-p", "no:cacheprovider"]
    place = folder / name
    place.mkdir()
    with server_for(name, place) as variables:
        done = subprocess.run(
            [python, "-m", "pytest", *options, suite / file],
            cwd=place,
            env=clean_environment() | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    print(f"== {name}: {', '.join(before)}\n{done.stdout}", flush=True)
    return done.returncode == 0


def environment(name: str) -> Path:
    """Returns the Python of an environment that holds what its list asks for."""
    packages = HERE / f"{name}.txt"
    place = KEPT / name
    python, stamp = place / "bin" / "python", place / "packages.sha256"
    texts = [packages.read_bytes(), (ROOT / "constraints.txt").read_bytes()]
    digest = hashlib.sha256(b"".join(texts)).hexdigest()
    if not stamp.is_file() or stamp.read_text() != digest:
        shutil.rmtree(place, ignore_errors=True)
        run([sys.executable, "-m", "venv", place])
        install(python, "--requirement", packages)
        stamp.write_text(digest)
    return python


def install(python: Path, *what: str | Path) -> None:
    """Installs packages into the environment of a Python, as pip's arguments name them."""
    by_uv = [sys.executable, "-m", "uv", "pip", "install", "--python", python]
    # compiled as by pip: else each process that starts would compile MLflow anew
    by_uv += ["--quiet", "--compile-bytecode", *what]
    if subprocess.run(by_uv, check=False).returncode != 0:
        run([python, "-m", "pip", "install", "--quiet", *what])


def mlflow_versions(python: Path) -> list[str]:
    """Returns the MLflow packages of an environment with their versions."""
    frozen = run([python, "-m", "pip", "freeze"], capture_output=True).stdout.splitlines()
    return [line for line in frozen if line.startswith(("mlflow==", "mlflow-skinny=="))]


@contextmanager
def server_for(name: str, folder: Path) -> Iterator[dict[str, str]]:
    """Gives the variables that name a server to the suite; none where it has its own stores."""
    if name not in SERVED:
        yield {}
        return
    place = folder / "server"
    place.mkdir()
    with mlflow_server(f"sqlite:///{place}/mlflow.db", place) as uri:
        yield {"SUITE_SERVER": uri}


def clean_environment() -> dict[str, str]:
    """Returns the variables of this process without those that would lead to this checkout."""
    ours = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def run(command: list[str | Path], **options: object) -> "subprocess.CompletedProcess[str]":
    """Runs a command that must succeed."""
    return subprocess.run(command, check=True, text=True, **options)  # type: ignore[call-overload]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
