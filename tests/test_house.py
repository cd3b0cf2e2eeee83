"""The house stands as designed: every file has its place, imports point one way, none is heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_carbon import schema

ROOT = Path(__file__).parent.parent

# A file may import those above it, never those below.
HOUSE = {
    "mlflow_carbon": [
        "errors units schema",
        "intensity emissions",
        "assumptions",
        "meter",
        "recorder",
        "store registry",
        "compare",
        "tables",
        "cli",
        "plugin project_backend",
        "__init__ __main__",
    ],
    "ldm_project": [
        "errors",
        "config",
        "data images models",
        "training sampling checkpoints",
        "references",
        "ldm_pyfunc vqgan_pyfunc logged_models",
        "command_runs",
        "training_runs",
        "synthesis_run",
        "commands",
        "__init__ __main__",
    ],
}


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).glob("*.py"))


def imported_modules(path: Path) -> set[str]:
    """Returns every module that a file imports, also inside its functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("package", HOUSE)
def test_every_file_has_its_place(package):
    places = {name for floor in HOUSE[package] for name in floor.split()}
    assert {path.stem for path in files_of(package)} == places
