"""A stand-in for conda: records its calls, and makes a venv of what conda.yaml lists under pip."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import yaml


def install(folder: Path) -> Path:
    """Puts ``conda`` and ``activate`` into a folder for PATH; returns the file of its calls."""
    folder.mkdir(parents=True)
    calls = folder / "calls.txt"
    conda, activate = folder / "conda", folder / "activate"
    conda.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder} "$@"\n')
    activate.write_text(f". {folder}/envs/$1/bin/activate\n")
    conda.chmod(0o755)
    return calls


def main(folder: Path, arguments: list[str]) -> None:
    """Answers the calls that MLflow makes."""
    with (folder / "calls.txt").open("a") as calls:
        calls.write(" ".join(arguments) + "\n")
    if arguments[:2] == ["env", "list"]:
        environments = [str(path) for path in (folder / "envs").glob("*")]
        print(json.dumps({"envs": environments}))
    elif arguments[:2] == ["env", "create"]:
        create(folder / "envs" / arguments[3], Path(arguments[5]))


def create(environment: Path, conda_yaml: Path) -> None:
    """Makes a venv that sees this interpreter's packages, then installs the pip section."""
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    site_packages = next((environment / "lib").glob("python*")) / "site-packages"
    (site_packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    dependencies = yaml.safe_load(conda_yaml.read_text())["dependencies"]
    requirements = next(item["pip"] for item in dependencies if isinstance(item, dict))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
        clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([*pip, "-r", file.name], check=True, cwd=conda_yaml.parent, env=clean)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
