"""``pip uninstall mlflow-carbon`` leaves MLflow working and what was measured readable."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.fakes.user_scripts import ZERO_CODE, UserFolder

ROOT = Path(__file__).parent.parent
SCRIPT = """
import mlflow
with mlflow.start_run():
    mlflow.log_metric("loss", 1.0)
    sum(i * i for i in range(10**6))
metered = mlflow.search_runs(filter_string="metrics.`carbon/energy_kwh` > 0")
print(len(metered), len(mlflow.search_runs()))
"""


def python_with_everything_but_us(folder: Path) -> Path:
    """Returns the python of an environment that sees all other packages of this one."""
    packages = folder / "packages"
    packages.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "mlflow_carbon" not in entry.name and entry.suffix != ".pth":
            (packages / entry.name).symlink_to(entry)
    venv.create(folder / "env", with_pip=False)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (site / "everything.pth").write_text(f"{packages}\n")
    return folder / "env" / "bin" / "python"


def pip(python: Path, *arguments: str) -> None:
    """Runs this environment's pip for another python."""
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.slow
def test_uninstalled_it_leaves_mlflow_working_and_the_store_readable(tmp_path, empty_store):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mlflow_carbon", source / "mlflow_carbon")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = python_with_everything_but_us(tmp_path)
    user = UserFolder(tmp_path, empty_store)
    (tmp_path / "script.py").write_text(SCRIPT)

    pip(python, "install", "--no-index", "--no-deps", "--no-build-isolation", str(source))
    assert user.command(str(python), "script.py", environment=ZERO_CODE).stdout == "1 1\n"

    pip(python, "uninstall", "--yes", "mlflow-carbon")
    after = user.command(str(python), "script.py", environment=ZERO_CODE)
    assert after.stdout == "1 2\n"  # the first is still read; the second was not metered
    assert "carbon" not in after.stderr
