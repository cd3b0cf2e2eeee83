"""The Python that is warm runs commands as Python does, and ends as they end."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = pytest.mark.slow

ECHO = """
import os, sys
print(sys.argv, os.getcwd(), os.environ["GIVEN"], sys.stdin.read(), __name__, sys.path[0])
os.write(int(sys.argv[1]), b"a file that was open")
sys.exit(3)
"""
LOADED = "import sys; print('torch' in sys.modules, 'mlflow' in sys.modules)"
PATIENCE_S = 900  # a busy machine takes minutes for what takes seconds


@pytest.fixture
def warm(warm_python_folder):
    return str(warm_python_folder / "python")


def answer_of(python, arguments, folder):
    """Returns how a Python ends, and what it writes to stdout, stderr and a file it is given."""
    read, write = os.pipe()
    done = subprocess.run(
        [python, *arguments, str(write)],
        cwd=folder,
        env={**os.environ, "GIVEN": "environment", "PYTHONPATH": ""},
        input="typed",
        capture_output=True,
        text=True,
        pass_fds=[write],
        check=False,
    )
    os.close(write)
    with os.fdopen(read, "rb") as written:
        return done.returncode, done.stdout, done.stderr, written.read()


@pytest.mark.parametrize(
    "arguments", [["-c", ECHO], ["echo.py"], ["-m", "echo"], ["-u", "echo.py"]]
)
def test_command_sees_and_leaves_the_same(warm, tmp_path, arguments):
    (tmp_path / "echo.py").write_text(ECHO)
    answer = answer_of(warm, arguments, tmp_path)
    assert answer == answer_of(sys.executable, arguments, tmp_path)
    assert (answer[0], answer[3]) == (3, b"a file that was open")


@pytest.mark.parametrize(
    "code", ["1 / 0", "import sys; sys.exit('why')", "import os; os.kill(os.getpid(), 9)", "None"]
)
def test_command_ends_the_same(warm, code):
    ours, real = (
        subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        for python in (warm, sys.executable)
    )
    assert ours.returncode == real.returncode
    assert ours.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_libraries_are_loaded_and_what_reads_the_environment_is_not(warm):
    done = subprocess.run([warm, "-c", LOADED], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signal_ends_the_fork_and_its_client(warm, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(1000)"
    with subprocess.Popen(
        [warm, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as it:
        fork = psutil.Process(int(it.stdout.readline()))
        it.send_signal(number)
        assert it.wait(PATIENCE_S) == -number
    deadline_s = time.monotonic() + PATIENCE_S
    while fork.is_running() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not fork.is_running()
