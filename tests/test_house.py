"""The house stands as designed: every file has its place, imports point one way, none is heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Floors from the ground up: a file imports from lower floors only, or from its own floor
# where it stands further to the right.
HOUSE = {
    "mlflow_carbon": [
        "errors units schema",
        "intensity emissions assumptions",
        "uncertainty forecast steps_model hourly advice providers",
        "equivalents functional_unit paper",
        "clock readings meter_settings devices cpu_power counters machine collector meter",
        "journal delivery figures recorder recovery tracking",
        "store registry compare tables",
        "cli project_backend plugin __init__ __main__",
    ],
    "ldm_project": [
        "errors config",
        "hounsfield phantoms ct_files data images",
        "models noise_schedulers training sampling checkpoints",
        "references logged_models ldm_pyfunc vqgan_pyfunc",
        "command_runs training_runs synthesis_run commands",
        "__init__ __main__",
    ],
}
# The files of the project that may know MLflow and the plugin.
KNOW_MLFLOW = {
    "references",
    "logged_models",
    "ldm_pyfunc",
    "vqgan_pyfunc",
    "command_runs",
    "training_runs",
    "synthesis_run",
    "commands",
    "__main__",
}


def imported_modules(path: Path) -> set[str]:
    """Returns every module that a file imports, inside its functions too."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


@pytest.mark.parametrize("package", HOUSE)
def test_every_file_has_its_place(package):
    places = [name for floor in HOUSE[package] for name in floor.split()]
    assert sorted(path.stem for path in (ROOT / package).glob("*.py")) == sorted(places)


@pytest.mark.parametrize("package", HOUSE)
def test_imports_point_one_way(package):
    places = [name for floor in HOUSE[package] for name in floor.split()]
    for position, name in enumerate(places):
        imported = imported_modules(ROOT / package / f"{name}.py")
        above = {f"{package}.{other}" for other in places[position:] if other != "__init__"}
        # what __init__ offers is imported when it is first used
        assert not imported & above, f"{name} imports what stands above it"


def test_plugin_knows_neither_torch_nor_the_project():
    forbidden = {"torch", "monai", "ldm_project", "generative", "diffusers"}
    for path in (ROOT / "mlflow_carbon").glob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert not roots & forbidden, path.name


def test_networks_know_nothing_of_mlflow():
    for path in (ROOT / "ldm_project").glob("*.py"):
        roots = {module.split(".")[0] for module in imported_modules(path)}
        assert path.stem in KNOW_MLFLOW or not roots & {"mlflow", "mlflow_carbon"}, path.name


def test_only_the_meter_imports_carbontracker():
    importers = [
        path.stem
        for path in (ROOT / "mlflow_carbon").glob("*.py")
        if any(module.split(".")[0] == "carbontracker" for module in imported_modules(path))
    ]
    assert importers == ["meter"]


IMPORT_ALONE = """
import sys, threading
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
import mlflow_carbon
heavy = {"mlflow", "pandas", "carbontracker", "torch", "numpy", "click"} & set(sys.modules)
print(sorted(heavy), opened, threading.active_count())
"""


def test_importing_the_plugin_loads_and_starts_nothing():
    # a clean interpreter: no site-packages .pth file may have imported anything before
    printed = subprocess.run(
        [sys.executable, "-c", IMPORT_ALONE],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert printed.strip() == "[] [] 1"
