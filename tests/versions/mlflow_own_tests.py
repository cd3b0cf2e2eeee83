"""Runs MLflow's own tests without us, beside us, and metered: which fail because of us?

``python -m tests.versions.mlflow_own_tests --sources PATH [TEST ...]``, where PATH is a checkout of
the MLflow that is installed here (its packages on PyPI have no tests) and each TEST a path in it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import click

TESTS = ("tests/autologging", "tests/tracking", "tests/projects")
WITHOUT, OFF, METERED = "without the plugin", "with it, off", "with it, metering"
HIDDEN = "mlflow_carbon_hidden"

# A pytest plugin, loaded before any import of MLflow: our entry points are not there.
HIDE = """
import importlib.metadata as metadata
real = metadata.entry_points
def others(**selection):
    found = real(**selection)
    if not selection:
        return found
    return type(found)(entry for entry in found if not entry.value.startswith("mlflow_carbon"))
metadata.entry_points = others
"""


def outcomes(report: Path) -> dict[str, bool]:
    """Returns for each test of a JUnit report whether it passed; skipped ones are left out."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            failed = case.find("failure") is not None or case.find("error") is not None
            found[f"{case.get('classname')}::{case.get('name')}"] = not failed
    return found


def failing_with_us(outcomes_by_way: Mapping[str, Mapping[str, bool]]) -> dict[str, list[str]]:
    """Returns for each way with the plugin the tests that fail in it and pass without it."""
    alone = outcomes_by_way[WITHOUT]
    return {
        way: sorted(test for test, passes in found.items() if not passes and alone.get(test))
        for way, found in outcomes_by_way.items()
        if way != WITHOUT
    }


def run(sources: Path, tests: tuple[str, ...], way: str, folder: Path) -> dict[str, bool]:
    """Runs tests in one way; returns which passed.

    Raises:
        click.ClickException: pytest could not run them.
    """
    (folder / f"{HIDDEN}.py").write_text(HIDE, encoding="utf-8")
    report = folder / f"{way}.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", HIDDEN] if way == WITHOUT else []
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [*command, f"--junitxml={report}", *tests],
        cwd=sources,
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MLFLOW_CARBON_AUTOLOG": "true" if way == METERED else "false",
            "MLFLOW_CARBON_JOURNAL_DIR": str(folder / "journals"),
        },
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode > 1:  # 1: some tests failed
        raise click.ClickException(f"pytest ended with {done.returncode} in {sources}, {way}.")
    return outcomes(report)


@click.command()
@click.option(
    "--sources",
    required=True,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="A checkout of the installed MLflow.",
)
@click.argument("tests", nargs=-1)
def main(sources: Path, tests: tuple[str, ...]) -> None:
    """Lists the tests of MLflow that fail only with mlflow-carbon installed; exits 1 if any do.

    \b
    Example:
      python -m tests.versions.mlflow_own_tests --sources ../mlflow tests/tracking/fluent
    """
    with tempfile.TemporaryDirectory() as folder:
        by_way = {
            way: run(sources, tests or TESTS, way, Path(folder)) for way in (WITHOUT, OFF, METERED)
        }
    click.echo(f"{sum(by_way[WITHOUT].values())} tests pass {WITHOUT}.")
    failing = failing_with_us(by_way)
    for way, names in failing.items():
        click.echo(f"{len(names)} of them fail {way}.")
        for name in names:
            click.echo(f"  {name}")
    sys.exit(any(failing.values()))


if __name__ == "__main__":
    main()
