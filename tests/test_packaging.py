"""One set of pins: setup.cfg, constraints.txt and conda.yaml agree; the docs' snippets work."""

import configparser
import re
from pathlib import Path

import pytest
import yaml

import mlflow_carbon

ROOT = Path(__file__).parent.parent


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = (line.split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version for name, version in pins}


def requirements() -> list[str]:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = config["options"]["install_requires"] + config["options.extras_require"]["ldm"]
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_conda_pins_everything_that_is_asked_for_as_constraints_do():
    dependencies = yaml.safe_load((ROOT / "conda.yaml").read_text())["dependencies"]
    assert "python=3.11" in dependencies
    (listed,) = (item["pip"] for item in dependencies if isinstance(item, dict))
    assert listed[0] == "torch==2.13.0"
    assert listed[-1] == "."
    pinned = dict(item.lower().split("==") for item in listed[:-1])
    asked_for = {re.split(r"[=><]", item)[0].lower() for item in requirements()}
    assert asked_for <= pinned.keys()
    assert {name: constraints()[name] for name in pinned} == pinned


@pytest.mark.parametrize("requirement", requirements())
def test_constraints_fulfil_what_is_asked_for(requirement):
    name, relation, version = re.fullmatch(r"([\w-]+)(==|>=)([\d.]+)", requirement).groups()
    pinned = constraints()[name.lower()]
    as_numbers = [tuple(map(int, text.split("."))) for text in (pinned, version)]
    assert as_numbers[0] >= as_numbers[1]
    assert relation == ">=" or pinned == version


def test_every_dependency_says_why_it_is_there():
    lines = (ROOT / "setup.cfg").read_text().splitlines()
    for number, line in enumerate(lines):
        if line.strip() in requirements():
            assert lines[number - 1].strip().startswith("#"), line


@pytest.mark.parametrize("page", ["README.md", "docs/tracking.md", "docs/testing.md"])
def test_python_snippets_of_the_docs_run(store, page):
    snippets = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})
    mlflow_carbon.autolog(disable=True)  # a snippet switches it on


def test_docs_show_only_options_that_exist():
    from ldm_project.config import CompareConfig, SynthConfig, TrainRunConfig
    from mlflow_carbon.cli import cli

    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    options = {
        option for command in cli.commands.values() for p in command.params for option in p.opts
    }
    for line in re.findall(r"mlflow-carbon .*", text):
        assert set(re.findall(r"--[a-z0-9-]+", line)) <= options | {"--help"}, line
    parameters = {*vars(SynthConfig()), *vars(TrainRunConfig()), *vars(CompareConfig())}
    assert set(re.findall(r"-P (\w+)=", text)) <= parameters
