"""What README shows: figures that a benchmark's page has, links, pictures and a receipt."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_carbon.cli import cli
from mlflow_carbon.units import kwh_from_joules
from tests.conftest import ROOT
from tests.fakes.metered_runs import write_run

README = (ROOT / "README.md").read_text()
MAX_LINES = 115
MAX_PICTURE_BYTES = 80_000


def rows_of(page: str) -> list[list[str]]:
    """Returns the cells of all tables of a page, without their rules."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def row(page: str, *start: str) -> list[str]:
    """Returns the only row that starts with some cells."""
    (found,) = [cells for cells in rows_of(page) if cells[: len(start)] == list(start)]
    return found


def number(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-").rstrip(" %"))


def off(measured: str, truth: str) -> str:
    """Returns by how much a figure is off, as README writes it; nothing was measured in ''."""
    if not measured:
        return "not run"
    error = 100 * (number(measured) / number(truth) - 1)
    return f"{error + 0.0:.2f} %".replace("-", "−")


@pytest.mark.parametrize(
    ("start", "case"),
    [
        ("four GPUs", "4 GPU, counter, constant"),
        ("two packages", "2 packages + 2 DRAM (and core, psys, mmio)"),
        ("a counter that wraps", "1 package, counter wraps once"),
    ],
)
def test_errors_on_known_joules_are_those_of_the_validation(start, case):
    (shown,) = [cells for cells in rows_of(README) if cells[0].startswith(start)]
    _, truth, tracker, code_carbon, ours, *_ = row((ROOT / "docs/validation.md").read_text(), case)
    assert number(re.sub(r".*, ([\d,]+) J", r"\1", shown[0])) == number(truth)
    assert shown[1:] == [off(ours, truth), off(tracker, truth), off(code_carbon, truth)]


def test_errors_on_a_real_gpu_are_those_of_the_validation():
    page = (ROOT / "docs/validation.md").read_text()
    shown = row(README, "a real H100, against its counter")
    ours, tracker = row(page, "our meter (counter)")[2], row(page, "Carbontracker")[2]
    assert [number(cell) for cell in shown[1:3]] == [number(ours), number(tracker)]


def test_overhead_is_that_of_its_page():
    page = (ROOT / "docs/overhead.md").read_text()
    shown = row(README, "own threads, ms of CPU per s of a numpy loop")
    tools = ("mlflow_carbon", "Carbontracker", "CodeCarbon")
    assert shown[1:] == [row(page, "numpy", tool)[-1] for tool in tools]


@pytest.mark.parametrize("package", ["codecarbon", "carbontracker"])
def test_the_other_tools_name_neither_mlflow_nor_budgets(package):
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    sources = list(Path(spec.origin).parent.rglob("*.py"))
    text = " ".join(path.read_text(encoding="utf-8").lower() for path in sources)
    assert len(text) > 10_000
    assert "mlflow" not in text
    assert "budget" not in text


def test_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= MAX_LINES
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    assert len(targets) > 20
    local = [target for target in targets if not target.startswith("https://")]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_pictures_are_small():
    pictures = list((ROOT / "docs/pictures").glob("*.png"))
    assert pictures
    assert [one.name for one in pictures if one.stat().st_size > MAX_PICTURE_BYTES] == []


def test_readme_names_the_two_commands():
    block = re.search(r"```sh\n(make synth .*\nmake test .*\n)```", README)
    assert block is not None
    goals = (ROOT / "Makefile").read_text()
    assert all(f"\n{line.split()[1]}: " in goals for line in block[1].splitlines())
    assert "-e synth -P steps=200" in block[1]
    assert "-e synth -P steps=200" in goals


# What differs from run to run and from machine to machine.
MASKS = (
    (r"[\d.]+ (n|µ|m|k)?(g|Wh) ", "# "),
    (r"in [\d.]+ s", "in # s"),
    (r" · others used \d+ % of the CPU", ""),
    (r"#/\S+ \(", "#/… ("),
    (r"runs/… ", "… "),
    (r"#/\S+$", "#/…"),
)


def masked(receipt: str) -> list[str]:
    for pattern, stand_in in MASKS:
        receipt = re.sub(pattern, stand_in, receipt, flags=re.MULTILINE)
    return receipt.splitlines()


@pytest.mark.slow
def test_the_two_lines_print_the_receipt(tmp_path):
    code = re.search(r"```python\n(import mlflow_carbon\n\n.*\n)```", README)
    shown = re.search(r"```text\n(mlflow-carbon: .*?)```", README, re.DOTALL)
    assert code is not None
    assert shown is not None
    script = tmp_path / "train.py"
    training = 'import mlflow\nwith mlflow.start_run(run_name="mine"):\n    sum(range(10**7))\n'
    script.write_text(code[1] + training)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_CARBON_COMPONENTS": "cpu"}
    environment |= {"MLFLOW_CARBON_JOURNAL_DIR": str(tmp_path / "journals"), "PYTHONUTF8": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    printed = done.stderr[done.stderr.index("mlflow-carbon: ") :]
    if "CPU counted" not in printed:  # README's machine has no counter
        assert masked(printed) == masked(shown[1])


def test_less_is_what_compare_says_of_the_measured_runs(store):
    client = MlflowClient(tracking_uri=store)
    # 0.8449 and 0.1026 J a sample: 20 images each of `make synth` with 200 and with 20 steps
    for steps, joules in ((200, 0.8449), (20, 0.1026)):
        windows = [(kwh_from_joules(joules * 4), 4.0)] * 5
        write_run(client, "ldm-ct", windows=windows, params={"steps": str(steps)})
    shown = re.search(r"\$ mlflow-carbon (compare .*)\n(.*)\n", README)
    assert shown is not None
    result = CliRunner().invoke(cli, shown[1].split())
    assert result.stdout.splitlines()[0] == shown[2]
