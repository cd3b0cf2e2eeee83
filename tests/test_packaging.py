"""Ranges in setup.cfg, one set of pins in constraints.txt and conda.yaml; docs' snippets work."""

import configparser
import re
from pathlib import Path

import mlflow
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import mlflow_carbon

ROOT = Path(__file__).parent.parent


NEEDED_BY_LDM = ("install_requires", "mlflow", "ldm")  # what the project's commands need


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {
        canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in lines)
    }


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def requirements(*groups: str) -> list[Requirement]:
    """Returns what setup.cfg asks for in these groups, or in all."""
    config = setup_cfg()
    texts = dict(config["options.extras_require"])
    texts["install_requires"] = config["options"]["install_requires"]
    lines = "\n".join(texts[group] for group in groups or texts).splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_conda_pins_everything_that_is_asked_for_as_constraints_do():
    dependencies = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    assert "python=3.11" in dependencies
    (listed,) = (item["pip"] for item in dependencies if isinstance(item, dict))
    assert listed[0].startswith("torch==")
    assert listed[-1] == "."
    pinned = dict(item.lower().split("==") for item in listed[:-1])
    asked_for = {canonicalize_name(item.name) for item in requirements(*NEEDED_BY_LDM)}
    assert asked_for - {"mlflow-skinny"} <= pinned.keys()  # mlflow is made of it
    assert {name: constraints()[name] for name in pinned} == pinned


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_constraints_fulfil_what_is_asked_for(requirement):
    assert requirement.specifier.contains(constraints()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_setup_asks_for_ranges_only(requirement):
    assert not [item for item in requirement.specifier if item.operator in ("==", "===")]


@pytest.mark.parametrize("requirement", requirements("install_requires"), ids=str)
def test_lower_bounds_of_the_plugin_are_what_the_oldest_environment_holds(requirement):
    (lowest,) = (item.version for item in requirement.specifier if item.operator == ">=")
    installed = dict(
        line.split("==") for line in (ROOT / "tests/versions/oldest.txt").read_text().splitlines()
        if "==" in line
    )  # fmt: skip
    name = requirement.name.removesuffix("-skinny")  # which mlflow brings in its own version
    assert Version(installed[name]).release[: lowest.count(".") + 1] == (Version(lowest).release)


def test_no_version_of_a_package_stands_in_the_code():
    for package in ("mlflow_carbon", "ldm_project"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.findall(r"""["'][\w-]+==\d""", path.read_text()), path


def test_plugin_has_one_version():
    assert setup_cfg()["metadata"]["version"] == "attr: mlflow_carbon.__version__"
    texts = [path.read_text() for path in (ROOT / "mlflow_carbon").rglob("*.py")]
    assert sum(f'"{mlflow_carbon.__version__}"' in text for text in texts) == 1


def test_logged_models_ask_for_the_versions_that_are_installed():
    from ldm_project.runs.logged_models import installed_requirements

    pins = dict(item.split("==") for item in installed_requirements())
    assert pins["mlflow"] == mlflow.__version__
    assert "+" not in pins["torch"]


def test_every_dependency_says_why_it_is_there():
    lines = (ROOT / "setup.cfg").read_text().splitlines()
    asked_for = {str(item) for item in requirements(*NEEDED_BY_LDM)}
    for number, line in enumerate(lines):
        if re.match(r"    [\w-]+[><=!]", line) and str(Requirement(line)) in asked_for:
            assert lines[number - 1].strip().startswith("#"), line


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md"])  # of docs/: test_documents.py
def test_python_snippets_of_the_docs_run(store, page):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})
    mlflow_carbon.autolog(disable=True)  # a snippet switches it on


def test_docs_show_only_options_that_exist():
    from ldm_project.config import CompareConfig, StudyConfig, SynthConfig, TrainRunConfig
    from mlflow_carbon.cli import cli

    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    options = {
        option for command in cli.commands.values() for p in command.params for option in p.opts
    }
    for line in re.findall(r"mlflow-carbon .*", text):
        assert set(re.findall(r"--[a-z0-9-]+", line)) <= options | {"--help"}, line
    configs = (SynthConfig(), TrainRunConfig(), StudyConfig(), CompareConfig())
    parameters = {name for config in configs for name in vars(config)}
    assert set(re.findall(r"-P (\w+)=", text)) <= parameters


def test_citation_names_this_version_and_can_be_read():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == mlflow_carbon.__version__
    assert citation["license"] == setup_cfg()["metadata"]["license"]
    required = {"cff-version", "message", "title", "authors"}  # of the format's schema 1.2.0
    assert required <= citation.keys()
