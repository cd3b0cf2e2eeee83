"""A real server with basic-auth, a user who may not do all, and nothing private in the store."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from mlflow import MlflowClient
from mlflow.server import get_app_client

from tests.fakes.mlflow_server import mlflow_server
from tests.fakes.recorded import recorded

USER, PASSWORD = "eve-the-reader", "evespassword-1234"
ADMIN, ADMIN_PASSWORD = "admin", "adminspassword-1234"
CANARY = "canary-of-the-environment-1234"

AUTH_CONFIG = f"""
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = sqlite:///auth.db
admin_username = {ADMIN}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""

# The registered model is the administrator's, who makes a version of what the user trains.
TRAINING = """
import sys
import mlflow, mlflow_carbon
from mlflow import MlflowClient
mlflow.set_experiment("work")
with mlflow.start_run() as run:
    run_id, experiment_id = run.info.run_id, run.info.experiment_id
    model = MlflowClient().create_logged_model(experiment_id, "m", source_run_id=run_id)
    with mlflow_carbon.track(region="SE", pue=1.2) as tracker:
        with tracker.window():
            sum(range(10**6))
        administrator = MlflowClient(sys.argv[1], registry_uri=sys.argv[1])
        source = f"models:/{model.model_id}"
        administrator.create_model_version("ldm", source, run_id, model_id=model.model_id)
print("trained")
"""

pytestmark = pytest.mark.slow


class Office(NamedTuple):
    """A server, its store, and what the user's training printed."""

    uri: str
    store: str
    folder: Path
    python: str
    training: subprocess.CompletedProcess[str]


def signed_in(uri: str, user: str, password: str) -> str:
    """Returns the URI with credentials in it, as people write it who should not."""
    return uri.replace("://", f"://{user}:{password}@")


def as_user(office_folder: Path, uri: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs a command line as the user who may only read the model."""
    environment = {
        "MLFLOW_TRACKING_URI": signed_in(uri, USER, PASSWORD),
        "MLFLOW_CARBON_JOURNAL_DIR": str(office_folder / "journals"),
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # MLflow's own lines show the URI
        "MY_API_KEY": CANARY,
    }
    return subprocess.run(
        command,
        cwd=office_folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def office(tmp_path_factory, warm_python_folder):
    """Two experiments, of which the user may edit one, and a model that he may only read."""
    folder = tmp_path_factory.mktemp("office")
    (folder / "auth.ini").write_text(AUTH_CONFIG)
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-key-of-this-server",
    }
    store = f"sqlite:///{folder}/mlflow.db"
    options = ["--app-name", "basic-auth"]
    python = f"{warm_python_folder}/python"
    with mlflow_server(
        store, folder, options=options, environment=environment, python=python
    ) as uri:
        admin = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": ADMIN_PASSWORD}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in admin.items():
                patch.setenv(name, value)
            client, auth = MlflowClient(tracking_uri=uri), get_app_client("basic-auth", uri)
            work = client.create_experiment("work")
            client.create_experiment("secret")
            client.create_registered_model("ldm")
            auth.create_user(USER, PASSWORD)
            auth.grant_user_permission(USER, "experiment", work, "EDIT")
            auth.grant_user_permission(USER, "registered_model", "ldm", "READ")
        command = [sys.executable, "-c", TRAINING, signed_in(uri, ADMIN, ADMIN_PASSWORD)]
        yield Office(uri, store, folder, python, as_user(folder, uri, *command))


@pytest.fixture
def client(office):
    """Reads the store itself, past the server."""
    return MlflowClient(tracking_uri=office.store)


def test_training_ends_normally_with_one_warning(office, client):
    assert office.training.returncode == 0, office.training.stderr
    assert office.training.stdout.splitlines()[-1] == "trained"
    warnings = [
        line for line in office.training.stderr.splitlines() if "WARNING mlflow.carbon" in line
    ]
    # how fast this machine answers decides which of the two comes, or whether both do
    known = (
        "could not be put on version 1 of 'ldm' (permission denied).",
        "did not get their emissions in 15 s",
    )
    found = [text for line in warnings for text in known if text in line]
    assert found, office.training.stderr
    assert len(found) == len(warnings) == len(set(found)), office.training.stderr
    experiment = client.get_experiment_by_name("work")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert recorded(run)["energy_kwh"] > 0


def test_nothing_is_half_tagged(client):
    for entity in (client.get_model_version("ldm", "1"), client.get_registered_model("ldm")):
        assert not [key for key in entity.tags if key.startswith("carbon")]
    # the experiment is the user's: its logged model has the figures
    experiment = client.get_experiment_by_name("work")
    (model,) = client.search_logged_models([experiment.experiment_id])
    assert "carbon/co2e_kg" in {metric.key for metric in model.metrics}


def compare(office, *names):
    experiments = [word for name in names for word in ("--experiment", name)]
    return as_user(
        office.folder, office.uri, office.python, "-m", "mlflow_carbon", "compare", *experiments
    )


def test_compare_says_how_many_runs_it_could_see(office):
    done = compare(office, "work", "secret")
    assert done.returncode == 0, done.stderr
    assert "The server let you see 1 finished metered run of these experiments." in done.stderr
    assert "Left out experiment 'secret': you may not read it." in done.stderr


def test_compare_of_a_forbidden_experiment_says_so(office):
    done = compare(office, "secret")
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("Error: You may not read experiment 'secret' in http://***@127.0.0.1:")


def test_tag_models_says_what_it_may_not_write(office):
    done = as_user(
        office.folder, office.uri, office.python, "-m", "mlflow_carbon", "tag-models", "ldm"
    )
    assert done.returncode == 1
    assert "Not written on version 1 of 'ldm' (permission denied)." in done.stderr


def carbon_texts(store: str) -> list[str]:
    """Returns everything of ours in the database: keys and values of all tables' rows."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        tables = [
            row[0]
            for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        rows = [row for table in tables for row in database.execute(f'SELECT * FROM "{table}"')]
    return [str(row) for row in rows if any("carbon" in str(cell) for cell in row)]


def test_store_and_output_hold_nothing_private(office):
    texts = carbon_texts(office.store)
    assert len(texts) > 20
    private = [USER, PASSWORD, ADMIN_PASSWORD, CANARY, "127.0.0.1", os.uname().nodename]
    for secret in private:
        assert not [text for text in texts if secret in text], secret
    outputs = [office.training.stdout, office.training.stderr]
    for done in (compare(office, "work"), compare(office, "secret")):
        outputs += [done.stdout, done.stderr]
    outputs += [path.read_text() for path in office.folder.glob("journals/*")]
    for secret in (USER, PASSWORD, ADMIN_PASSWORD, CANARY):
        assert not [text for text in outputs if secret in text], secret
