"""Beside MLflow 2 the plugin says in one line what it needs, and harms nothing."""

import os
import subprocess
import sys

SENTENCE = "mlflow-carbon needs MLflow 3.0 or later, and this is "
SCRIPT = """
import mlflow
mlflow.autolog(disable=True)
with mlflow.start_run() as run:
    mlflow.log_metric("loss", 1.0)
data = mlflow.get_run(run.info.run_id).data
print(data.metrics, [tag for tag in data.tags if tag.startswith("carbon")])
"""


def python(*arguments):
    environment = os.environ | {"MLFLOW_CARBON_AUTOLOG": "true"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment
    )


def test_mlflow_2_goes_on_and_one_line_says_what_is_needed(place):
    done = python("-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "{'loss': 1.0} []"
    assert done.stderr.count(SENTENCE) == 1


def test_call_of_ours_says_so_in_one_line(place):
    done = python("-c", "import mlflow_carbon; mlflow_carbon.track()")
    assert done.returncode == 1
    assert SENTENCE in done.stderr.splitlines()[-1]


def test_command_says_so_in_one_line(place):
    done = python("-m", "mlflow_carbon", "compare")
    assert (done.returncode, done.stdout) == (1, "")
    assert SENTENCE in done.stderr.splitlines()[-1]
