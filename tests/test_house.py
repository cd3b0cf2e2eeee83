"""The house stands as designed: every file has its place, imports point one way, none is heavy."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAP = (ROOT / "docs" / "architecture.md").read_text()


def rooms(package: str) -> list[tuple[str, str]]:
    """Returns the package's rooms from the ground up, each with its files in order.

    The room "" is the package's own folder, which the map writes as a point.
    """
    lines = re.search(rf"```text\n{package}/\n(.*?)```", MAP, re.DOTALL).group(1).splitlines()
    found = []
    for line in lines:
        if line.startswith("    "):  # goes on with the files of the room above
            room, names = found.pop()
            found.append((room, f"{names} {line.strip()}"))
        else:
            room, names = line.split(maxsplit=1)
            found.append((room.removeprefix("."), names))
    return found


HOUSE = {package: rooms(package) for package in ("mlflow_carbon", "ldm_project")}
# Only these may know MLflow and the plugin in ldm_project; its errors hang below the plugin's.
KNOW_MLFLOW = (
    "ldm_project.runs",
    "ldm_project.__main__",
    "ldm_project.errors",
    "ldm_project.checks",  # a price that cannot be is refused before the networks are loaded
    "ldm_project.price",
)


def modules(package: str) -> list[str]:
    """Returns the package's modules from the ground up."""
    return [
        ".".join(part for part in (package, folder, name) if part)
        for folder, names in HOUSE[package]
        for name in names.split()
    ]


def path_of(module: str) -> Path:
    return ROOT / (module.replace(".", "/") + ".py")


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
    folders = {ROOT / package / folder / "__init__.py" for folder, _ in HOUSE[package]}
    assert set((ROOT / package).rglob("*.py")) == {*map(path_of, modules(package)), *folders}


@pytest.mark.slow
@pytest.mark.parametrize("package", HOUSE)
def test_imports_point_one_way(package):
    order = modules(package)
    for position, module in enumerate(order):
        above = {other for other in order[position:] if not other.endswith("__init__")}
        # what __init__ offers is imported when it is first used
        assert not imported_modules(path_of(module)) & above, f"{module} imports from above it"


def test_map_gives_each_room_the_purpose_that_its_docstring_states():
    purposes = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", MAP, re.MULTILINE))
    folders = [(package, room) for package in HOUSE for room, _ in HOUSE[package] if room]
    assert set(purposes) == {room for _, room in folders}
    for package, room in folders:
        docstring = ast.get_docstring(
            ast.parse((ROOT / package / room / "__init__.py").read_text())
        )
        assert docstring == purposes[room], room


def test_way_of_a_window_names_files_that_exist():
    way = MAP[MAP.index("## One window") :]
    named = re.findall(r"`(\w+/\w+\.py)`", way)
    assert len(named) > 8
    assert [name for name in named if not (ROOT / "mlflow_carbon" / name).is_file()] == []


def test_folders_export_nothing_of_their_own():
    doors = {"", "testing"}  # users import from these two
    for package in HOUSE:
        for folder in {folder for folder, _ in HOUSE[package]} - doors:
            body = ast.parse((ROOT / package / folder / "__init__.py").read_text()).body
            assert len(body) == 1, f"{folder}/__init__.py holds more than its docstring"


def test_plugin_knows_neither_torch_nor_the_project():
    forbidden = {"torch", "monai", "ldm_project", "generative", "diffusers"}
    for module in modules("mlflow_carbon"):
        roots = {name.split(".")[0] for name in imported_modules(path_of(module))}
        assert not roots & forbidden, module


def test_networks_know_nothing_of_mlflow():
    for module in modules("ldm_project"):
        roots = {name.split(".")[0] for name in imported_modules(path_of(module))}
        assert module.startswith(KNOW_MLFLOW) or not roots & {"mlflow", "mlflow_carbon"}, module


def test_only_the_meter_imports_carbontracker():
    importers = [
        module
        for module in modules("mlflow_carbon")
        if any(n.split(".")[0] == "carbontracker" for n in imported_modules(path_of(module)))
    ]
    assert importers == ["mlflow_carbon.metering.meter"]


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
