"""Scripts of users who changed no line: the environment alone has their runs metered."""

import signal
import socket
import sys

import pytest

from tests.fakes.recorded import recorded
from tests.fakes.user_scripts import ZERO_CODE, UserFolder, energy_joules, is_metered

WORK = "sum(i * i for i in range(10**6))"  # CPU time is counted in steps of 10 ms
OFF: dict[str, str] = {}


@pytest.fixture
def user(empty_store, tmp_path):
    return UserFolder(tmp_path, empty_store)


WITH_BLOCK = f"""
import mlflow
with mlflow.start_run():
    mlflow.log_metric("loss", 1.0)
    {WORK}
    print("the user's own line")
"""


@pytest.mark.slow
def test_with_block_is_metered_and_its_output_is_the_users(user):
    done = user.run(WITH_BLOCK)
    run = user.only_run()
    assert done.stdout == "the user's own line\n"
    assert run.info.status == "FINISHED"
    assert energy_joules(run) > 0
    assert recorded(run)["pue"] == 1.2
    assert (run.data.tags["carbon.region"], run.data.tags["carbon.scope"]) == ("SE", "run")
    assert "carbon.default.region" not in run.data.tags


@pytest.mark.slow
def test_bad_value_is_one_warning_and_no_tracking(user, warm_start):
    bad = {**ZERO_CODE, "MLFLOW_CARBON_PUE": "low"}
    done = user.run(WITH_BLOCK * 2, environment=bad)
    assert done.stderr.count("MLFLOW_CARBON_PUE is 'low'; give a number.") == 1
    assert [is_metered(run) for run in user.runs()] == [False, False]


@pytest.mark.slow
def test_implicit_run_is_metered_until_the_script_ends(user):
    user.run('import mlflow, time\nmlflow.log_metric("loss", 1.0)\ntime.sleep(0.5)\n')
    run = user.only_run()
    assert run.info.status == "FINISHED"
    assert recorded(run)["duration_s"] > 0.5


@pytest.mark.slow
def test_start_run_that_was_imported_before_autolog_is_metered(user, warm_start):
    script = """
from mlflow import start_run
import mlflow_carbon
mlflow_carbon.autolog(region="SE")
from mlflow import start_run as imported_after
with start_run():
    WORK
with imported_after():
    WORK
"""
    user.run(script.replace("WORK", WORK), environment=OFF)
    assert [energy_joules(run) > 0 for run in user.runs()] == [True, True]


@pytest.mark.slow
def test_nested_runs_are_kept_beside_the_parent_that_contains_them(user, warm_start):
    script = """
import mlflow
with mlflow.start_run():
    for _ in range(2):
        with mlflow.start_run(nested=True):
            WORK
"""
    user.run(script.replace("WORK", WORK))
    parent, *children = user.runs()
    assert [run.data.tags["carbon.scope"] for run in (parent, *children)] == [
        "parent",
        "run",
        "run",
    ]
    assert energy_joules(parent) >= sum(map(energy_joules, children))


@pytest.mark.slow
def test_run_resumed_by_another_process_adds_to_what_it_spent(user):
    user.run(WITH_BLOCK)
    first = user.only_run()
    user.run(WITH_BLOCK.replace("start_run()", f"start_run({first.info.run_id!r})"))
    resumed = user.only_run()
    assert energy_joules(resumed) > energy_joules(first)
    assert recorded(resumed)["duration_s"] > recorded(first)["duration_s"]


@pytest.mark.slow
def test_runs_in_threads_are_metered_each_by_one_meter(user, warm_start):
    script = """
import mlflow, threading, time
def work():
    with mlflow.start_run():
        WORK
        started.wait()
        samplers.append(sum(t.name != "MainThread" and "Carbon" in type(t).__name__
                            for t in threading.enumerate()))
        started.wait()
started, samplers = threading.Barrier(3), []
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(samplers)
"""
    done = user.run(script.replace("WORK", WORK))
    assert done.stdout == "[1, 1, 1]\n"
    assert [energy_joules(run) > 0 for run in user.runs()] == [True] * 3


@pytest.mark.slow
def test_failing_run_is_failed_with_its_energy_and_the_users_traceback(user, warm_start):
    script = f"""
import mlflow
with mlflow.start_run():
    {WORK}
    raise KeyError("the user's")
"""
    done = user.run(script, exit_code=1)
    assert done.stderr.rstrip().endswith('KeyError: "the user\'s"')
    assert user.only_run().info.status == "FAILED"
    assert energy_joules(user.only_run()) > 0


@pytest.mark.slow
def test_runs_that_nobody_ends_have_their_totals_when_the_script_ends(user):
    user.run(f"import mlflow\nmlflow.start_run()\nmlflow.start_run(nested=True)\n{WORK}\n")
    outer, inner = user.runs()
    assert energy_joules(outer) >= energy_joules(inner) > 0
    assert inner.info.status == "FINISHED"  # MLflow ends the innermost one only


@pytest.mark.slow
def test_killed_run_leaves_its_windows_to_recover(user):
    script = """
import mlflow, mlflow_carbon, os, signal
mlflow.start_run()
for _ in mlflow_carbon.windows(range(3), unit="epoch"):
    WORK
    if _ == 2: os.kill(os.getpid(), signal.SIGKILL)
"""
    user.run(script.replace("WORK", WORK), exit_code=-signal.SIGKILL)
    user.command(sys.executable, "-m", "mlflow_carbon", "recover")
    run = user.only_run()
    assert run.data.tags["carbon.unit"] == "epoch"
    assert recorded(run)["energy_kwh"] > 0


CLIENT_OWNER = """
from mlflow import MlflowClient
client = MlflowClient()
run_id = client.create_run("0").info.run_id
client.log_metric(run_id, "loss", 1.0)
client.set_terminated(run_id)
"""
CLIENT_LAUNCHER = """
from mlflow import MlflowClient
client = MlflowClient()
for _ in range(10):
    run_id = client.create_run("0").info.run_id
    client.log_param(run_id, "machine", "another")
client.search_runs(["0"])
"""
CLIENT_COPY = """
from mlflow import MlflowClient
client = MlflowClient()
run_id = client.create_run("0", start_time=1_700_000_000_000).info.run_id
client.log_metric(run_id, "loss", 1.0)
client.set_terminated(run_id, end_time=1_700_000_001_000)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "expected"),
    [(CLIENT_OWNER, [True]), (CLIENT_LAUNCHER, [False] * 10), (CLIENT_COPY, [False])],
    ids=["owner", "launcher", "copy"],
)
def test_clients_run_is_metered_where_its_work_is_done(user, script, expected):
    user.run(script)
    assert [is_metered(run) for run in user.runs()] == expected


@pytest.mark.slow
def test_project_of_others_is_metered_once_by_the_process_that_works(user):
    project = user.path / "foreign"
    project.mkdir()
    (project / "MLproject").write_text(
        "name: foreign\nentry_points:\n  main:\n    command: python train.py\n"
    )
    (project / "train.py").write_text(f"import mlflow\nwith mlflow.start_run():\n    {WORK}\n")
    uri = {"MLFLOW_TRACKING_URI": user.uri}
    user.command("mlflow", "run", "foreign", "--env-manager", "local", environment=ZERO_CODE | uri)
    run = user.only_run()
    assert run.info.status == "FINISHED"
    assert energy_joules(run) > 0
    assert run.data.tags["carbon.num_windows"] == "1"


@pytest.mark.slow
def test_spawned_data_loader_is_metered_once(user):
    script = """
import mlflow, torch
from torch.utils.data import DataLoader, TensorDataset
if __name__ == "__main__":
    with mlflow.start_run():
        data = TensorDataset(torch.arange(8))
        loader = DataLoader(data, num_workers=2, multiprocessing_context="spawn")
        print(sum(int(x) for (x,) in loader))
"""
    done = user.run(script)
    assert done.stdout == "28\n"
    assert energy_joules(user.only_run()) > 0


NOTEBOOK = """
import nbformat
from nbclient import NotebookClient
cells = ["import mlflow", "run = mlflow.start_run()", "WORK", "mlflow.log_metric('loss', 1.0)",
         "mlflow.end_run()", "print('done')"]
notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
NotebookClient(notebook, kernel_name="python3").execute()
print([output.text for cell in notebook.cells for output in cell.outputs
       if output.get("name") == "stdout"])
"""


@pytest.mark.slow
def test_notebook_is_metered(user):
    done = user.run(NOTEBOOK.replace("WORK", WORK))
    assert done.stdout == "['done\\n']\n"
    assert energy_joules(user.only_run()) > 0


@pytest.mark.slow
def test_nothing_of_the_machine_or_the_environment_is_written(user):
    secret = {"API_TOKEN": "tok-5f1c", "MLFLOW_TRACKING_PASSWORD": "pw-77aa", "USER": "usr-42ce"}
    done = user.run(WITH_BLOCK, environment={**ZERO_CODE, **secret, "LOGNAME": "usr-42ce"})
    data = user.only_run().data
    ours = {key: value for key, value in data.tags.items() if key.startswith("carbon.")}
    written = f"{ours} {done.stdout} {done.stderr}"
    assert ours
    for private in (*secret.values(), socket.gethostname(), str(user.path)):
        assert private not in written, private
