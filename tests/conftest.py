"""Fixtures that several test files share: one's own store, a meter, models, one torch thread."""

import functools
import gc
import itertools
import logging
import multiprocessing.spawn
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path

import hypothesis
import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.store.db import utils as db_utils
from mlflow.tracking import fluent
from mlflow.utils.autologging_utils import AUTOLOGGING_INTEGRATIONS

import mlflow_carbon
from mlflow_carbon.registry.run_models import record_run_models
from mlflow_carbon.testing.meter import FakeMeter, meter_process_by, reading
from mlflow_carbon.tracking.patches import INTEGRATION
from tests.fakes.metered_runs import write_run
from tests.fakes.warm_python import warm_python

os.environ.setdefault("OMP_NUM_THREADS", "1")

# MONAI loads transformers where it is there, for seconds; it is there for one test's own process.
sys.modules["transformers"] = None

# A busy machine is slow; that is no fault of what is tested.
hypothesis.settings.register_profile("no_deadline", deadline=None)
hypothesis.settings.load_profile("no_deadline")

ROOT = Path(__file__).parent.parent
collect_ignore = ["versions"]  # for environments of their own: see there
TESTS_BETWEEN_COLLECTIONS = 100
num_ended = itertools.count(1)
# What the tools that check this folder keep in it, and Python beside what it imports.
KEPT_BY_TOOLS = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "__pycache__")


def files_beside_the_code() -> set[str]:
    """Returns what git does not track in this checkout; empty where there is no git."""
    what = ["--ignored", "--untracked-files=all", "--", ".", ":(exclude).venv"]
    listed = ["git", "status", "--porcelain", "-z", *what]
    done = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=False)
    paths = {entry[3:] for entry in done.stdout.split("\0") if entry[:2] in ("!!", "??")}
    return {path for path in paths if not any(name in path for name in KEPT_BY_TOOLS)}


def pytest_configure(config):
    """Takes Ctrl-C as a terminal sends it: a job in the background inherits that it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session):
    """Spares looking for garbage among all that is loaded by now: an eighth of the quick tests."""
    spare_what_is_there()
    gc.set_threshold(50_000, 20, 50)


def pytest_runtest_logfinish(nodeid):
    """Spares it among what tests load: a study, which collects, took ten times as long."""
    if next(num_ended) % TESTS_BETWEEN_COLLECTIONS == 0:
        spare_what_is_there()


def spare_what_is_there():
    """Frees what nobody holds, and keeps the collector from all the rest."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session):
    """Notes what lies in the checkout before the first test."""
    session.config.files_before = files_beside_the_code()


def pytest_xdist_auto_num_workers(config):
    """Shares all tests by the cores, up to 8; a file that is named needs no second process."""
    if config.args_source == pytest.Config.ArgsSource.ARGS:
        return 0
    return min(8, len(os.sched_getaffinity(0)))


def is_worker(config) -> bool:
    """Returns whether this is one of several processes that share the tests (pytest-xdist)."""
    return hasattr(config, "workerinput")


def pytest_sessionfinish(session, exitstatus):
    """Fails a session whose tests have left something in the checkout, and says what."""
    if is_worker(session.config):
        return
    left = sorted(files_beside_the_code() - session.config.files_before)
    if left:
        session.config.files_left = left
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Says what the tests have left in the checkout."""
    for path in getattr(config, "files_left", ()):
        terminalreporter.write_line(f"LEFT IN THE CHECKOUT by a test: {path}", red=True)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """An empty sqlite store, migrated once: MLflow needs seconds for that."""
    folder = tmp_path_factory.mktemp("store")
    path = folder / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MLflow notes here, for all copies, where artifacts go
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session", autouse=True)
def newest_schema():
    """Lets MLflow find out once what the newest schema of a store is, which no test changes.

    It loads all its migrations for that whenever a store is opened: half of the time that takes.
    """
    with pytest.MonkeyPatch.context() as patch:
        newest = functools.cache(db_utils._get_latest_schema_revision)
        patch.setattr(db_utils, "_get_latest_schema_revision", newest)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_prompts():
    """Spares the look at a registered model before each of its tags: is it a prompt? None is here.

    That look takes two thirds of the time of a tag.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "_raise_if_prompt", lambda *_: None)
        yield


@contextmanager
def mlflow_variables_restored():
    """MLflow's variables as they were: `set_experiment` and others set some for child processes."""
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module", autouse=True)
def mlflow_environment_of_module():
    """What a module's own fixtures set stays in the module."""
    with mlflow_variables_restored():
        yield


@pytest.fixture(autouse=True)
def mlflow_environment():
    """MLflow's variables and our logger, which `autolog(silent=True)` disables, as they were."""
    with mlflow_variables_restored():
        yield
    logging.getLogger("mlflow.carbon").disabled = False


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what the project can make again, one for each test."""
    monkeypatch.setenv("LDM_PROJECT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    """A tracking store and registry on sqlite in the current folder; gives its URI."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_CARBON_JOURNAL_DIR", str(tmp_path / "journals"))
    # what set_experiment left in a test before
    monkeypatch.setattr(fluent, "_active_experiment_id", None)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    yield uri
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.fixture
def fake_meter(store):
    """The process's one meter, of which each interval costs 36 J; autologging is off at the end."""
    meter = FakeMeter([reading(cpu_joules=36)] * 100)
    with meter_process_by(meter):
        yield meter
        mlflow_carbon.autolog(disable=True)
        AUTOLOGGING_INTEGRATIONS[INTEGRATION] = {}


@pytest.fixture(scope="session")
def warm_python_folder():
    """A folder with executables that start at once, for this session."""
    with warm_python() as folder:
        yield folder


@pytest.fixture
def warm_start(warm_python_folder, monkeypatch):
    """Commands that the test starts begin at once; see tests/fakes/warm_python.py."""
    python = str(warm_python_folder / "python")
    monkeypatch.setattr(sys, "executable", python)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(python))
    monkeypatch.setenv("PATH", str(warm_python_folder), prepend=os.pathsep)


@pytest.fixture(scope="session")
def made_stores():
    """What `filled_store` has made so far: its result and its store, by the function that did."""
    return {}


@pytest.fixture
def filled_store(store, made_stores, tmp_path_factory):
    """Returns a function that fills the empty store by another, of which it returns the result.

    Each is called once: its store is kept, and copied for the tests that come later.
    """

    def filled(fill):
        here = store.removeprefix("sqlite:///")
        if fill not in made_stores:
            result = fill(MlflowClient(tracking_uri=store))
            kept = tmp_path_factory.mktemp("filled") / "mlflow.db"
            copy_database(here, kept)
            made_stores[fill] = (result, kept)
        result, kept = made_stores[fill]
        copy_database(kept, here)
        return result

    return filled


def copy_database(source, target):
    """Copies a sqlite database, also into one that is open."""
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


@pytest.fixture
def registered(filled_store):
    """A model of 0.2 kWh (75 g), one of 8 kWh (3 kg) and one that was not measured."""
    filled_store(register_three)


def register_three(client):
    for name, energy_kwh in (("small", 0.2), ("big", 8.0), ("unknown", None)):
        windows = [] if energy_kwh is None else [(energy_kwh, 100.0)]
        run_id = write_run(client, "train", windows=windows, unit="iteration")
        client.create_registered_model(name)
        client.create_model_version(name, "s3://bucket/model", run_id)
        record_run_models(client, run_id)
