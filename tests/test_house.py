"""The house stands as designed: every file has its place, imports point one way, none is heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# The folders from the ground up, and in each its files in order: a file imports only from
# folders above it in this list and from files to its left. "" is the package's own folder.
HOUSE = {
    "mlflow_carbon": [
        ("", "errors units redaction"),
        ("grid", "intensity providers hourly"),
        (
            "accounting",
            "emissions uncertainty forecast steps_model advice equivalents functional_unit",
        ),
        ("contract", "keys assumptions"),
        (
            "metering",
            "launch local_ranks clock readings meter_settings devices cpu_power counters machine "
            "collector meter examination",
        ),
        ("store", "runs run_windows"),
        (
            "recording",
            "journal delivery figures earlier nodes node_record live_forecast recorder recovery "
            "system_metrics backfill",
        ),
        ("registry", "footprints lineage inference model_tags run_models"),
        (
            "reporting",
            "hourly_prices compare tables everyday steps_fit prediction advice_report model_list "
            "model_footprint gate citations model_card paper_claims",
        ),
        (
            "tracking",
            "patience model_lookups epoch_windows launch_run idle_tracking tracking_options "
            "run_tracking process_metering track patches autolog_settings model_registration "
            "run_lifecycle framework_windows autolog mlflow_autolog",
        ),
        (
            "commands",
            "options pricing compare models tag_models gate card predict advise equivalents "
            "paper_check doctor recover backfill",
        ),
        ("", "cli project_backend plugin __init__ __main__"),
    ],
    "ldm_project": [
        ("", "errors presets config resolution cache array_files"),
        (
            "ct",
            "hounsfield phantoms decathlon tcia sources slice_geometry enhanced dicom_headers "
            "series dicom_pixels nifti_files ct_files data images",
        ),
        (
            "diffusion",
            "seeding models sharding processes flops noise_schedulers acceleration tiled_decoding "
            "sampling optimisation vqgan_training latents diffusion_training checkpoints "
            "training_states quality feature_networks iso_quality",
        ),
        (
            "runs",
            "references arithmetic_metrics logged_models ldm_pyfunc vqgan_pyfunc command_runs "
            "interrupted_trainings training_progress training_previews training_latents "
            "training_runs trained_ldm synthesis_run estimate_run quality_run launching commands",
        ),
        ("", "__init__ __main__"),
    ],
}
# Only these may know MLflow and the plugin in ldm_project.
KNOW_MLFLOW = ("ldm_project.runs", "ldm_project.__main__")


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


@pytest.mark.parametrize("package", HOUSE)
def test_imports_point_one_way(package):
    order = modules(package)
    for position, module in enumerate(order):
        above = {other for other in order[position:] if not other.endswith("__init__")}
        # what __init__ offers is imported when it is first used
        assert not imported_modules(path_of(module)) & above, f"{module} imports from above it"


def test_folders_export_nothing_of_their_own():
    for package in HOUSE:
        for folder in {folder for folder, _ in HOUSE[package]} - {""}:
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
