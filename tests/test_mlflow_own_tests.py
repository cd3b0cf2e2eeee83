"""The command that runs MLflow's own tests, over a small stand-in for MLflow's checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.versions.mlflow_own_tests import METERED, OFF, WITHOUT, failing_with_us, outcomes

ROOT = Path(__file__).parent.parent
TESTS = """
import mlflow

def test_run_has_its_own_tags_alone(tmp_path):
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/a.db")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
    tags = mlflow.get_run(run.info.run_id).data.tags
    assert not [key for key in tags if not key.startswith("mlflow.")]

def test_always_fails():
    assert False
"""


def test_tests_that_pass_alone_and_fail_with_us_are_named():
    alone = {"a": True, "b": True, "c": False}
    found = failing_with_us(
        {
            WITHOUT: alone,
            OFF: {"a": True, "b": False, "c": False},
            METERED: {"a": False, "d": False},
        }
    )
    assert found == {OFF: ["b"], METERED: ["a"]}


def test_report_tells_passed_failed_and_skipped_tests_apart(tmp_path):
    report = tmp_path / "report.xml"
    cases = "".join(
        f'<testcase classname="t" name="{name}">{inner}</testcase>'
        for name, inner in {"a": "", "b": "<failure/>", "c": "<error/>", "d": "<skipped/>"}.items()
    )
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert outcomes(report) == {"t::a": True, "t::b": False, "t::c": False}


@pytest.mark.slow  # six imports of MLflow
def test_metering_alone_adds_to_a_run(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_small.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "tests.versions.mlflow_own_tests", "--sources", tmp_path, "tests"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (
        "1 tests pass without the plugin.\n"
        "0 of them fail with it, off.\n"
        "1 of them fail with it, metering.\n"
        "  tests.test_small::test_run_has_its_own_tags_alone\n"
    )
    assert done.returncode == 1
