"""What our pages tell a reader to run does run, block by block, and says why where it does not."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.tracking import fluent

import mlflow_carbon
from mlflow_carbon.cli import cli
from tests.fakes.documents import DOCS, ROOT, blocks_of, write_what_a_reader_has

BLOCKS_BY_PAGE = {page.name: blocks_of(page.read_text()) for page in sorted(DOCS.glob("*.md"))}
TIMEOUT_S = 600  # of a block; a busy machine is slow


def pages_with(language: str) -> list[str]:
    """Returns the pages that have blocks of a language to run."""
    return [
        page
        for page, blocks in BLOCKS_BY_PAGE.items()
        if any(it.language == language and it.reason is None for it in blocks)
    ]


@pytest.fixture(scope="module")
def reader_folder(empty_store, tmp_path_factory):
    """A folder with the store and the files that the pages take a reader to have."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(folder / "journals"))
        patch.setattr(fluent, "_active_experiment_id", None)
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        write_what_a_reader_has(folder)
        mlflow.set_tracking_uri(None)
    return folder


@pytest.fixture
def reader(reader_folder, store, tmp_path, monkeypatch, warm_python_folder):
    """A reader's folder of one's own, in which the test stands."""
    folder = tmp_path / "reader"
    shutil.copytree(reader_folder, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")  # of other processes
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(folder / "journals"))
    folders = [str(warm_python_folder), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(folders))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    return folder


def run_in_shell(text: str) -> str:
    """Returns what a block prints; anything but success is an error."""
    command = ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def run_here(text: str) -> str:
    """Returns what commands of mlflow-carbon print, run in this process: it has MLflow already."""
    printed = ""
    for line in text.splitlines():
        arguments = shlex.split(line, comments=True)[1:]
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        printed += result.output
    return printed


def is_ours_alone(text: str) -> bool:
    """Returns whether a block holds nothing but commands that start no other process."""
    lines = text.splitlines()
    return all(re.match(r"mlflow-carbon (?!run )[^|><$]*$", line) for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("sh"))
def test_commands_of_a_page_run_in_order(page, reader):
    for block in BLOCKS_BY_PAGE[page]:
        if block.file is not None:
            (reader / block.file).write_text(block.text)
        if block.language == "sh" and block.reason is None:
            run = run_here if is_ours_alone(block.text) else run_in_shell
            assert "Traceback" not in run(block.text), f"{page}:{block.line}"


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_of_a_page_runs_in_order(page, reader):
    for block in BLOCKS_BY_PAGE[page]:
        if block.language == "python" and block.reason is None:
            filled = "\n" * block.line + block.text  # a traceback names the line of the page
            exec(compile(filled, page, "exec"), {"__name__": "__main__"})
    mlflow_carbon.autolog(disable=True)  # a snippet switches it on


def test_a_block_that_is_not_run_says_why_right_above_it():
    text = '<!-- not run: needs a GPU -->\n```sh\ntrue\n```\n\n```python title="a.py"\n1\n```\n'
    needs_gpu, saved = blocks_of(text)
    assert (needs_gpu.reason, needs_gpu.line, needs_gpu.text) == ("needs a GPU", 2, "true\n")
    assert (saved.reason, saved.file) == (None, "a.py")


def test_every_comment_about_not_running_belongs_to_a_block_and_has_a_reason():
    for page, blocks in BLOCKS_BY_PAGE.items():
        reasons = [block.reason for block in blocks if block.reason is not None]
        assert all(len(reason.split()) > 2 for reason in reasons), page
        assert (DOCS / page).read_text().count("<!-- not run") == len(reasons), page
