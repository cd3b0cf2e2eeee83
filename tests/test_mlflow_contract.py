"""What our code relies on in the installed MLflow beyond its documented interface.

A test that fails here says that MLflow has changed: ``mlflow_seams`` is the one file to mend. That
a feature whose names are gone is off, and nothing else, is tested here too.
"""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.projects.backend.abstract_backend import AbstractBackend

from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.mlflow_seams import SEAMS, Seam
from tests.test_house import modules, path_of

ROOT = Path(__file__).parent.parent
# What MLflow documents, or has kept since 1.x under a name without an underscore.
STABLE_MODULES = re.compile(
    r"mlflow(\.(client|data|entities|environment_variables|exceptions|models|protos|pyfunc|types)"
    r"(\.\w+)*"
    r"|\.store\.entities|\.projects\.submitted_run"
    r"|\.projects\.backend\.abstract_backend|\.tracking\.context\.abstract_context"
    r"|\.tracking(\.client|\.fluent)?|\.utils\.mlflow_tags|\.version)?"
)
PRIVATE_ATTRIBUTES = {
    name.rpartition(":")[2].rpartition(".")[2]
    for seam in SEAMS
    for names in seam.names
    for name in names
} - {"create_logged_model"}
PRIVATE_NAMES = {name for name in PRIVATE_ATTRIBUTES if name.startswith("_")}


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.feature)
def test_every_name_is_there(seam):
    assert seam.sentence() is None


def test_seam_with_alternatives_needs_only_one():
    real, gone = ("os:getpid",), ("os:no_such_name",)
    assert Seam("It", "Instead.", (gone, real)).missing() == ()
    assert Seam("It", "Instead.", (gone, gone)).missing() == gone


def test_missing_name_makes_a_sentence_of_what_is_off_and_what_is_done():
    seam = Seam("Flying", "Walk.", (("os:wings", "no_such_module:at_all"),))
    assert seam.sentence() == (
        "Flying: off, because this MLflow has no os.wings, no_such_module.at_all. Walk."
    )


LOADED_IN_ORDER = f"""
import sys
order = []
class Finder:
    def find_spec(self, name, path=None, target=None):
        order.append(name)
sys.meta_path.insert(0, Finder())
import mlflow
print(order.index("{mlflow_seams.AFTER_FLUENT}") - order.index("mlflow.tracking.fluent"))
"""


@pytest.mark.slow
def test_import_of_mlflow_loads_the_module_that_we_wait_for_after_fluent():
    printed = subprocess.run(
        [sys.executable, "-c", LOADED_IN_ORDER], capture_output=True, text=True, check=True
    ).stdout
    assert int(printed) > 0


@pytest.mark.slow
def test_active_runs_are_those_of_all_threads(store):
    with mlflow.start_run() as parent, mlflow.start_run(nested=True) as child:
        assert [run.info.run_id for run in mlflow_seams.active_runs()] == [
            parent.info.run_id,
            child.info.run_id,
        ]


@pytest.mark.slow
def test_current_experiment_is_the_one_that_was_set(store):
    assert mlflow_seams.current_experiment_id() == "0"
    experiment = mlflow.set_experiment("other")
    assert mlflow_seams.current_experiment_id() == experiment.experiment_id


def test_context_tags_name_the_source_and_keep_ours(store):
    tags = mlflow_seams.with_context_tags({"mine": "1"})
    assert tags["mine"] == "1"
    assert "mlflow.source.name" in tags


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("create_run", ["experiment_id", "start_time"]),
        ("log_metric", ["run_id"]),
        ("log_batch", ["run_id", "metrics"]),
        ("log_param", ["run_id"]),
        ("log_artifact", ["run_id"]),
        ("log_artifacts", ["run_id"]),
        ("set_terminated", ["run_id", "status"]),
        ("update_run", ["run_id", "status"]),
        ("log_inputs", ["run_id"]),
        ("copy_model_version", []),
    ],
)
def test_calls_that_we_go_around_take_what_we_read_from_them(method, first):
    names = list(inspect.signature(getattr(MlflowClient, method)).parameters)
    assert names[: len(first) + 1] == ["self", *first]


def test_local_backend_is_run_as_every_backend():
    asked_for = list(inspect.signature(AbstractBackend.run).parameters)
    assert list(inspect.signature(mlflow_seams.local_backend().run).parameters) == asked_for[1:]


def test_fetched_project_is_its_folder(tmp_path):
    (tmp_path / "MLproject").write_text("entry_points: {main: {command: 'true'}}\n")
    assert mlflow_seams.fetch_project(str(tmp_path), None, "main", {}) == str(tmp_path)


# Nobody else knows a private name


@pytest.mark.parametrize(
    "module", [name for package in ("mlflow_carbon", "ldm_project") for name in modules(package)]
)
def test_no_other_file_knows_a_private_or_unstable_name_of_mlflow(module):
    if module == "mlflow_carbon.tracking.mlflow_seams":
        return
    for node in ast.walk(ast.parse(path_of(module).read_text())):
        if isinstance(node, ast.ImportFrom) and re.match(r"mlflow(\.|$)", node.module or ""):
            assert STABLE_MODULES.fullmatch(node.module), node.module
            assert not [alias.name for alias in node.names if alias.name.startswith("_")]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if re.match(r"mlflow(\.|$)", alias.name):
                    assert STABLE_MODULES.fullmatch(alias.name), alias.name
        elif isinstance(node, ast.Attribute):
            assert node.attr not in PRIVATE_ATTRIBUTES, node.attr
        elif isinstance(node, ast.Constant):  # as getattr() takes it
            assert node.value not in PRIVATE_NAMES, node.value


# A release that lacks a name

WITHOUT = """
import json, os, sys
import mlflow

class Without:
    "What MLflow would be without a name: ours find nothing, MLflow itself goes on."
    def __init__(self, real, path):
        self.__dict__.update(real=real, path=path)
    def __getattr__(self, name):
        if self.path == [name]:
            raise AttributeError(name)
        value = getattr(self.real, name)
        return Without(value, self.path[1:]) if name == self.path[0] else value

for name in sys.argv[1:]:
    module, _, path = name.partition(":")
    __import__(module)
    sys.modules[module] = Without(sys.modules[module], path.split("."))

from mlflow_carbon.tracking import mlflow_seams
from mlflow_carbon.tracking.mlflow_autolog import follow_mlflow

os.environ["MLFLOW_CARBON_AUTOLOG"] = "true"
follow_mlflow()
experiment_id = mlflow_seams.current_experiment_id()
mlflow_seams.with_context_tags({})
mlflow_seams.without_prompt_checks(mlflow.MlflowClient())
loader = mlflow.projects.loader
mlflow_seams.replace_local_backend(loader, loader.MLFLOW_BACKENDS["local"])
with mlflow.start_run(experiment_id=experiment_id) as run:
    mlflow.log_metric("loss", 1.0)
    sum(i * i for i in range(10**6))
data = mlflow.get_run(run.info.run_id).data
is_metered = "carbon.schema" in data.tags
print(json.dumps([data.metrics.get("loss"), is_metered, mlflow_seams.features_off()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.feature)
def test_without_a_name_that_feature_is_off_and_all_else_works(seam, store):
    hidden = [names[0] for names in seam.names]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *hidden],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"MLFLOW_TRACKING_URI": store, "MLFLOW_CARBON_REGION": "SE"},
    )
    loss, is_metered, features_off = json.loads(done.stdout.splitlines()[-1])
    assert loss == 1.0
    assert is_metered is (seam is not mlflow_seams.AUTOLOGGING)
    (sentence,) = features_off
    assert sentence.startswith(f"{seam.feature}: off, because this MLflow has no ")
    assert done.stderr.count(sentence) == 1
    assert done.stderr.count(": off, because") == 1
